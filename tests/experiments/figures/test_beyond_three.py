"""Students of many divergences in one program, against arithmetic of another kind."""

import itertools
import json
import math

import numpy as np
import pytest

from experiments.figures import beyond_three
from experiments.figures.beyond_three import checks, numbers
from experiments.figures.beyond_three.students import curvature, settings
from experiments.figures.common import base

TINY = beyond_three.Flags(
    divergences=("forward_kl", "alpha:0.5", "hellinger2"),
    demos=(8, 40),
    temperatures=(0.5, 1.0, 2.0),
    rates=(0.05, 0.1),
    seeds=2,
    updates=400,
    batch=16,
    points=4,
    starts=1,
    vocab=2,
    horizon=3,
    weight=0.7,
    noise=0.2,
)
STRINGS = np.array(list(itertools.product(range(2), repeat=3)))
P = 0.7 * 0.8 ** (3 - STRINGS.sum(1)) * 0.2 ** STRINGS.sum(1) + 0.3 * 0.2 ** (
    3 - STRINGS.sum(1)
) * 0.8 ** STRINGS.sum(1)
VALID_B = (
    STRINGS.sum(1) >= 2
)  # of two tokens, three places: every string is within one of a template
PLAIN = {
    "forward_kl": lambda p, q: p * np.log(p / q),
    "reverse_kl": lambda p, q: q * np.log(q / p),
    "hellinger2": lambda p, q: (np.sqrt(p) - np.sqrt(q)) ** 2,
    "alpha:0.5": lambda p, q: 2 * (np.sqrt(p) - np.sqrt(q)) ** 2,
    "js": lambda p, q: 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))),
}


@pytest.fixture(scope="module")
def study():
    """The study at tiny flags, and the students behind it."""
    groups, rows = {}, []
    train, demonstrations = beyond_three.train, beyond_three.demonstrations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beyond_three, "train", lambda *x: groups.setdefault(x[1], train(*x)))
        patch.setattr(
            beyond_three,
            "demonstrations",
            lambda plan: rows.append(demonstrations(plan)) or rows[0],
        )
        return beyond_three.make(TINY), groups, rows[0]


def law(table, heat=1.0):
    """The chain's probability of each string, token by token."""
    rows = np.exp(np.asarray(table, float) / heat)
    rows /= rows.sum(1, keepdims=True)
    return np.array([rows[0, a] * rows[1 + a, b] * rows[1 + b, c] for a, b, c in STRINGS])


@pytest.mark.wide
def test_all_checks_hold_and_all_is_kept(study, tmp_path):
    result = study[0]
    assert [check for check in result.checks if not check.holds] == []
    assert any("count their own" in check.name for check in result.checks)
    values = json.loads(json.dumps(base.finite(result.values)))
    assert values["distill"]["hellinger2"]["demos"]["40"]["js"]["iqm"] > 0
    assert len(result.rows) == 7 and {row["source"] for row in result.curve} == {
        "sft",
        "adversarial",
        "distill",
    }
    result.picture.savefig(tmp_path / "picture.png", dpi=40)


@pytest.mark.wide
def test_measures_are_those_of_the_tables(study):
    result, groups, _ = study
    assert P.sum() == pytest.approx(1)
    share = P[VALID_B].sum()
    measures = PLAIN | {"entropy": lambda p, q: -q * np.log(q), "mode_b": lambda p, q: q * VALID_B}
    for source, students in groups.items():
        measured = students.measures
        for k, i in itertools.product(
            range(len(students.names)), range(len(settings(students.plan)))
        ):
            laws = [law(measured["params"][k, i], heat) for heat in TINY.temperatures]
            for name, plain in measures.items():
                wanted = [plain(P, q).sum() for q in laws]
                assert measured[f"tempered/{name}"][k, i] == pytest.approx(wanted, abs=2e-5)
                assert measured[name][k, i, -1] == pytest.approx(wanted[1], abs=2e-5)
        values = result.values[source]
        for k, name in enumerate(students.names):
            seeds = [
                law(measured["params"][k, i])[VALID_B].sum() / share for i in (2, 3)
            ]  # runs of 40 demonstrations
            assert values[name]["demos"]["40"]["mode_share"]["seeds"] == pytest.approx(
                seeds, abs=1e-5
            )


@pytest.mark.wide
def test_gap_is_to_the_best_of_the_class_per_string(study):
    result, groups, _ = study
    after = np.array(
        [
            [P @ ((STRINGS[:, :-1] == a) & (STRINGS[:, 1:] == b)).sum(1) for b in range(2)]
            for a in range(2)
        ]
    )
    first = np.array([P[STRINGS[:, 0] == a].sum() for a in range(2)])
    projection = law(
        np.log(np.concatenate([first[None], after]))
    )  # forward KL's best is the expert's counts
    best = PLAIN["forward_kl"](P, projection).sum()
    for source in ("sft", "adversarial", "distill"):
        gap = groups[source].measures["forward_kl"][0, :, -1] - best
        # At the token level it is that of all tokens.
        np.testing.assert_allclose(groups[source].gap[0, :, -1], gap, atol=1e-5)
        optimum = result.values[source]["forward_kl"]["optimum"]
        assert optimum["entropy"] == pytest.approx(
            -(projection * np.log(projection)).sum(), abs=1e-4
        )
    halves = groups["distill"]
    assert halves.best[1].value == pytest.approx(2 * halves.best[2].value, rel=1e-6)
    np.testing.assert_allclose(halves.gap[1], halves.gap[2], atol=1e-5)
    assert [curvature(name) for name in ("js", "gjs:0.2", "alpha:-1", "jeffreys")] == pytest.approx(
        [0.25, 0.16, 1, 2]
    )


@pytest.mark.wide
def test_students_learn_from_the_first_demonstrations_of_their_seed(study):
    _, groups, rows = study
    table = groups["sft"].measures["params"][0]
    assert settings(groups["sft"].plan)[3:5] == [(40, 1, 0.05), (40, 0, 0.1)]
    for (n, seed, _), logits in zip(settings(groups["sft"].plan), table):
        strings = rows.tokens[seed, :n]
        ones = np.concatenate(
            [strings[:, 1][strings[:, 0] == 1], strings[:, 2][strings[:, 1] == 1]]
        )
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert p[0, 1] == pytest.approx(strings[:, 0].mean(), abs=0.03)
        assert p[2, 1] == pytest.approx(ones.mean(), abs=0.03)


@pytest.mark.wide
def test_over_sft_is_measured_at_sft_s_temperature_of_equal_entropy(study):
    result, groups, _ = study
    own = result.values["sft"]["forward_kl"]["over_sft_at_equal_entropy"]["mode_share"]["seeds"]
    assert own == pytest.approx([0, 0], abs=1e-3)
    students, entropy = groups["distill"], lambda q: -(q * np.log(q)).sum()
    for seed in range(2):
        q = law(students.measures["params"][0, 2 + seed])
        heats = np.linspace(0.5, 2, 20_001)
        table = groups["sft"].measures["params"][0, 2 + seed]
        low, high = 0, len(heats) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if entropy(law(table, heats[middle])) < entropy(q) else (low, middle)
            )
        wanted = (q[VALID_B].sum() - law(table, heats[low])[VALID_B].sum()) / P[VALID_B].sum()
        over_sft = result.values["distill"]["forward_kl"]["over_sft_at_equal_entropy"]
        assert over_sft["mode_share"]["seeds"][seed] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.wide
def test_stability_is_that_of_seeds(study):
    result, groups, _ = study
    students = groups["adversarial"]
    stability = result.values["adversarial"]["alpha:0.5"]["stability"]["0.1"]
    norms = students.measures["gradient_norm"][1, 4:6]
    assert stability["largest_gradient"] == pytest.approx(norms.max())
    assert stability["gap"]["seeds"] == pytest.approx(students.gap[1, 4:6, -1])
    assert stability["wobble"] == pytest.approx(
        students.measures["js"][1, 4:6, -2:].std(1).mean(), rel=1e-4
    )
    assert (norms[:, :50] == 0).all() and (norms[:, 50] > 0).all()  # the discriminator warms up

    ruined = {name: x.copy() for name, x in students.measures.items()}
    for x in ruined.values():
        x[1, 4] = np.nan
    by_name = numbers.numbers(
        students._replace(measures=ruined), groups["sft"], result.values["expert"]
    )
    stability = by_name["alpha:0.5"]["stability"]["0.1"]
    assert (stability["not_finite"], stability["spread"], stability["gap"]["seeds"][0]) == (
        0.5,
        math.inf,
        math.inf,
    )
    assert stability["stuck"] >= 0.5 and stability["mode_b_lost"] >= 0.5


def test_demonstrations_needed():
    needed = numbers.needed
    assert needed((10, 1000), [0.5, 0.005]) == pytest.approx(100)  # half way in logarithms
    assert needed((10, 1000), [0.01, 0.005]) == 10
    assert needed((10, 1000), [math.inf, 0.04]) == 1000
    assert needed((10, 1000), [0.5, 0.06]) == math.inf


@pytest.mark.wide
def test_checks_fail_for_wrong_numbers(study):
    result, groups, rows = study
    plan, values = groups["sft"].plan, {source: result.values[source] for source in groups}

    def failing(source, **changed):
        wrong = groups | {
            source: groups[source]._replace(measures=groups[source].measures | changed)
        }
        return {check.name for check in checks.checks(plan, rows, wrong, values) if not check.holds}

    distilled = groups["distill"].measures
    assert "adversarial: none below the best of its class" in failing(
        "adversarial", own=groups["adversarial"].measures["own"] - 0.9
    )
    assert "distill: entropy from the tables" in failing(
        "distill", entropy=distilled["entropy"] + 0.01
    )
    assert "distill: divergences by their variational bound" in failing(
        "distill", js=distilled["js"] * 1.02
    )
    moved = failing("sft", params=groups["sft"].measures["params"] + np.array([0.5, 0.0]))
    assert "sft: forward KL's students count their own demonstrations" in moved


BAD = [
    ({"divergences": ("forward",)}, "divergence"),
    ({"divergences": ("js", "js")}, "divergences"),
    ({"divergences": ("tv",)}, "divergences"),
    ({"demos": ()}, "demos"),
    ({"demos": (64, 16)}, "demos"),
    ({"demos": (0, 16)}, "demos"),
    ({"rates": (0.1, 0.1)}, "rates"),
    ({"rates": (-0.1,)}, "rates"),
    ({"temperatures": (0.0, 1.0)}, "temperatures"),
    ({"seeds": 0}, "seeds"),
    ({"updates": 60}, "updates"),
    ({"updates": 1001}, "updates"),
    ({"points": 2}, "points"),
    ({"policy": "transformer"}, "policy"),
    ({"scorer": "none"}, "scorer"),
    ({"weight": 0.4}, "weight"),
    ({"noise": 1.0}, "noise"),
    ({"horizon": 30}, "horizon"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(beyond_three, flags, field=field)
