import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def double_precision_and_a_seed():
    """Exact tests compare to rounding; every test starts from the same random stream."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
