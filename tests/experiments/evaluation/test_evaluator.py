"""What is made of measured values: means over seeds, a method's own divergence, the frontier."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import assemble
from experiments.config import make_config
from experiments.evaluation.evaluator import (
    COMPARED,
    Evaluator,
    HeldOut,
    exact_measures,
    judging_keys,
    over_seeds,
    own_divergence,
)
from experiments.evaluation.frontier import FrontierPoint, at_own_weight, overspent
from fdiv import divergences, exact, objectives
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import tabular
from fdiv.types import Claim, Level, Regulariser, Sequences


def test_means_over_seeds_and_their_errors():
    """Errors of 3 and 4 of independent estimates: their mean's is sqrt(9 + 16) / 2."""
    assert over_seeds("js", np.array([1.0, 3.0])) == 2
    assert over_seeds("js_stderr", np.array([3.0, 4.0])) == pytest.approx(2.5)


def test_each_seed_is_judged_on_strings_of_its_own():
    keys = lambda *words: [tuple(x) for x in jax.random.key_data(judging_keys(*words)).tolist()]
    assert len({*keys(0, 4), *keys(1, 4), *keys(0, 1, 1000)}) == 9
    assert keys(0, 2) == keys(0, 4)[:2]  # whatever the number of seeds


def test_the_length_of_an_unknown_experts_strings():
    """Two seeds with three held-out strings each, of 1 to 3 actions after a prompt of two."""
    actions = np.array([[1, 2, 3], [1, 1, 1]])
    mask = (np.arange(6) >= 2) & (np.arange(6) < 2 + actions[..., None])
    data = Sequences(np.zeros(mask.shape, int), mask, np.ones(mask.shape[:2]))
    evaluator = object.__new__(Evaluator)
    evaluator.exact, evaluator._task = False, SimpleNamespace(mdp=SimpleNamespace(expert=None))
    evaluator.layout = SimpleNamespace(host=lambda tree: tree)
    evaluator._judged = SimpleNamespace(held_out=HeldOut(data, data, None))
    assert evaluator.expert({}) == {"length": pytest.approx(1.5)}


@pytest.mark.usefixtures("double")
def test_the_expert_is_measured_by_the_program_of_policies():
    """Also where it is in another precision than they."""
    task = assemble.task(make_config(benchmark=TwoTemplate(vocab=2, horizon=2)))
    table = tabular.policy(tabular.full(2, 2), 2)
    single = lambda *at: table.head(*at).astype(jnp.float32)
    evaluator = object.__new__(Evaluator)
    evaluator.family, evaluator.claims = [divergences.js()], ()
    evaluator._task = task
    evaluator._components = SimpleNamespace(policy=table._replace(head=single))
    params = jnp.zeros((3, 2), jnp.float32)
    measure = jax.jit(evaluator._exactly())
    of_expert, of_policy = (measure(params, None, 1.0, own)[0] for own in (True, False))
    law = exact.known_law(task.space, task.mdp.expert)
    assert float(of_expert["js"]) == 0
    assert float(of_expert["entropy"]) == pytest.approx(float(exact.entropy(law)), rel=1e-12)
    assert float(of_policy["entropy"]) == pytest.approx(2 * np.log(2), rel=1e-6)
    assert float(of_policy["js"]) > 0.01


MEASURED = {
    "js": np.array([0.1]),
    "js_occupancy": np.array([0.2]),
    "js_token": np.array([0.4]),  # on the policy's prefixes
    "js_token_expert": np.array([0.8]),
    "regret": np.array([1.6]),
}
OWN = {  # level, share of the policy's prefixes -> what is minimised
    "sequence": (Level.sequence, 0.0, 0.1),
    "occupancy": (Level.occupancy, 0.0, 0.2),
    "the policy's prefixes": (Level.token_policy, 1.0, 0.4),
    "the expert's": (Level.token_expert, 0.0, 0.8),
    "a quarter the policy's": (Level.token_policy, 0.25, 0.25 * 0.4 + 0.75 * 0.8),
    "a return": ("return", 0.0, 1.6),
}


@pytest.mark.parametrize("name", OWN)
def test_a_methods_own_divergence(name):
    level, share, wanted = OWN[name]
    known = SimpleNamespace(expert=True, regulariser=Regulariser("js", 0.1, SimpleNamespace()))
    claim = Claim("js", level, "", policy_prefixes=share)
    own = own_divergence(claim, SimpleNamespace(mdp=known, space=True))
    assert own(MEASURED).tolist() == pytest.approx([wanted])


OWN_CLAIM = Claim("js", Level.token_policy, "")
P, Q = np.random.default_rng(0).dirichlet(np.ones(2), (2, 3))  # [prefixes, tokens]
soft = lambda p: p**0.5 / (p**0.5).sum(-1, keepdims=True)
kl = lambda p, q: (p * np.log(p / q)).sum(-1)
js = lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
strings = lambda p: np.ravel(p[0][:, None] * p[1:])  # of two tokens
orders = lambda p, q: (np.outer(p, q).ravel(), np.outer(q, p).ravel())
# at prefixes of the law x: the first token's and that after it, over two positions
prefixes = lambda x, each: (each[0] + x[0] @ each[1:]) / 2
DECLARED = {  # name of the method, its options -> name of the metric, and what it is by hand
    "pairs": (
        ("relativistic:js", {}),
        "js_of_pairs",
        js(*orders(strings(P), strings(Q))),
    ),
    "softened": (
        ("distill:js", {"temperature": 2.0}),
        "js_at_temperature_2_token_expert",
        prefixes(P, 4 * js(soft(P), soft(Q))),
    ),
    "a mixture of prefixes": (
        ("distill:js", {"temperature": 2.0, "policy_prefixes": 0.25}),
        "js_at_temperature_2_token",
        0.25 * prefixes(Q, 4 * js(soft(P), soft(Q))) + 0.75 * prefixes(P, 4 * js(soft(P), soft(Q))),
    ),
    "jeffreys": (  # that of pairs is that of strings
        ("relativistic:reverse_kl", {}),
        "jeffreys",
        kl(strings(P), strings(Q)) + kl(strings(Q), strings(P)),
    ),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", DECLARED)
def test_what_is_reported_is_what_is_minimised(case):
    (name, options), metric, wanted = DECLARED[case]
    space = exact.enumerate_strings(2, 2, None)
    task = SimpleNamespace(
        space=space, mdp=SimpleNamespace(expert=None, regulariser=None, statistics={})
    )

    def law(p):
        first, both = np.log(p[0]), np.log(strings(p))
        return exact.Law(np.log(p), np.array([0.0, *first]), jnp.zeros(6), both)

    claim = objectives.resolve(name, **options).claim()
    task.mdp.expert = True
    family = [divergences.parse("jeffreys")] if metric == "jeffreys" else []
    measured = exact_measures(task, family, law(P), [claim])(law(Q))
    assert metric in measured
    assert float(own_divergence(claim, task)(measured)) == pytest.approx(wanted, rel=1e-10)


def test_the_start_is_compared_string_by_string():
    """Strings that all gain the same have no error, whatever the strings differ by."""
    evaluator = object.__new__(Evaluator)
    evaluator.exact, evaluator.claims, evaluator._judged = True, (OWN_CLAIM,), None
    evaluator.layout = SimpleNamespace(host=lambda tree: dict(tree))
    evaluator._at_start = {}
    evaluator._measure = lambda params, *_: (
        {name: x.mean(1) for name, x in params.items()}
        | {f"{name}_each": x for name, x in params.items()},
        None,
    )
    before = np.random.default_rng(0).normal(size=(2, 50))
    names = ("js_token", "tv_token", "recall")
    start = evaluator.measure_start({name: before for name in names})
    assert set(start) == set(names)
    after = dict(zip(names, (before - 1.0, before, before[:, ::-1])))
    measured = evaluator.measure(after)
    assert set(measured) == {*names, "js_token_since_stderr", "recall_since_stderr"}
    assert measured["js_token_since_stderr"] == pytest.approx([0, 0], abs=1e-12)
    apart = (before[:, ::-1] - before).std(axis=1, ddof=1) / 50**0.5
    assert measured["recall_since_stderr"] == pytest.approx(apart)
    one = {name: x[:, :1] for name, x in after.items()}  # of one string no spread is known
    evaluator.measure_start(one)
    assert set(evaluator.measure(one)) == set(names)


def test_what_cannot_be_computed_is_not_said():
    """No gap in the place of another divergence's, where there are too many strings for pairs, or
    these are not enumerated."""
    known = SimpleNamespace(expert=True, regulariser=None)
    many = SimpleNamespace(sequences=SimpleNamespace(tokens=np.zeros((COMPARED + 1, 1))))
    pairs = objectives.resolve("relativistic:js").claim()
    for space in (None, many):
        assert own_divergence(pairs, SimpleNamespace(mdp=known, space=space)) is None
    softened = objectives.resolve("distill:js", temperature=2.0).claim()
    assert own_divergence(softened, SimpleNamespace(mdp=known, space=None)) is None
    assert own_divergence(softened, SimpleNamespace(mdp=known, space=many)) is not None


def test_what_is_spent_beyond_the_frontier():
    """Between (0, 0) and (2, 1) half of the reward takes 1 nat: 1.3 nats are .3 too many."""
    points = [FrontierPoint(1.0, 0.0, 0.0), FrontierPoint(0.1, 2.0, 1.0), FrontierPoint(0.01, 6, 2)]
    assert overspent(1.3, 0.5, points) == pytest.approx(0.3)
    assert overspent(4.0, 1.5, points) == pytest.approx(0.0)
    assert at_own_weight(points).beta == 0.1
