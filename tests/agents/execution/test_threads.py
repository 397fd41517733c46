"""The number of torch's threads as a context."""

import pytest
import torch

from scg.agents.execution.threads import torch_threads


def test_the_number_of_threads_is_put_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
