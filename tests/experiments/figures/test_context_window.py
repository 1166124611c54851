"""The context window, at tiny flags, against sums over strings written out one by one."""

import dataclasses
import itertools
import json
from collections import defaultdict

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from experiments.figures import context_window
from experiments.figures.common import base
from experiments.figures.context_window import students, task
from fdiv import exact
from fdiv.benchmarks import Markov
from fdiv.policies import transformer

VOCAB, HORIZON = 3, 4  # two tokens and EOS, which is 2
TINY = {
    "windows": (2, 1),
    "order": 2,
    "horizon": HORIZON,
    "chains": 2,
    "starts": 1,
    "transformers": (),
    "seeds": 2,
    "updates": 3,
}


def all_strings():
    """Every string of two tokens, ended by EOS or by the horizon."""
    for n in range(HORIZON):
        yield from ((*body, VOCAB - 1) for body in itertools.product((0, 1), repeat=n))
    yield from itertools.product((0, 1), repeat=HORIZON)


def context(prefix, window):
    """The last tokens as digits in base 4, 0 for what is before the start."""
    code = 0
    for token in ((-1,) * window + prefix)[len(prefix) :]:
        code = 4 * code + token + 1
    return code


def law(table, window, clock=False):
    """string -> probability."""
    row = lambda x, t: table[t][context(x[:t], window)] if clock else table[context(x[:t], window)]
    return {x: float(np.prod([row(x, t)[v] for t, v in enumerate(x)])) for x in all_strings()}


def pairs(strings, window, clock):
    """P of each (window, token), with the position where there is a clock."""
    chance = defaultdict(float)
    for x, mass in strings.items():
        for t, v in enumerate(x):
            chance[(t if clock else 0, context(x[:t], window), v)] += mass
    return chance


def kl(p, q):
    return sum(mass * np.log(mass / q[x]) for x, mass in p.items())


@pytest.mark.parametrize("clock", [False, True])
def test_what_a_window_sees_is_what_counting_in_strings_finds(clock):
    expert = np.exp(Markov(2, HORIZON, 2, 0.7, 2.0, 3).build().expert.params)
    p = law(expert, 2)
    assert sum(p.values()) == pytest.approx(1, abs=1e-12)
    view = task.view(expert, 1, HORIZON, clock)
    expected = pairs(p, 1, clock)
    own = pairs(law(view.table, 1, clock), 1, clock)
    over = (lambda x: x) if clock else (lambda x: x.sum(0, keepdims=True))
    for key in expected:
        assert over(view.pairs)[key] == pytest.approx(expected[key], abs=1e-12)
        assert over(view.own)[key] == pytest.approx(own[key], abs=1e-12)

    mass = defaultdict(float)
    for (t, code, _), m in expected.items():
        mass[t, code] += m
    lost = 0.0  # sum over positions of I(token; prefix | window), by its definition
    for x, m in p.items():
        for t, v in enumerate(x):
            at = (t if clock else 0, context(x[:t], 1))
            lost += m * np.log(expert[context(x[:t], 2)][v] * mass[at] / expected[(*at, v)])
    assert view.lost == pytest.approx(lost, abs=1e-12)
    assert lost > 0.01
    assert kl(p, law(view.table, 1, clock)) == pytest.approx(lost, abs=1e-12)

    differ = sum(abs(expected[key] - own[key]) for key in expected)
    apparent = law(view.table, 1, clock)
    ended = np.array(
        [
            sum(m for x, m in p.items() if len(x) <= t)
            - sum(m for x, m in apparent.items() if len(x) <= t)
            for t in range(HORIZON)
        ]
    )
    wanted = (differ + (abs(ended).sum() if clock else abs(ended.sum()))) / 2 / HORIZON
    assert task.pairs_tv(view.pairs, view.own, clock) == pytest.approx(wanted, abs=1e-12)
    # With a clock they are the expert's pairs; without one the cut strings tell.
    assert wanted < 1e-12 if clock else wanted > 1e-4


@pytest.mark.wide
def test_the_study_at_tiny_flags(made, tmp_path, monkeypatch):
    every = context_window.lessons  # students of window 1 are enough
    monkeypatch.setattr(context_window, "lessons", lambda *x: every(*x)[:1])
    expert = {"concentration": 1.0, "mean_length": 3.0, "table_seed": 1}
    trained = {"methods": ("sft",), "window_critics": ()}
    flags = context_window.Flags(divergences=("reverse_kl",), **expert, **trained, **TINY)
    result = made(context_window, **dataclasses.asdict(flags))
    assert len(result.checks) > 15
    values, T = result.values, HORIZON
    expert = np.exp(Markov(2, T, 2, 1.0, 3.0, 1).build().expert.params)
    p = law(expert, 2)

    reached = [context(x, 1) for x in ((), (0,), (1,))]
    table = np.full((4, VOCAB), 1 / VOCAB)

    def reverse(logits):
        table[reached] = softmax(logits.reshape(3, VOCAB), axis=1)
        return kl(law(table, 1), p)

    ends = [
        minimize(reverse, 2 * np.random.default_rng(i).standard_normal(9), method="BFGS")
        for i in range(3)
    ]
    best = values["optima"]["1"]["reverse_kl"]
    assert best["sequence"]["value"] == pytest.approx(min(end.fun for end in ends), abs=1e-6)
    assert best["token"]["excess"] == pytest.approx(0, abs=1e-6)
    assert best["token_expert"]["excess"] > 1e-4
    q = law(task.view(expert, 1, T, True).table, 1, clock=True)
    assert values["windows"]["1"]["reverse_kl_clock"] == pytest.approx(kl(q, p), abs=1e-9)
    assert values["windows"]["1"]["lost"] > values["windows"]["1"]["lost_clock"] > 0
    assert abs(values["optima"]["2"]["reverse_kl"]["sequence"]["reverse_kl"]) < 1e-12  # the range

    student = values["students"]["1"]["markov"]["sft"]["none"]
    assert student["value"] > values["windows"]["1"]["lost"]  # three updates are few
    assert len(values["chains"]["horizon x 1"]["1"]["lost"]) == 3
    base.write_files("context_window", flags, result, tmp_path)
    kept = json.loads((tmp_path / "context_window.json").read_text())
    assert kept["values"]["few_seeds"] is True


def test_what_a_critic_reads_and_what_a_transformer_sees():
    flags = context_window.Flags(**TINY | {"windows": (1,), "transformers": (2,)})
    lessons = students.lessons(flags, Markov())
    plan = [(x.critic, x.config.policy.name, x.config.scorer) for x in lessons]
    assert [(critic, policy, scorer.name, scorer.order) for critic, policy, scorer in plan] == [
        ("prefix", "markov", "full", None),
        ("window", "markov", "markov", 1),
        ("prefix", "transformer", "full", None),
    ]
    assert lessons[2].config.policy.window == 2

    policy = transformer.policy(transformer.Shape(**students.SIZES, window=2), VOCAB)
    space = exact.enumerate_strings(VOCAB, 5, VOCAB - 1)
    params = jax.jit(jax.vmap(policy.init))(jax.random.split(jax.random.key(0), 2))
    tables, spread = students.as_tables(space, policy, params, 2)
    assert spread < 1e-6
    assert students.as_tables(space, policy, params, 1)[1] > 1e-3
    one = jax.tree.map(lambda x: x[1], params)
    prefix = np.array([[0, 1, 1, 0, 2]], np.int32)
    conditional = np.exp(jax.jit(lambda x: policy.head(x, policy.trunk(x, prefix)))(one))[0]
    for t in range(5):
        np.testing.assert_allclose(
            tables[1, context(tuple(prefix[0, :t]), 2)], conditional[t], atol=1e-6
        )
    assert students.reach(2, layers=2) == 3


BAD = [
    ({"windows": ()}, "windows"),
    ({"windows": (1, 1)}, "windows"),
    ({"windows": (0,)}, "windows"),
    ({"transformers": (0,)}, "transformers"),
    ({"order": 0}, "order"),
    ({"vocab": 1}, "vocab"),
    ({"horizon": 1}, "horizon"),
    ({"horizon": 40, "methods": (), "window_critics": (), "transformers": ()}, "horizon"),
    ({"divergences": ()}, "divergences"),
    ({"divergences": ("forward",)}, "divergence"),
    ({"divergences": ("alpha:0", "reverse_kl", "alpha:0")}, "divergences"),
    ({"concentration": 0.0}, "concentration"),
    ({"mean_length": -1.0}, "mean_length"),
    ({"chains": 0}, "chains"),
    ({"starts": 0}, "starts"),
    ({"seeds": 0}, "seeds"),
    ({"updates": 0}, "updates"),
    ({"batch_size": 1}, "batch_size"),
    ({"methods": ("bc",)}, "methods"),
    ({"window_critics": ("sft",)}, "window_critics"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(context_window, flags, field=field)
