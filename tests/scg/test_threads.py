"""Two threads may evaluate one graph: objectives with `trains=` change no module."""

import threading

import torch
from torch import nn

import scg


def graph_of_two(actor, critic):
    graph = scg.Graph()
    graph.deterministic(lambda o: actor(o), name="h")
    graph.cost(lambda h, o: (h + critic(o)).squeeze(-1) ** 2, name="loss", trains=actor)
    return graph


def test_threads_that_sample_one_graph_leave_its_modules_as_they_were():
    actor, critic = nn.Linear(3, 1), nn.Linear(3, 1)
    graph, obs = graph_of_two(actor, critic), torch.randn(4, 3)
    graph.sample(o=obs)
    before = dict(critic.named_parameters())

    threads = [threading.Thread(target=lambda: [graph.sample(o=obs) for _ in range(300)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(p is before[name] and p.requires_grad for name, p in critic.named_parameters())


def test_a_thread_that_reads_a_module_meanwhile_has_its_gradient():
    """The parameters are detached for the functions of the evaluating thread only."""
    actor, critic = nn.Linear(3, 1), nn.Linear(3, 1)
    obs, seen, own = torch.randn(4, 3), [], []

    def cost(h, o):
        other = threading.Thread(target=lambda: seen.append(critic(o).requires_grad))
        other.start()
        other.join()
        own.append(critic(o).requires_grad)
        return (h + critic(o)).squeeze(-1) ** 2

    graph = scg.Graph()
    graph.deterministic(lambda o: actor(o), name="h")
    graph.cost(cost, name="loss", trains=actor)
    graph.surrogate(o=obs).backward()
    assert seen
    assert all(seen)
    assert not own[-1]
    assert critic.weight.grad is None
    assert actor.weight.grad is not None


def test_a_module_that_estimates_draws_from_every_sampler():
    """Its own parameters are detached while it draws; torch's samplers take shapes that must stay shapes."""

    class Learned(scg.ScoreFunction, nn.Module):
        def __init__(self):
            nn.Module.__init__(self)
            object.__setattr__(self, "samples", 1)
            self.weight = nn.Parameter(torch.ones(()))

        __hash__ = nn.Module.__hash__

    for distribution in (torch.distributions.Cauchy, torch.distributions.Laplace):
        graph = scg.Graph()
        graph.stochastic(Learned(), lambda loc, d=None, made=distribution: made(loc, 1.0), name="x", parents=["loc"])
        graph.cost(lambda x: torch.tanh(x), name="c")
        assert graph.sample(loc=torch.zeros((), requires_grad=True))["x"].shape == ()
