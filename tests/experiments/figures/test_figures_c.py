"""Preferences, KL targets, head and tail, and the distillation grid, away from their defaults and
by other arithmetic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.figures import distillation_grid, f_dpo, figure, head_tail, kl_targets
from experiments.figures.distillation_grid import students
from experiments.figures.f_dpo import laws
from fdiv import divergences
from fdiv.benchmarks import TwoTemplate
from fdiv.objectives.distill import distill
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Components, UsageError


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def made(module, **flags):
    """The result, once all of its own checks hold."""
    result = module.make(module.Flags(**flags))
    assert all(check.holds for check in result.checks), [c for c in result.checks if not c.holds]
    assert result.checks
    return result


# --- kl_targets -----------------------------------------------------------------------------------


def test_both_kls_have_the_optimum_of_a_plain_search():
    ref, rewards, gap = np.array([0.5, 0.3, 0.2]), np.array([0.2, -1.0, 0.2]), 0.5
    values = made(
        kl_targets, reference=tuple(ref), rewards=tuple(rewards), betas=(2.0, 0.05), gap=gap
    ).values
    for beta in (2.0, 0.05):
        tilted = ref * np.exp(rewards / beta)
        found = {
            name: np.exp(values["log_probability"][name][f"{beta:g}"])
            for name in ("reverse_kl", "forward_kl")
        }
        np.testing.assert_allclose(found["reverse_kl"], tilted / tilted.sum(), rtol=1e-10)
        low, high = rewards.max(), rewards.max() + beta  # lambda, by halving
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.sum(beta * ref / (middle - rewards)) > 1 else (low, middle)
            )
        np.testing.assert_allclose(found["forward_kl"], beta * ref / (high - rewards), rtol=1e-6)
        for name in found:
            assert values["log_ratio"][name][f"{beta:g}"]["1/3"] == pytest.approx(
                np.log(2.5), abs=1e-9
            )
        assert values["log_gap_factor"]["reverse_kl"][f"{beta:g}"] == pytest.approx(gap / beta)
    assert values["modes"] == [1, 3]


def test_the_published_figures_of_kl_targets():
    """Ratio 10 at every beta; e^100 for a gap of .1 at beta 1e-3; a far smaller factor the other
    way round."""
    values = made(kl_targets).values
    for name in ("reverse_kl", "forward_kl"):
        assert [row["1/2"] for row in values["log_ratio"][name].values()] == pytest.approx(
            [np.log(10)] * 4
        )
    assert values["log_gap_factor"]["reverse_kl"]["0.001"] == pytest.approx(100)
    assert values["log_gap_factor"]["forward_kl"]["0.001"] < 10


# --- head_tail ------------------------------------------------------------------------------------


def test_head_and_tail_errors_by_hand():
    result = made(head_tail, steps=(3, 8), seeds=3)
    x = np.arange(0, 100, 1.25)
    p = np.exp(-(x**2) / 512)
    p /= p.sum()
    assert len(p) == 80
    for step in (3, 8):
        heads = []
        for seed in range(3):
            logits, m, v = np.random.default_rng(seed).standard_normal(80), 0.0, 0.0
            for t in range(1, step + 1):
                q = np.exp(logits) / np.exp(logits).sum()
                m, v = 0.9 * m + 0.1 * (q - p), 0.999 * v + 0.001 * (q - p) ** 2
                logits = logits - 0.2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            q = np.exp(logits) / np.exp(logits).sum()
            heads.append(np.abs(q - p)[:46].sum() / 2)
        assert result.values["head_error"][str(step)]["forward_kl"] == pytest.approx(
            np.mean(heads), abs=1e-9
        )
    assert result.values["share"]["8"] == {"head": 1.0, "tail": 1.0}
    assert result.values["tv"]["8"]["forward_kl"] < result.values["tv"]["3"]["forward_kl"]


# --- f_dpo ----------------------------------------------------------------------------------------


def test_preferences_lead_to_the_regularised_optimum(monkeypatch):
    """At another beta, seed and number of arms; the two KLs by their closed forms."""
    some = ("forward_kl", "reverse_kl")
    monkeypatch.setattr(f_dpo, "interior", lambda: {name: divergences.parse(name) for name in some})
    values = made(f_dpo, arms=4, seed=3, budgets=some, beta=1.5).values
    draw = np.random.default_rng(3)
    rewards, ref = draw.standard_normal(4), draw.dirichlet(np.ones(4))
    tilted = ref * np.exp(rewards / 1.5)
    assert values["reward_at_equal_beta"]["forward_kl"] == pytest.approx(
        tilted @ rewards / tilted.sum(), abs=1e-9
    )
    direct = np.exp(
        kl_targets.optimum("forward_kl", ref, rewards, 1.5)
    )  # KL(ref||pi), which reads reverse_kl with u = pi/ref
    assert values["reward_at_equal_beta"]["reverse_kl"] == pytest.approx(direct @ rewards, abs=1e-9)
    assert values["budget"]["reverse_kl"] == pytest.approx(
        np.sum(ref * np.log(ref / direct)), abs=1e-9
    )
    assert set(values["minimiser_gap"]) == set(some)
    assert max(values["minimiser_gap"].values()) < 1e-5
    for name, row in values["reward_at_budget"].items():
        assert max(row, key=row.get) == name
        assert row[name] > sorted(row.values())[-2] + 1e-6


def test_only_members_that_keep_every_arm_are_trained():
    """f'(0) = -inf: log_d and the KLs have it, total variation and Pearson's do not."""
    with jax.enable_x64(True):
        kept = set(laws.interior())
    assert {"forward_kl", "reverse_kl", "js", "neyman_chi2", "log_d"} <= kept
    assert not {"tv", "pearson_chi2", "skew_reverse_kl:0.1"} & kept


# --- distillation_grid ----------------------------------------------------------------------------


def test_a_small_grid():
    values = made(
        distillation_grid, fractions=(0.0, 0.3), divergences=("js",), seeds=2, updates=2
    ).values
    cells = values["cells"]["js"]
    assert set(cells) == {"0", "0.3"}
    assert values["few_seeds"]
    for cell in cells.values():
        for key, most in (("quality", 1.0), ("diversity", 6 * np.log(3))):
            low, high = cell[key]["ci95"]
            assert 0 < low <= cell[key]["mean"] <= high <= most
            assert len(cell[key]["seeds"]) == 2
    assert sorted(values["by_quality"]["js"]) == [0.0, 0.3]


def test_any_fraction_is_a_reweighting_of_halves():
    mdp = TwoTemplate(horizon=3).build()
    policy = tabular.policy(tabular.markov(mdp.vocab, mdp.horizon), mdp.vocab)
    components = Components(policy, mdp, sampler(mdp.horizon, mdp.eos))
    params, key, batch = (
        components.policy.init(jax.random.key(0)),
        jax.random.key(1),
        mdp.demos(jax.random.key(2), 8),
    )
    d = divergences.parse("reverse_kl")
    for fraction in (0.25, 0.5):
        losses = []
        for objective in (
            distill(components, d, fraction),
            students.mixed(distill(components, d, 0.5), jnp.asarray(fraction)),
        ):
            _, rows, _ = objective.prepare(key, params, (), batch)
            losses.append(float(objective.loss(params, (), rows)[0]))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- what cannot be -------------------------------------------------------------------------------

BAD = {
    "no law": (kl_targets, {"reference": (0.5, 0.6, 0.1, 0.2)}, "sum to 1"),
    "an arm without mass": (kl_targets, {"reference": (0.0, 0.5, 0.3, 0.2)}, "between 0 and 1"),
    "a reward too few": (kl_targets, {"rewards": (1.0, 0.0)}, "each arm"),
    "beta of nothing": (kl_targets, {"betas": (0.0,)}, "betas"),
    "beta twice": (kl_targets, {"betas": (1.0, 1.0)}, "each beta once"),
    "gap of nothing": (kl_targets, {"gap": 0.0}, "gap"),
    "no seed": (head_tail, {"seeds": 0}, "at least 1"),
    "no step": (head_tail, {"steps": ()}, "steps"),
    "step before the first": (head_tail, {"steps": (0,)}, "at least 1"),
    "steps without end": (head_tail, {"steps": (10**6,)}, "at most"),
    "one arm": (f_dpo, {"arms": 1}, "at least 2"),
    "budget of no member": (f_dpo, {"budgets": ("kl",)}, "no divergence of that name"),
    "budget on the edge": (f_dpo, {"budgets": ("tv",)}, "-inf"),
    "budget twice": (f_dpo, {"budgets": ("js", "js")}, "once"),
    "beta out of range": (f_dpo, {"beta": -1.0}, "beta"),
    "fraction of too much": (distillation_grid, {"fractions": (0.5, 1.5)}, "0 to 1"),
    "unknown divergence": (distillation_grid, {"divergences": ("gjs:2",)}, "between 0 and 1"),
    "divergence twice": (distillation_grid, {"divergences": ("js", "js")}, "once"),
    "no update": (distillation_grid, {"updates": 0}, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_flags_that_cannot_be(case):
    module, flags, says = BAD[case]
    with pytest.raises(UsageError, match=says):
        module.make(module.Flags(**flags))


@pytest.mark.parametrize("key", ["f_dpo", "kl_targets", "head_tail", "distillation_grid"])
def test_a_figure_says_what_it_is(key):
    known = figure(key)
    assert known.title
    assert known.claim.endswith(".")
    assert "arXiv" in known.source
    known.flags()
