"""Several objectives in one graph: each one's gradient reaches what it trains, and nothing else."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import scg
from scg import detach, dist, prev
from scg.estimators import NoGradient, Pathwise, ScoreFunction


class Actor(nn.Module):
    def __init__(self, encoder=None):
        super().__init__()
        self.encoder = encoder or nn.Identity()
        self.mean = nn.Linear(3, 2)

    def forward(self, obs):
        return Independent(Normal(self.mean(self.encoder(obs)), 0.5), 1)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, obs, action):
        return self.net(torch.cat([obs, action], -1)).squeeze(-1)


def actor_critic(actor, critic, target, log_alpha, estimator=None):
    """Soft actor-critic: a Bellman cost, an actor cost through the critic, a temperature cost."""
    graph = scg.Graph()
    graph.stochastic(NoGradient(), actor, name="next_action", parents=["next_obs"])

    @graph.deterministic
    def soft_target(reward, next_obs, next_action, pi=dist("next_action")):
        return reward + 0.9 * (target(next_obs, next_action) - log_alpha().exp() * pi.log_prob(next_action))

    @graph.cost(trains=critic)
    def bellman(obs, action, y=detach("soft_target")):
        return (critic(obs, action) - y).square() / 2

    graph.stochastic(estimator or Pathwise(), actor, name="new_action", parents=["obs"])

    @graph.cost(trains=actor)
    def soft_policy(obs, new_action, pi=dist("new_action")):
        return log_alpha().exp() * pi.log_prob(new_action) - critic(obs, new_action)

    @graph.cost(trains=log_alpha)
    def temperature(new_action=detach("new_action"), pi=detach(dist("new_action"))):
        return -log_alpha().exp() * (pi.log_prob(new_action) - 2.0)

    return graph


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(-0.3))

    def forward(self):
        return self.value


@pytest.fixture
def parts():
    return {"actor": Actor(), "critic": Critic(), "target": Critic(), "log_alpha": Scalar()}


def batch():
    return {"obs": torch.randn(6, 3), "next_obs": torch.randn(6, 3), "action": torch.randn(6, 2), "reward": torch.randn(6)}


def gradients(parts):
    return {name: [None if p.grad is None else p.grad.clone() for p in part.parameters()] for name, part in parts.items()}


TRAINS = {"bellman": "critic", "soft_policy": "actor", "temperature": "log_alpha"}


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction()], ids=["pathwise", "score function"])
@pytest.mark.parametrize("cost", TRAINS)
def test_only_what_an_objective_trains_has_gradients(parts, cost, estimator):
    graph = actor_critic(**parts, estimator=estimator)
    graph.sample(**batch()).surrogate(cost).backward()
    for name, found in gradients(parts).items():
        if name == TRAINS[cost]:
            assert all(g is not None and bool((g != 0).any()) for g in found)
        else:
            assert all(g is None for g in found), f"{cost} left a gradient in {name}"


def test_the_sum_of_all_objectives_gives_each_its_own_gradient(parts):
    graph = actor_critic(**parts)
    data, noise = batch(), torch.Generator().manual_seed(1)
    graph.surrogate(generator=noise, **data).backward()
    together = gradients(parts)
    for cost, name in TRAINS.items():
        for part in parts.values():
            part.zero_grad()
        graph.sample(generator=torch.Generator().manual_seed(1), **data).surrogate(cost).backward()
        for mine, alone in zip(together[name], gradients(parts)[name], strict=True):
            assert torch.allclose(mine, alone)
    assert all(g is None for g in together["target"])


def test_an_objective_differentiates_through_what_it_does_not_train(parts):
    """The actor's gradient is that of a frozen critic, by autograd with inputs=."""
    graph, data = actor_critic(**parts), batch()
    trace = graph.sample(**data)
    trace.surrogate("soft_policy").backward(retain_graph=True)
    pi = parts["actor"](data["obs"])
    action = pi.mean + pi.stddev * ((trace["new_action"] - pi.mean) / pi.stddev).detach()
    loss = (parts["log_alpha"]().exp().detach() * pi.log_prob(action) - parts["critic"](data["obs"], action)).mean()
    by_hand = torch.autograd.grad(loss, list(parts["actor"].parameters()))
    for mine, other in zip(parts["actor"].parameters(), by_hand, strict=True):
        assert torch.allclose(mine.grad, other)


def test_compiled_objectives_leave_nothing_behind_either(parts):
    graph, data = actor_critic(**parts), batch()
    graph.surrogate(**data)  # what each objective reaches is learned here
    compiled = torch.compile(lambda **d: graph.sample(**d).surrogate("soft_policy"), fullgraph=True, backend="aot_eager")
    compiled(**data).backward()
    assert all(g is not None for g in gradients(parts)["actor"])
    assert all(g is None for name in ("critic", "target", "log_alpha") for g in gradients(parts)[name])


def test_objectives_that_are_compiled_before_they_were_seen_are_learned_while_they_are_traced(parts):
    graph, data = actor_critic(**parts), batch()
    compiled = torch.compile(lambda **d: graph.sample(**d).surrogate("soft_policy"), fullgraph=True, backend="aot_eager")
    compiled(**data).backward()
    assert all(g is not None for g in gradients(parts)["actor"])
    assert all(g is None for name in ("critic", "target", "log_alpha") for g in gradients(parts)[name])


def shared(encoder, policy, value):
    """One encoder below a policy and a value; each objective trains it in part, or not at all."""
    graph = scg.Graph()
    graph.deterministic(encoder, name="h", parents=["obs"])
    graph.stochastic(Pathwise(), lambda h: Independent(Normal(policy(h), 1.0), 1), name="a")
    graph.cost(lambda a, h: (a - 1).square().sum(-1) + h.sum(-1), name="act", trains=policy)
    graph.cost(lambda a, h: (value(h).squeeze(-1) - a.sum(-1)).square(), name="judge", trains=(encoder, value))
    return graph


def test_shared_nodes_that_reach_trained_and_untrained_parameters():
    """`a` is mixed for `judge`: encoder yes, policy no. Its gradient equals the one with the policy frozen by hand."""
    encoder, policy, value = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)
    parts = {"encoder": encoder, "policy": policy, "value": value}
    graph, obs = shared(**parts), torch.randn(5, 3)
    trace = graph.sample(obs=obs)
    trace.surrogate("act").backward(retain_graph=True)
    found = gradients(parts)
    assert all(g is None for name in ("encoder", "value") for g in found[name]) and found["policy"][0] is not None
    policy.zero_grad()
    trace.surrogate("judge").backward()
    assert all(p.grad is None for p in policy.parameters())
    noise = (trace["a"] - policy(encoder(obs))).detach()
    h = encoder(obs)
    a = nn.functional.linear(h, policy.weight.detach(), policy.bias.detach()) + noise
    loss = (value(h).squeeze(-1) - a.sum(-1)).square().mean()
    by_hand = torch.autograd.grad(loss, [*encoder.parameters(), *value.parameters()])
    for mine, other in zip([*encoder.parameters(), *value.parameters()], by_hand, strict=True):
        assert torch.allclose(mine.grad, other)


def test_the_random_stream_is_the_same_with_and_without_a_second_objective():
    encoder, policy, value = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)
    obs = torch.randn(5, 3)
    draws = [shared(encoder, policy, value).sample(generator=torch.Generator().manual_seed(2), obs=obs)["a"] for _ in range(2)]
    assert torch.equal(*draws)


def test_objectives_inside_a_recurrent_sequence():
    """A recurrence through an encoder that one objective trains and the other does not."""
    cell, head = nn.Linear(2, 2), nn.Linear(2, 1)
    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(lambda h, x: torch.tanh(cell(h)) + x, name="h", parents=[prev("h", init="h0"), "x"])
        graph.stochastic(ScoreFunction(), lambda h: Normal(head(h).squeeze(-1), 1.0), name="a")
        graph.observed("x")
        graph.cost(lambda a, h: a**2 + h.sum(-1), name="act", trains=head)
        graph.cost(lambda h: h.square().sum(-1), name="fit", trains=cell)
    inputs = {"h0": torch.zeros(4, 2), "x": torch.randn(3, 4, 2)}
    parts = {"cell": cell, "head": head}
    for cost, name in (("act", "head"), ("fit", "cell")):
        for part in parts.values():
            part.zero_grad()
        graph.sample(**inputs).surrogate(cost).backward()
        found = gradients(parts)
        assert all((g is not None) == (part == name) for part, g in ((p, g) for p in found for g in found[p]))


def test_inputs_can_be_what_an_objective_trains():
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    graph = scg.Graph()
    graph.cost(lambda a, b: a**2 * b, name="f", trains="a")
    graph.cost(lambda a, b: a * b**2, name="g", trains=["b"])
    trace = graph.sample(a=a, b=b)
    trace.surrogate("f").backward()
    assert a.grad == 4.0 and b.grad is None
    a.grad = None
    trace.surrogate("g").backward()
    assert a.grad is None and b.grad == 4.0


def test_a_parameter_that_cannot_be_kept_out_is_refused():
    """A bare tensor in a closure is no module and no input: nothing can swap it. Asked again, it is refused again."""
    loose, actor = torch.tensor(1.0, requires_grad=True), nn.Linear(1, 1)
    graph = scg.Graph()
    graph.cost(lambda x: actor(x).squeeze(-1), name="good", trains=actor)
    graph.cost(lambda x: (actor(x) * loose).squeeze(-1), name="f", trains=actor)
    trace = graph.sample(x=torch.ones(3, 1))
    trace.surrogate("good")
    for _ in range(2):
        with pytest.raises(
            scg.GraphError, match=r"cost 'f': its gradient would reach a tensor of shape \(\), which it does not train"
        ):
            trace.surrogate("f")


def test_what_trains_names_must_exist():
    graph = scg.Graph()
    graph.cost(lambda theta: theta**2, name="f", trains="thet")
    with pytest.raises(scg.GraphError, match="trains='thet' is no input of the graph. Did you mean 'theta'"):
        graph.surrogate(theta=torch.tensor(1.0, requires_grad=True))


@pytest.mark.parametrize("trained", ["policy", "value"])
def test_a_weight_cannot_leave_out_a_detached_path_of_an_objective_that_trains_its_node(trained):
    """A learned baseline reads the sample on both ways and is right: no weight of its node counts for it."""
    policy, value = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda x: Normal(policy(x).squeeze(-1), 1.0), name="a")
    graph.cost(
        lambda a, b: (value(a.unsqueeze(-1)).squeeze(-1) - b) ** 2,
        name="c",
        parents=["a", detach("a")],
        trains={"policy": policy, "value": value}[trained],
    )
    if trained == "value":
        graph.surrogate(x=torch.ones(4, 1)).backward()
        assert policy.weight.grad is None and value.weight.grad is not None
        return
    with pytest.raises(
        scg.GraphError, match="node 'a': the cost 'c' depends on it with a gradient, and beside that through detach"
    ):
        graph.surrogate(x=torch.ones(4, 1))


def test_what_an_objective_does_not_read_is_not_evaluated_again_for_it():
    """Two heads on one trunk that both objectives train: each head runs once."""
    torch.manual_seed(0)
    trunk, calls = nn.Linear(3, 3), []

    class Head(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.trunk, self.last, self.name = trunk, nn.Linear(3, 1), name

        def forward(self, h):
            calls.append(self.name)
            return self.last(h).squeeze(-1)

    one, two = Head("one"), Head("two")
    graph = scg.Graph()
    graph.deterministic(trunk, name="h", parents=["x"])
    graph.deterministic(one, name="a", parents=["h"])
    graph.deterministic(two, name="b", parents=["h"])
    graph.cost(lambda a: a.square(), name="first", trains=one)
    graph.cost(lambda b: b.square(), name="second", trains=two)
    x = torch.randn(5, 3)
    for _ in range(2):  # examined, and once more
        graph.surrogate(x=x)
    calls.clear()
    parameters = [*dict.fromkeys([*one.parameters(), *two.parameters()])]
    found = torch.autograd.grad(graph.surrogate(x=x), parameters)
    assert calls == ["one", "two"]
    h = trunk(x)
    wanted = torch.autograd.grad((one(h).square() + two(h).square()).mean(), parameters)
    for ours, by_hand in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, by_hand)
