"""The figures' command and page, and the figures on estimators, gradients and rewards, against
independent arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.integrate import quad
from tables import close, world

from experiments.figures import __main__ as command
from experiments.figures import (
    die,
    discriminator_rewards,
    divergence_gallery,
    gallery,
    kl_estimators,
    kl_gradients,
)
from experiments.figures.common import base, enumerated
from experiments.figures.common.published import Published
from experiments.figures.kl_estimators import moments
from experiments.figures.kl_gradients import gradients as penalty_gradients
from fdiv import divergences, exact
from fdiv.penalties import Penalty, kl_penalty
from fdiv.rollout import sampler
from fdiv.types import UsageError

# --- the command ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stub:
    """A figure's flags."""

    size: int = 1
    """Any number."""


def stub(holds: bool = True, broken: bool = False) -> base.Figure:
    """A figure whose only check holds or not, or that cannot be made."""

    def make(flags):
        if broken:
            raise ArithmeticError("no such luck")
        check = base.Check("a check", holds, f"{flags.size} against 1")
        return base.Result(
            {"a": {"b.c": 2.0}}, [check], [{"name": "x", "value": 2.0}], plt.figure(figsize=(1, 1))
        )

    return base.Figure(Stub, make, "A stub", "It claims nothing.", "nobody")


@pytest.fixture
def stubs(monkeypatch):
    """Three figures in place of all: one that holds, one whose check fails, one that raises."""
    made = {"good": stub(), "wrong": stub(holds=False), "broken": stub(broken=True)}
    monkeypatch.setattr(command, "KEYS", tuple(made))
    monkeypatch.setattr(command, "figure", made.__getitem__)
    monkeypatch.setattr(
        gallery,
        "PUBLISHED",
        {"good": [Published("a.b.c", 2, 0, "x"), Published("a.b.c", 3, 0, "y")]},
    )


def test_one_figure_leaves_its_files_and_its_table(tmp_path, capsys):
    assert (
        command.main(["die", "--faces", "4", "--loaded-probability", "0.7", "--out", str(tmp_path)])
        == 0
    )
    assert {path.suffix for path in (tmp_path / "die").iterdir()} == {
        ".pdf",
        ".png",
        ".csv",
        ".json",
    }
    kept = json.loads((tmp_path / "die" / "die.json").read_text())
    assert kept["flags"] == {"faces": 4, "loaded_probability": 0.7}
    assert all(check["pass"] for check in kept["checks"])
    shown = capsys.readouterr().out
    assert f"{kept['values']['forward_bits']:.6g}" in shown
    assert "11 of 11 checks hold" in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dice"], "The nearest: die"),
        (["die", "--faces", "1"], "faces = 1"),
        (["die", "--loaded-probability", "1.5"], "loaded_probability = 1.5"),
        (["kl_estimators", "--mean", "0", "--std", "1"], "nothing to estimate"),
        (["kl_estimators", "--std", "-1"], "std = -1"),
        (["kl_gradients", "--horizon", "20"], "Use a horizon of at most"),
        (["kl_gradients", "--perturbation", "0"], "perturbation = 0"),
        (["discriminator_rewards", "--arms", "1"], "arms = 1"),
        (["discriminator_rewards", "--pairs", "0"], "pairs = 0"),
        (["die", "--out", "README.md"], "is a file"),
    ],
)
def test_bad_flags_are_said_in_a_paragraph(argv, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    assert command.main(argv) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]  # nothing is written


def test_unknown_flags_and_help(capsys):
    for argv, code in ((["die", "--face", "6"], 2), (["die", "--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            command.main(argv)
        assert ended.value.code == code
    assert "--loaded-probability" in capsys.readouterr().out
    assert command.main(["--help"]) == 0
    assert command.main([]) == 2


def test_exit_code_says_whether_checks_hold(stubs, tmp_path, capsys):
    assert command.main(["good", "--out", str(tmp_path)]) == 0
    assert command.main(["wrong", "--size", "3", "--out", str(tmp_path)]) == 1
    assert "FAIL  a check: 3 against 1" in capsys.readouterr().out


def test_all_makes_a_page_and_drops_nothing(stubs, tmp_path, capsys):
    assert command.main(["all", "--out", str(tmp_path)]) == 1
    page = (tmp_path / "index.html").read_text()
    for key in ("good", "wrong", "broken"):
        assert f"python -m experiments.figures {key}" in page
    assert page.count("<svg") == 2
    assert "ArithmeticError: no such luck" in page
    assert page.count(">agrees<") == page.count(">differs<") == 1
    assert "src=" not in page  # all of it is in the file
    assert "1 of 3 figures hold" in capsys.readouterr().out


def test_a_path_may_hold_dots_in_its_keys():
    tree = {"a": {"0.001": {"x": 1}, "0": {"y": 2}}, "b": "inf", "c": None}
    found = [gallery.look_up(tree, path) for path in ("a.0.001.x", "a.0.y", "b", "c", "a.0", "a.z")]
    assert found == [1, 2, "inf", None, None, None]
    agreed = gallery.compare(tree, [Published("b", math.inf, 0, ""), Published("a.z", 0, 9, "")])
    assert [c.agrees for c in agreed] == [True, False]


# --- values and dice ------------------------------------------------------------------------------


def failing(result: base.Result) -> list[base.Check]:
    return [check for check in result.checks if not check.holds]


def test_die_by_hand():
    """Three faces, 1/2 on the first: each number as a sum written out."""
    result = die.make(die.Flags(faces=3, loaded_probability=0.5))
    log2, third = math.log2, 1 / 3
    wanted = {
        "forward_bits": third * log2(third / 0.5) + 2 * third * log2(third / 0.25),
        "reverse_bits": 0.5 * log2(1.5) + 0.5 * log2(0.75),
        "js_bits": 0.5 * (third * log2(third / (5 / 12)) + 2 * third * log2(third / (7 / 24)))
        + 0.5 * (0.5 * log2(0.5 / (5 / 12)) + 0.5 * log2(0.25 / (7 / 24))),
        "tv": 1 / 6,
        "entropy_bits": log2(3),
        "cross_entropy_bits": third * 1 + 2 * third * 2,
    }
    assert result.values == pytest.approx(wanted, abs=1e-12)
    assert not failing(result)


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.8), (1.0, 1.0), (-0.4, 1.3)])
def test_estimators_by_adaptive_quadrature(mean, std):
    result = kl_estimators.make(kl_estimators.Flags(mean, std, samples=4000))
    assert not failing(result)
    log_ratio = lambda x: -math.log(std) - ((x - mean) / std) ** 2 / 2 + x**2 / 2
    weigh = lambda k: lambda x: math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * k(log_ratio(x))
    expect = lambda k: quad(weigh(k), -14, 14, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
    true = math.log(std) + (1 + mean**2) / (2 * std**2) - 0.5
    assert result.values["true_kl"] == pytest.approx(true, rel=1e-12)
    for name, k in {
        "k1": lambda s: -s,
        "k2": lambda s: s**2 / 2,
        "k3": lambda s: math.exp(s) - 1 - s,
    }.items():
        found, average = result.values["estimators"][name], expect(k)
        assert found["bias_over_true"] == pytest.approx(average / true - 1, abs=1e-9)
        if std < 1.3 or name != "k3":  # beyond, the tails outlast this quadrature's range
            stdev = math.sqrt(expect(lambda s, k=k, a=average: (k(s) - a) ** 2))
            assert found["stdev_over_true"] == pytest.approx(stdev / true, rel=1e-9)


def test_estimators_infinite_variance_is_written_as_inf(tmp_path):
    """ref = N(m, v): E_q[r^2] diverges from v = 2 on, with or without a shift."""
    stdev = lambda mean, std: moments.quadrature(moments.ratio(mean, std))[1]["k3"].stdev
    assert math.isfinite(stdev(0.0, math.sqrt(1.9)))
    assert stdev(0.0, math.sqrt(2) + 1e-12) == stdev(3.0, math.sqrt(2) + 1e-12) == math.inf
    argv = [
        "kl_estimators",
        "--mean",
        "1",
        "--std",
        "1.5",
        "--samples",
        "1000",
        "--out",
        str(tmp_path),
    ]
    assert command.main(argv) == 0
    kept = json.loads((tmp_path / "kl_estimators" / "kl_estimators.json").read_text())["values"][
        "estimators"
    ]
    assert kept["k3"]["stdev_over_true"] == "inf"
    assert isinstance(kept["k3"]["mc_stdev_over_true"], float)


# --- gradients of penalties -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [kl_gradients.Flags(2, 3, 0.5, 3), kl_gradients.Flags(3, 1, 2.0, 1)]
)
def test_placements_hold_their_table(flags):
    result = kl_gradients.make(flags)
    assert not failing(result)
    rows = result.values["rows"]
    biased = [
        name
        for name in kl_gradients.EXPECTED["backward_fixed"]
        if rows[name]["relative_error"] > 1e-3
    ]
    assert len(biased) == (
        0 if flags.horizon == 1 else 3
    )  # with one token there are no later prefixes to lose
    assert math.isnan(rows["k1_loss"]["cosine"])
    assert rows["k3_loss_string"]["cosine_forward"] == pytest.approx(1, abs=1e-10)


def test_recursion_is_the_slope_of_a_sum_over_strings():
    """Central differences of sum_x q log(q / ref), strings written out."""
    logits, away = np.random.default_rng(0).standard_normal((2, 1 + 2 + 4, 2))
    normal = lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))

    def kl(params):
        total = 0.0
        for a, b, c in itertools.product(range(2), repeat=3):
            path = [(0, a), (1 + a, b), (3 + 2 * a + b, c)]
            log = lambda table, path=path: sum(normal(table)[state, token] for state, token in path)
            total += math.exp(log(params)) * (log(params) - log(logits))
        return total

    params = logits + away
    slope = np.zeros_like(params)
    for index in np.ndindex(*params.shape):
        step = np.zeros_like(params)
        step[index] = 1e-5
        slope[index] = (kl(params + step) - kl(params - step)) / 2e-5
    close(penalty_gradients.recursion(logits, params), slope, 1e-8)


@pytest.mark.usefixtures("double")
def test_penalties_where_strings_end_early():
    """The same laws where EOS ends strings, so that lengths differ."""
    space, expert, policy, params = world("ending")
    components = enumerated.components(space, policy, expert.params)
    same = {
        "backward": [
            ("k1",),
            ("k1", "reward", "string"),
            ("k2", "loss", "string"),
            ("k3", "ratio", "string"),
            ("k1", "ratio", "string"),
        ],
        "forward": [("k3", "loss", "string")],
        "zero": [("k1", "loss")],
        "fixed": [("k1", "reward", "token", 0.0), ("k2", "loss"), ("k3", "ratio"), ("k1", "ratio")],
    }

    @jax.jit
    def gradients(x):
        value = lambda d: (
            lambda y: exact.divergence(
                d, space, exact.law(space, *expert), exact.law(space, policy, y)
            )
        )
        placed = lambda how: exact.expected_gradient(
            kl_penalty(components, expert, *how), x, space.sequences
        )
        truth = {
            "backward": jax.grad(value(divergences.reverse_kl()))(x),
            "forward": jax.grad(value(divergences.forward_kl()))(x),
        }
        truth |= {"zero": jnp.zeros_like(x), "fixed": placed(("k1", "reward", "token", 0.0))}
        return truth, {name: [placed(how) for how in hows] for name, hows in same.items()}

    truth, found = gradients(jnp.asarray(params))
    for name, several in found.items():
        for one in several:
            close(one, truth[name])
    assert float(jnp.linalg.norm(truth["fixed"] - truth["backward"])) > 1e-2


def test_a_sampler_gives_the_same_gradient_on_average():
    space, expert, policy, params = world("fixed")
    exactly = enumerated.components(space, policy, expert.params)
    sampled, params = (
        exactly._replace(rollout=sampler(space.horizon, space.eos)),
        jnp.asarray(params, jnp.float32),
    )
    some, hows = (
        jax.tree.map(lambda x: jnp.asarray(x[:16]), space.sequences),
        (("k1",), ("k2", "loss", "string"), ("k3", "ratio")),
    )

    def gradients(components, key):
        return jnp.stack(
            [
                exact.expected_gradient(kl_penalty(components, expert, *how), params, some, key=key)
                for how in hows
            ]
        )

    keys = jax.random.split(jax.random.key(0), 1000)
    draws, wanted = jax.jit(
        lambda: (jax.vmap(lambda key: gradients(sampled, key))(keys), gradients(exactly, keys[0]))
    )()
    error = draws.std(0) / math.sqrt(len(keys))
    assert (jnp.abs(draws.mean(0) - wanted) <= 5 * error + 1e-6).all()
    assert float(error.max()) < 0.1 * float(jnp.abs(wanted).max())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"placement": "loss"}, "exactly zero"),
        ({"discount": 0.5, "unit": "string"}, "nothing to discount"),
        ({"estimator": "k4"}, "is not a choice"),
        ({"discount": 2.0}, "is not a share"),
    ],
)
def test_vain_penalties_are_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Penalty(**fields).build(SimpleNamespace(), SimpleNamespace())


# --- rewards and the family -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewards() -> base.Result:
    return discriminator_rewards.make(discriminator_rewards.Flags(arms=3, scale=0.5, pairs=4))


def test_rewards_descend_what_they_should(rewards):
    assert not failing(rewards)
    cosine, trained = rewards.values["cosine"], rewards.values["trained_tv"]
    assert cosine["fairl"]["forward_kl"] < -0.9
    assert trained["fairl"] > 0.5
    assert max(tv for name, tv in trained.items() if name != "fairl") < 1e-3
    assert set(cosine) == set(trained) >= {"airl", "gail", "e^s", "fairl", *cosine["airl"]}


def test_cosines_by_hand(rewards):
    """The gradient in softmax logits of E_q[R] is q (R - E_q R); of KL(p||q) it is q - p, of
    KL(q||p) q (log q/p - KL)."""
    expert, step = np.random.default_rng(0).standard_normal((2, 4, 1, 3))
    law = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    p, q = law(expert)[:, 0], law(expert + 0.5 * step)[:, 0]
    s = np.log(p / q)
    climb = lambda r: q * (r - (q * r).sum(1, keepdims=True))
    cosine = lambda a, b: float(
        np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    )
    descent = {"forward_kl": p - q, "reverse_kl": climb(s)}
    paid = {
        "airl": s,
        "gail": np.log1p(np.exp(s)),
        "e^s": p / q,
        "fairl": -s * p / q,
        "hellinger2": np.sqrt(p / q),
        "tv": np.sign(s) / 2,
    }
    for name, reward in paid.items():
        for d, down in descent.items():
            assert rewards.values["cosine"][name][d] == pytest.approx(
                cosine(climb(reward), down), abs=1e-12
            )


def test_family_plate_holds_its_laws_and_its_formulas():
    values, curves, off = divergence_gallery.members()
    assert max(most for laws in off.values() for most in laws.values()) <= 1e-12
    assert set(values) == set(curves) == {d.name for d in discriminator_rewards.FAMILY}
    u = np.exp(divergence_gallery.MARKS)
    wanted = {  # f, f', u f' - f
        "forward_kl": (u * np.log(u) - u + 1, np.log(u), u - 1),
        "reverse_kl": (-np.log(u) + u - 1, 1 - 1 / u, np.log(u)),
        "pearson_chi2": ((u - 1) ** 2, 2 * (u - 1), u**2 - 1),
        "neyman_chi2": ((u - 1) ** 2 / u, 1 - u**-2, 2 * (1 - 1 / u)),
        "hellinger2": ((np.sqrt(u) - 1) ** 2, 1 - u**-0.5, np.sqrt(u) - 1),
        "tv": (abs(u - 1) / 2, np.sign(u - 1) / 2, np.sign(u - 1) / 2),
    }
    for name, triple in wanted.items():
        found = values[name]
        for what, numbers in zip(("f", "witness", "reward"), triple, strict=True):
            assert found[what] == pytest.approx(numbers, abs=1e-12)
