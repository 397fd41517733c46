"""The gradient estimator on paper: letter by letter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import Graph, GraphError, Pathwise, ScoreFunction, detach, dist, prev
from scg.derivation import derive
from scg.estimators import Clipped, Enumeration, LeaveOneOut, NoGradient
from scg.estimators.credit import GAE
from tests.scg.draw.graphs import FIVE, actor_critic, fifth, first, fourth, mixed, recurrent, sac


def estimator(graph: Graph, *wrt: str) -> str:
    (equation,) = derive(graph, wrt or None).equations
    return equation.unicode.estimator


# -- the table of the 2015 paper -----------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "objective", "formula"), FIVE, ids=[make.__name__ for make, *_ in FIVE])
def test_the_papers_five_graphs_have_the_papers_five_estimators(make, objective, formula):
    (equation,) = make().derivation(wrt=["theta"]).equations
    assert equation.unicode.value == objective
    assert equation.unicode.estimator == formula
    assert str(equation) == f"∂J/∂θ = E[ {formula} ]"


def test_the_same_in_latex():
    derivation = first().derivation()
    assert r"J &= \mathbb{E}_{y}\left[ f(y) \right]" in derivation.latex
    assert r"\frac{\partial x}{\partial \theta} \, \frac{\partial}{\partial x} \log p(y \mid x) f(y)" in derivation.latex
    assert r"\frac{\partial y}{\partial \theta} \, \frac{\partial f}{\partial y}" in fourth().derivation().latex
    assert r"\log p(x_{1};\, \theta, x_{0}) \left(f_{1}(x_{1}) + f_{2}(x_{2})\right)" in fifth().derivation(["theta"]).latex


def test_each_stochastic_nodes_downstream_costs_are_named():
    text = fifth().derivation().unicode
    assert "x₁ ~ p(x₁; θ, x₀)  ScoreFunction; costs downstream: f1, f2" in text
    assert "x₂ ~ p(x₂; θ, x₁)  ScoreFunction; costs downstream: f2" in text


def test_terms_are_structured():
    derivation = fifth().derivation(["theta"])
    assert [(t.kind, t.node, t.costs) for t in derivation.terms] == [
        ("likelihood-ratio", "x1", ("f1", "f2")),
        ("likelihood-ratio", "x2", ("f2",)),
    ]
    ratio, direct = fourth().derivation().terms
    assert (ratio.kind, ratio.node, ratio.paths) == ("likelihood-ratio", "x", (("x",),))
    assert (direct.kind, direct.node, direct.paths) == ("direct", "f", (("y", "f"),))


# -- paths ---------------------------------------------------------------------------------------------------


def test_every_path_is_a_product_of_its_own():
    assert [t.unicode for t in mixed().derivation().terms] == [
        "(∂a/∂θ ∂z/∂a ∂/∂z log p(y | z, a) + ∂b/∂θ ∂z/∂b ∂/∂z log p(y | z, a) + ∂a/∂θ ∂b/∂a ∂z/∂b ∂/∂z log p(y | z, a)"
        " + ∂a/∂θ ∂/∂a log p(y | z, a)) (f(y, z(ε, a, b)) − 0.5)",
        "∂a/∂θ ∂z/∂a ∂f/∂z",
        "∂b/∂θ ∂z/∂b ∂f/∂z",
        "∂a/∂θ ∂b/∂a ∂z/∂b ∂f/∂z",
        "∂a/∂θ ∂z/∂a ∂r/∂z",
        "∂b/∂θ ∂z/∂b ∂r/∂z",
        "∂a/∂θ ∂b/∂a ∂z/∂b ∂r/∂z",
    ]
    assert {t.kind for t in mixed().derivation().terms} == {"likelihood-ratio", "pathwise"}


def test_a_pathwise_sample_is_a_function_of_its_noise():
    derivation = mixed().derivation()
    assert derivation.equations[0].unicode.value == "E_{ε,y}[ f(y, z(ε, a, b)) − r(z(ε, a, b), sg(y)) ]"
    assert "z = z(ε, a, b)" in derivation.unicode


def test_two_pathwise_samples_have_their_own_noise():
    graph = Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(Pathwise(), lambda x: Normal(x, 1.0), name="y")
    graph.cost(lambda y: y, name="f")
    (equation,) = derive(graph).equations
    assert equation.unicode.value == "E_{ε_x,ε_y}[ f(y(ε_y, x)) ]"
    assert equation.unicode.estimator == "∂x/∂θ ∂y/∂x ∂f/∂y"


def test_switching_one_estimator_turns_its_term_from_a_score_into_paths():
    assert estimator(first().with_estimators(y=Pathwise())) == "∂x/∂θ ∂y/∂x ∂f/∂y"
    assert estimator(fifth().with_estimators(x1=Pathwise()), "theta") == (
        "(∂/∂θ log p(x₂; θ, x₁) + ∂x₁/∂θ ∂/∂x₁ log p(x₂; θ, x₁)) f₂(x₂) + ∂x₁/∂θ ∂f₁/∂x₁"
    )


def test_detach_cuts_a_path_and_a_score_node_blocks_one():
    graph = Graph()
    graph.deterministic(lambda theta: theta, name="a")
    graph.stochastic(ScoreFunction(), lambda a: Normal(a, 1.0), name="x")
    graph.cost(lambda x, a: x * a, name="f", parents=["x", detach("a")])
    assert estimator(graph) == "∂a/∂θ ∂/∂a log p(x | a) f(x, sg(a(θ)))"


def test_a_sample_that_reaches_a_cost_only_through_detach_has_no_term():
    graph = Graph()
    graph.stochastic(NoGradient(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x, theta: x * theta, name="f", parents=[detach("x"), "theta"])
    derivation = derive(graph)
    assert derivation.equations[0].unicode.estimator == "∂f/∂θ"
    assert "no cost is downstream of it with a gradient" in derivation.unicode


def test_a_distribution_edge_is_differentiated_through_its_parameters():
    graph = Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x, p=dist("x"): p.log_prob(x), name="f")
    assert estimator(graph) == "∂x/∂θ ∂f/∂x + ∂p_x/∂θ ∂f/∂p_x"


def test_more_paths_than_one_can_read_become_a_total_derivative():
    graph = Graph()
    graph.deterministic(lambda theta: theta, name="h0")
    for i in range(5):
        graph.deterministic(lambda a, b: a + b, name=f"h{i + 1}", parents=[f"h{i}", "theta" if i % 2 else f"h{max(0, i - 1)}"])
    for i in range(5):
        graph.deterministic(lambda a, b, c: a + b + c, name=f"g{i + 1}", parents=[f"g{i}" if i else "h5", "h4", "h5"])
    graph.cost(lambda g: g, name="f", parents=["g5"])
    derivation = derive(graph)
    assert max(len(t.unicode) for t in derivation.terms) < 100
    assert "dg₄/dθ" in derivation.unicode
    assert "  dg₄/dθ = " in derivation.unicode


# -- baselines, credit, other estimators ---------------------------------------------------------------------


def test_a_baseline_is_subtracted_by_its_own_name():
    graph = Graph()
    graph.deterministic(lambda phi: phi, name="value")
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", baseline="value")
    graph.cost(lambda x: x**2, name="f")
    assert estimator(graph, "theta") == "∂/∂θ log p(x; θ) (f(x) − value(φ))"
    (term,) = derive(graph, ["theta"]).terms
    assert term.baseline == "value"


def test_a_baseline_function_is_b_of_its_parents():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", baseline=lambda s: s)
    graph.cost(lambda x, s: x * s, name="f")
    assert estimator(graph, "theta") == "∂/∂θ log p(x; θ) (f(x, s) − b_x(s))"


def test_a_credit_replaces_the_costs_downstream():
    graph = Graph()
    graph.deterministic(lambda s: s, name="q")
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", credit="q", baseline=1.0)
    graph.cost(lambda x: x, name="f")
    assert estimator(graph, "theta") == "∂/∂θ log p(x; θ) (q(s) − 1)"
    (term,) = derive(graph, ["theta"]).terms
    assert (term.credit, term.baseline, term.costs) == ("q", 1.0, ("f",))


def test_a_reward_counts_negative():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.reward(lambda x, theta: x * theta, name="r")
    assert estimator(graph) == "∂/∂θ log p(x; θ) (−r(x, θ)) − ∂r/∂θ"


@pytest.mark.parametrize("other", [LeaveOneOut(samples=4), Enumeration()], ids=repr)
def test_other_estimators_are_differentiated_through_their_weights(other):
    graph = Graph()
    graph.stochastic(other, lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda x: x, name="f")
    derivation = derive(graph)
    assert derivation.equations[0].unicode.estimator == "∂w_x/∂θ f(x)"
    assert f"{type(other).__name__}" in derivation.unicode
    assert "w are the weights of its branches, over which the term is summed" in derivation.unicode


def test_an_estimator_says_where_its_gradient_goes():
    class Relaxed(scg.Estimator):
        moves, weighs = True, False

        def branch(self, distribution):
            return scg.Branches(distribution.mean)

    graph = Graph()
    graph.stochastic(Relaxed(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda x: x, name="f")
    assert estimator(graph) == "∂x/∂θ ∂f/∂x"
    before = torch.get_rng_state()
    derive(graph)
    assert torch.equal(before, torch.get_rng_state())


def test_an_estimator_with_its_own_way_to_meet_a_credit_is_differentiated_through_it():
    policy = nn.Linear(1, 1)
    graph = Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.observed("reward", parents=["action"])
        graph.stochastic(Clipped(0.3), lambda obs: Normal(policy(obs), 1.0), name="action", credit=GAE())
        graph.reward(lambda reward: reward, name="gain")
    derivation = derive(graph)
    assert derivation.equations[0].unicode.estimator == "Σ_t ∂K_{action,t}/∂θ_policy"
    assert "K = combine(w, credit) of the estimator; credit: GAE" in derivation.unicode


def test_branches_are_said_to_be_averaged():
    graph = Graph()
    graph.stochastic(ScoreFunction(samples=4), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    assert "ScoreFunction(samples=4); the mean over its 4 branches" in derive(graph).unicode


# -- along time ----------------------------------------------------------------------------------------------


def test_along_time_a_score_is_weighed_with_what_comes_after():
    graph = Graph()
    with graph.sequence():
        graph.deterministic(lambda s, a: s + a, name="s", parents=[prev("s", init="s0"), prev("a", init="a0")])
        graph.stochastic(ScoreFunction(), lambda s, theta: Normal(s * theta, 1.0), name="a")
        graph.cost(lambda s: s**2, name="late")
        graph.cost(lambda a: a**2, name="now")
    assert estimator(graph, "theta") == "Σ_t ∂/∂θ log p(a_t; s_t, θ) (Σ_{t'≥t+1} late_{t'} + Σ_{t'≥t} now_{t'})"


def test_a_window_that_ends_is_a_sum_that_ends():
    graph = Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="a")
        graph.cost(lambda a, b: a * b, name="c", parents=["a", prev("a", init="a0")])
    assert estimator(graph, "theta") == "Σ_t ∂/∂θ log p(a_t; θ) Σ_{t'=t}^{t+1} c_{t'}"


def test_a_sample_before_the_sequence_answers_for_every_step():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="z")
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda z: Normal(z, 1.0), name="a")
        graph.cost(lambda a: a, name="c")
    assert estimator(graph, "theta") == "∂/∂θ log p(z; θ) Σ_t c_t"


def test_a_recurrence_becomes_a_total_derivative_given_by_its_recursion():
    derivation = recurrent().derivation(["theta"])
    assert derivation.equations[0].unicode.estimator == (
        "Σ_t dh_t/dθ ∂s_t/∂h_t ∂w_{action,t}/∂s_t (Σ_{t'≥t+1} step_{t'} + final(s_T) − b_{action,t})"
        " + Σ_t dh_t/dθ ∂s_t/∂h_t ∂step_t/∂s_t + dh_T/dθ ∂s_T/∂h_T ∂final/∂s_T"
    )
    assert "  dh_t/dθ = ∂h_t/∂θ + dh_{t−1}/dθ ∂h_t/∂h_{t−1} + ∂h₀/∂θ [t=1] ∂h_t/∂h₀" in derivation.unicode
    assert "s_t = s(ε_t, h_t)" in derivation.unicode


def test_where_episodes_start_is_said():
    graph = Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.deterministic(lambda h, theta: h * theta, name="h", parents=[prev("h", init="theta"), "theta"])
        graph.cost(lambda h: h, name="c")
    assert "[first_t] ∂h_t/∂θ" in derive(graph).unicode


def test_a_policy_gradient_reads_like_one():
    (equation,) = actor_critic().derivation().equations
    assert str(equation) == "∂J/∂θ_policy = E[ Σ_t ∂/∂θ_policy log p(action_t | obs_t; θ_policy) GAE_t ]"


# -- objectives and parameters -------------------------------------------------------------------------------


def test_each_objective_has_an_equation_for_what_it_trains():
    equations = sac().derivation().equations
    assert [(e.costs, e.wrt) for e in equations] == [(("bellman",), "critics"), (("soft_policy",), "actor")]
    assert equations[0].unicode.estimator == "∂bellman/∂θ_critics"
    assert equations[1].unicode.estimator == (
        "∂new_action/∂θ_actor ∂soft_policy/∂new_action + ∂p_new_action/∂θ_actor ∂soft_policy/∂p_new_action"
    )
    assert str(equations[0]).startswith("∂J_bellman/∂θ_critics = E[ ")


def test_without_modules_every_input_is_a_parameter_and_wrt_chooses():
    assert [e.wrt for e in fifth().derivation().equations] == ["theta", "x0"]
    assert [e.wrt for e in fifth().derivation("x0").equations] == ["x0"]


def test_a_parameter_that_no_cost_depends_on_has_gradient_zero():
    graph = Graph()
    graph.deterministic(lambda phi: phi, name="idle")
    graph.cost(lambda theta: theta, name="f")
    assert str(derive(graph, ["phi"]).equations[0]) == "∂J/∂φ = 0"


def test_a_graph_without_samples_has_no_expectation():
    graph = Graph()
    graph.cost(lambda theta: theta, name="f")
    assert str(derive(graph).equations[0]) == "∂J/∂θ = ∂f/∂θ"


def test_closed_over_parameters_count_by_their_names():
    scale = torch.tensor(1.0, requires_grad=True)
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda: Normal(scale, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    assert estimator(graph) == "∂/∂scale log p(x; scale) f(x)"


def test_an_unknown_parameter_is_refused_with_the_nearest_name():
    with pytest.raises(GraphError, match=r"'thet' is no input of the graph.*Did you mean 'theta'\? There are: theta, x0"):
        fifth().derivation(["thet"])


def test_a_graph_without_costs_is_refused():
    graph = Graph()
    graph.deterministic(lambda theta: theta, name="x")
    with pytest.raises(GraphError, match="no cost"):
        graph.derivation()


# -- how it is shown -----------------------------------------------------------------------------------------


def test_a_derivation_prints_itself_and_shows_in_notebooks():
    derivation = fourth().derivation()
    assert str(derivation) == derivation.unicode
    assert derivation._repr_latex_() == f"$\\displaystyle {derivation.latex}$"
    assert derivation._repr_markdown_().startswith("$$\n\\begin{aligned}")
    assert r"- $x \sim p(x;\, \theta)$: ScoreFunction; costs downstream: f" in derivation._repr_markdown_()


def test_long_estimators_are_broken_between_terms():
    lines = mixed().derivation().unicode.splitlines()
    assert sum(line.lstrip().startswith(("+ ∂", "− ∂")) for line in lines) == 6


def test_names_become_symbols():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda mu_q, log_std: Normal(mu_q, log_std), name="z_1")
    graph.cost(lambda z_1, a_b_c: z_1, name="f_2")
    derivation = derive(graph, ["mu_q"])
    assert derivation.equations[0].unicode.estimator == "∂/∂μ_q log p(z₁; μ_q, log_std) f₂(z₁, a_b_c)"
    assert r"\log p(z_{1};\, \mu_{q}, \mathrm{log\_std}) f_{2}(z_{1}, a_{\mathrm{b\_c}})" in derivation.latex


def test_odd_names_are_escaped_in_latex():
    graph = Graph()
    graph.cost(lambda a: a, name="50% & $x_{1}$ #\\", parents=["theta"])
    assert r"\mathrm{50\%\ \&\ \$x\_\{1\}\$\ \#\backslash }" in derive(graph).latex


def test_of_many_arguments_the_first_and_the_last_are_written():
    """A cost of 3,000 samples is repeated in 3,000 terms: written out, they would fill 54 million characters."""

    def wide(n):
        graph = scg.Graph()
        for i in range(n):
            graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name=f"x{i}", parents=["theta"])
        graph.cost(lambda *xs: sum(xs), name="c", parents=[f"x{i}" for i in range(n)])
        return str(graph.derivation())

    assert "c(x₀, x₁, x₂, x₃" in wide(24) and "…" not in wide(24)
    assert "c(x₀, x₁, x₂, …, x₂₄)" in wide(25)
