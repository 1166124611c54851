"""Every member by its textbook formula: values and gradients on random pairs, in numpy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from fdiv import divergences, objectives

pytestmark = pytest.mark.usefixtures("double")
log = np.log


def powers(a: float):
    return lambda u: u**a / (a * (a - 1)), lambda u: u ** (a - 1) / (a - 1)


@np.vectorize
def lost(u: float) -> float:
    """The integral of log v / (v (1 + v)) from 1 to u."""
    return quad(lambda v: log(v) / (v * (1 + v)), 1, u, epsabs=1e-13, epsrel=1e-13)[0]


ROOT = Path(__file__).parents[2]
W = 0.2  # the weight of a mixture
# f(u) and f'(u), up to a multiple of u - 1, which changes neither value nor gradient
FORMULAS = {
    "forward_kl": (lambda u: u * log(u), lambda u: 1 + log(u)),
    "reverse_kl": (lambda u: -log(u), lambda u: -1 / u),
    "js": (
        lambda u: (u * log(u) - (u + 1) * log((u + 1) / 2)) / 2,
        lambda u: log(2 * u / (1 + u)) / 2,
    ),
    "gjs:0.2": (
        lambda u: W * u * log(u / (W * u + 1 - W)) - (1 - W) * log(W * u + 1 - W),
        lambda u: W * log(u / (W * u + 1 - W)),
    ),
    "skew_kl:0.2": (
        lambda u: u * log(u / (W * u + 1 - W)),
        lambda u: log(u / (W * u + 1 - W)) + (1 - W) / (W * u + 1 - W),
    ),
    "skew_reverse_kl:0.2": (
        lambda u: -log(W + (1 - W) * u),
        lambda u: -(1 - W) / (W + (1 - W) * u),
    ),
    "hellinger2": (lambda u: (u**0.5 - 1) ** 2, lambda u: 1 - u**-0.5),
    "tv": (lambda u: np.abs(u - 1) / 2, lambda u: np.sign(u - 1) / 2),
    "pearson_chi2": (lambda u: (u - 1) ** 2, lambda u: 2 * (u - 1)),
    "neyman_chi2": (lambda u: (1 - u) ** 2 / u, lambda u: 1 - u**-2),
    "jeffreys": (lambda u: (u - 1) * log(u), lambda u: log(u) + 1 - 1 / u),
    "alpha:0.7": powers(0.7),
    "alpha:2.5": powers(2.5),
    "log_d": (lambda u: (1 + u) * log((1 + u) / u), lambda u: log((1 + u) / u) - 1 / u),
    "le_cam": (
        lambda u: (u - 1) ** 2 / (2 * (u + 1)),
        lambda u: (u - 1) * (u + 3) / (2 * (u + 1) ** 2),
    ),
    "symmetric_chi2": (
        lambda u: (u - 1) ** 2 * (u + 1) / u,
        lambda u: 2 * u - 1 - u**-2,
    ),
    "todi": (
        lambda u: (u - 1) * log(u) - u * lost(u),
        lambda u: log(u) + 1 - 1 / u - lost(u) - log(u) / (1 + u),
    ),
    "dail": (
        lambda u: u * (log((1 + u**2) / 2) / 4 - log((1 + u) / 2) / 2 + np.arctan(u) / 2),
        lambda u: (
            log((1 + u**2) / 2) / 4
            - log((1 + u) / 2) / 2
            + np.arctan(u) / 2
            + u * (u / (1 + u**2) - 1 / (1 + u) + 1 / (1 + u**2)) / 2
        ),
    ),
    "tsallis:0.7": (lambda u: 0.7 * powers(0.7)[0](u), lambda u: 0.7 * powers(0.7)[1](u)),
    "renyi:0.7": powers(0.7),  # as it is trained and measured
    "mix:js+0.5*tv": (
        lambda u: FORMULAS["js"][0](u) + FORMULAS["tv"][0](u) / 2,
        lambda u: FORMULAS["js"][1](u) + FORMULAS["tv"][1](u) / 2,
    ),
}


def test_every_member_has_its_formula_here():
    assert {spec.partition(":")[0] for spec in FORMULAS} == {*divergences.FAMILY, divergences.SUM}


@pytest.mark.parametrize("spec", FORMULAS)
@pytest.mark.few(4)
def test_values_and_gradients_on_random_pairs(spec):
    """D = sum q f(p/q) to 1e-10, its gradient on the logits of q, -q (r - sum q r) with
    r = u f' - f, to 1e-8, on eight pairs of laws of six outcomes."""
    (f, slope), d = FORMULAS[spec], divergences.parse(spec)
    p, q = np.random.default_rng(0).dirichlet(np.full(6, 0.8), (2, 8))
    p, q = (np.maximum(x, 1e-6) / np.maximum(x, 1e-6).sum(-1, keepdims=True) for x in (p, q))
    of = lambda log_p, z: d.perspective(log_p, jax.nn.log_softmax(z)).sum()
    found, gradient = jax.jit(jax.vmap(jax.value_and_grad(of, 1)))(jnp.log(p), jnp.log(q))
    u = p / q
    f1, slope1 = float(f(np.ones(1))[0]), float(slope(np.ones(1))[0])  # 0 of tv: the middle slope
    each = f(u) - f1 - slope1 * (u - 1)
    wanted = np.sum(q * each, -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    reward = u * (slope(u) - slope1) - each
    by_hand = -q * (reward - np.sum(q * reward, -1, keepdims=True))
    size = np.abs(by_hand).max(-1, keepdims=True)
    np.testing.assert_allclose(gradient / size, by_hand / size, atol=1e-8)


# --- options --------------------------------------------------------------------------------------

NEXT = "tests/fdiv/test_next_token.py"
RAGGED = "tests/fdiv/objectives/test_ragged.py"
EXACT = "tests/fdiv/objectives/test_objectives.py"
INVERSE = "tests/fdiv/objectives/test_inverse.py"
COVERED = {  # option -> the test that has it by other arithmetic
    "distill.policy_prefixes": (EXACT, "test_distillation_is_the_token_level_with_its_prefixes"),
    "distill.temperature": (NEXT, "test_gradients_are_the_formulas"),
    "distill.target": (NEXT, "test_gradients_are_the_formulas"),
    "distill.towards": (NEXT, "test_gradients_are_the_formulas"),
    "distill.top_k": (NEXT, "test_gradients_are_the_formulas"),
    "distill.term_clip": (NEXT, "test_gradients_are_the_formulas"),
    "distill.forward_above": (NEXT, "test_gradients_are_the_formulas"),
    "distill.weights": (NEXT, "test_gradients_are_the_formulas"),
    "policy_gradient.level": (EXACT, "test_policy_gradient_is_exact_for_every_divergence"),
    "policy_gradient.baseline": (RAGGED, "test_advantages_from_known_means"),
    "policy_gradient.discount": (RAGGED, "test_advantages_towards_an_expert"),
    "adversarial.level": (EXACT, "test_adversarial_gradient_is_exact_at_the_optimal"),
    "adversarial.training": ("tests/fdiv/test_pairwise.py", "test_the_relativistic_gans_formulas"),
    "adversarial.reward_form": (RAGGED, "test_advantages_of_the_relativistic_game"),
    "adversarial.entropy": (RAGGED, "test_advantages_of_a_discriminator"),
    "adversarial.discriminator_learning_rate": (EXACT, "test_labels_are_not_swapped"),
    "adversarial.discriminator_steps": (EXACT, "test_labels_are_not_swapped"),
    "adversarial.warmup": (EXACT, "test_warm_up_leaves_the_policy_alone"),
    "adversarial.gradient_penalty": (EXACT, "test_gradient_penalty_keeps_the_score_smooth"),
    "adversarial.baseline": (RAGGED, "test_advantages_of_a_discriminator"),
    "adversarial.discount": (RAGGED, "test_advantages_of_a_discriminator"),
    "spin.beta": (INVERSE, "test_a_round_of_spin_ends_where_it_says"),
    "spin.refresh": (INVERSE, "test_the_old_policy_is_renewed_every_so_many_updates"),
    "spin.form": (INVERSE, "test_self_play_by_any_f"),
}


def test_every_option_of_a_divergences_methods_is_tested():
    """A new option is put into this table with its test."""
    options = set()
    for kind in ("distill", "policy_gradient", "adversarial", "spin"):
        for field in dataclasses.fields(objectives.kinds()[kind]):
            if not field.metadata.get("hidden") and field.name != "learning_rate":
                options.add(f"{kind}.{field.name}")
    assert options == set(COVERED)
    for path, name in COVERED.values():
        assert re.search(rf"^def {name}", (ROOT / path).read_text(), re.MULTILINE), name
