"""The study of trained students' errors: its sums against every string one by one, its checks
against what must fail them."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from experiments.figures import trained_errors
from experiments.figures.common import base
from experiments.figures.trained_errors import checks, numbers
from experiments.figures.trained_errors.errors import Errors, closed_form, walk
from fdiv import divergences
from fdiv.benchmarks import TwoTemplate

TINY = trained_errors.Flags(
    lengths=(4, 6),
    methods=("sft",),
    distilled=("reverse_kl",),
    shares=(1.0,),
    rolled_from=4,
    rolled_to=9,
    seeds=1,
    updates=3,
    batch_size=8,
)
LANGUAGE = TwoTemplate(3, 5, 0.7, 0.2)
ORDER = 2


def say(language, prefix):
    """The expert's next token, by Bayes' rule over the two templates."""
    noise, weights = language.noise, (language.weight, 1 - language.weight)
    emit = lambda template, x: 1 - noise if x == template else noise / (language.vocab - 1)
    joint = [w * math.prod(emit(k, x) for x in prefix) for k, w in enumerate(weights)]
    law = [sum(j * emit(k, v) for k, j in enumerate(joint)) for v in range(language.vocab)]
    return np.array(law) / sum(joint)


def state(prefix, vocab, order):
    return sum((x + 1) * (vocab + 1) ** k for k, x in enumerate(reversed(prefix[-order:])))


def by_strings(language, table, order):
    """The four sums and the expert's cost, prefix after prefix."""
    sums = np.zeros((5, language.horizon))
    for t in range(language.horizon + 1):
        for prefix in itertools.product(range(language.vocab), repeat=t):
            rows = [
                (say(language, prefix[:k]), table[state(prefix[:k], language.vocab, order)])
                for k in range(t)
            ]
            p_prefix, q_prefix = (
                math.prod(row[side][x] for row, x in zip(rows, prefix)) for side in (0, 1)
            )
            if t < language.horizon:
                p, q = say(language, prefix), table[state(prefix, language.vocab, order)]
                forward, reverse = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
                sums[:3, t] += q_prefix * forward, p_prefix * forward, q_prefix * reverse
            if t and all(sum(x != template for x in prefix) > 1 for template in (0, 1)):
                sums[3:, t - 1] += q_prefix, p_prefix
    return sums.cumsum(1)


def tables(seeds=2):
    return np.random.default_rng(3).dirichlet(
        np.ones(LANGUAGE.vocab), (seeds, (LANGUAGE.vocab + 1) ** ORDER)
    )


def test_the_walk_adds_up_what_every_prefix_does():
    chains = tables()
    by_steps = walk(LANGUAGE, chains, LANGUAGE.horizon)
    for seed, table in enumerate(chains):
        wanted = by_strings(LANGUAGE, table, ORDER)
        np.testing.assert_allclose(
            np.stack([x[seed] for x in by_steps.errors]), wanted[:4], rtol=1e-10
        )
    np.testing.assert_allclose(by_steps.expert_cost, wanted[4], rtol=1e-10)


def test_the_experts_cost_is_a_binomial_sum():
    language = TwoTemplate(2, 1, 0.55, 0.05)
    costs = walk(language, closed_form(language, 1), 40).expert_cost
    # Off: more than one miss from the string's own template, and from the other.
    t = np.arange(1, 41)
    steps = np.array([sum(binom.pmf(k, n, 0.05) for k in range(2, n - 1)) for n in t])
    np.testing.assert_allclose(costs, steps.cumsum(), rtol=1e-9, atol=1e-12)


def test_the_closed_form_is_the_best_chain_on_the_experts_prefixes():
    best = closed_form(LANGUAGE, ORDER)
    np.testing.assert_allclose(best[0, state((0, 2), 3, 2)], say(LANGUAGE, (0, 2)), rtol=1e-12)
    error = lambda chains: walk(LANGUAGE, chains, LANGUAGE.horizon).errors.expert[:, -1]
    least = error(best)[0]
    moved = best * np.exp(0.1 * np.random.default_rng(0).standard_normal((20, *best.shape[1:])))
    assert np.all(error(moved / moved.sum(-1, keepdims=True)) > least)


@pytest.mark.parametrize(("divergence", "key"), [("forward_kl", "own"), ("reverse_kl", "reverse")])
def test_a_centre_is_the_best_table_for_prefixes_held_fixed(divergence, key):
    by_steps = walk(LANGUAGE, tables(1), LANGUAGE.horizon)
    best = checks.centre(divergence, by_steps, 1.0)
    mean, log_mean = by_steps.mean[0], by_steps.log_mean[0]  # sums over the fixed prefixes
    mass = mean.sum(-1)

    def loss(table):
        if divergence == "forward_kl":
            return -np.sum(mean * np.log(table))
        return np.sum(mass * np.sum(table * np.log(table), -1)) - np.sum(table * log_mean)

    best = np.where(mass[..., None] > 0, best, 1 / 3)
    for moved in np.random.default_rng(1).standard_normal((20, *best.shape)):
        near = best * np.exp(0.1 * moved)
        assert loss(near / near.sum(-1, keepdims=True)) > loss(best)


def test_students_short_of_their_closed_form_fail_the_checks():
    right = closed_form(LANGUAGE, ORDER)
    wrong = 0.9 * right + 0.1 / LANGUAGE.vocab
    student = lambda table: SimpleNamespace(
        tables=table, walk=walk(LANGUAGE, table, LANGUAGE.horizon)
    )
    values = {"closed_form_slopes": {}}
    for name in ("sft", "distill:forward_kl@0"):
        for table, holds in ((right, True), (wrong, False)):
            (check,) = checks._trained({(name, 5): student(table)}, values)
            assert check.holds is holds, check


@pytest.fixture(scope="module")
def tiny():
    # The evaluator's other divergences are compiled for each length and not read.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergences, "logged", lambda: ("forward_kl", "reverse_kl"))
        return trained_errors.make(TINY)


@pytest.mark.wide
def test_everything_holds_of_untrained_students(tiny, tmp_path):
    assert not [check for check in tiny.checks if not check.holds]
    assert len(tiny.checks) == 6  # three updates: nothing is claimed
    assert list(tiny.values["ends"]) == ["sft", "distill:reverse_kl@1"]
    base.write_files("trained_errors", TINY, tiny, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".csv", ".pdf", ".png"}


@pytest.mark.wide
def test_slopes_and_excess_are_of_the_rows(tiny):
    rows = {(r["student"], r["kind"], r["trained_at"], r["length"]): r for r in tiny.curve}
    for name, by_part in tiny.values["slopes"].items():
        for key in Errors._fields:
            a, b = (rows[name, "trained", T, T][key] for T in TINY.lengths)
            its = tiny.values["slopes"]["sft"]["all"][key]["slope"]["iqm"]
            own = by_part["all"][key]
            assert own["slope"]["iqm"] == pytest.approx(math.log(b / a) / math.log(6 / 4))
            assert own["minus_sft"]["iqm"] == pytest.approx(own["slope"]["iqm"] - its)
        last = rows[name, "trained", 6, 6]
        excess = 100 * (last["own"] / last["expert"] - 1)
        assert tiny.values["excess_percent"][name][6]["iqm"] == pytest.approx(excess)
        far = tiny.values["rolled"][name]
        assert list(far["own"]) == [4, 8]
        of = {T: rows[name, "rolled", 4, T]["own"] for T in (6, 8)}
        of_sft = rows["sft", "rolled", 4, 8]["own"]
        assert far["over_trained"][6]["iqm"] == pytest.approx(of[6] / last["own"])
        assert far["over_sft"][8]["iqm"] == pytest.approx(of[8] / of_sft)


def test_halves_share_their_middle_length():
    lengths = (4, 8, 16)
    ends = {key: np.array([[1.0], [2.0], [16.0]]) for key in Errors._fields}
    slopes = numbers.slopes(lengths, ends, ends)
    assert slopes["short"]["own"]["slope"]["iqm"] == pytest.approx(1)
    assert slopes["long"]["cost"]["slope"]["iqm"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lengths", (6,)),
        ("lengths", (6, 4)),
        ("lengths", (3, 6)),
        ("lengths", (6, 6)),
        ("lengths", (6, 40)),
        ("methods", ("js",)),
        ("shares", (0.0, 1.5)),
        ("distilled", ("js", "js")),
        ("policy", "full"),
        ("order", 0),
        ("seeds", 0),
        ("updates", 0),
        ("rolled_from", 5),
        ("rolled_to", 7),
    ],
)
def test_what_cannot_be_is_refused(field, value, refused):
    refused(trained_errors, dataclasses.asdict(TINY) | {field: value}, field=field)
