"""What distillation may do to two laws of the next token: against arithmetic in numpy."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import random_models

from experiments.gradients.world import build
from fdiv import divergences, head, next_token, objectives
from fdiv.objectives.distill import Distill
from fdiv.types import UsageError

pytestmark = pytest.mark.usefixtures("double")
LAWS = np.random.default_rng(0).dirichlet(np.ones(6), (2, 3))  # p and q at three prefixes
P, Q = LAWS
kl = lambda p, q: np.sum(p * np.log(p / q), -1)
jeffreys = lambda p, q: kl(p, q) + kl(q, p)


def soft(x: np.ndarray, temperature: float) -> np.ndarray:
    return x ** (1 / temperature) / np.sum(x ** (1 / temperature), -1, keepdims=True)


def merged(k: int) -> list[np.ndarray]:
    """p and q over p's k likeliest tokens, and the rest."""
    top = np.argsort(-P, -1)[:, :k]
    kept = [np.take_along_axis(x, top, -1) for x in LAWS]
    return [np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in kept]


def akl() -> np.ndarray:
    """p's likeliest token and those after it up to .5 in all are the head."""
    values = []
    for p, q in zip(P, Q):
        order = np.argsort(-p)
        head_of = [t for i, t in enumerate(order) if i == 0 or p[order[: i + 1]].sum() <= 0.5]
        apart = np.abs(p - q)
        share = apart[head_of].sum() / apart.sum()
        values.append(share * kl(p, q) + (1 - share) * kl(q, p))
    return np.array(values)


def terms(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return q * np.log(q / p) - q + p  # reverse KL's, none negative


GEOMETRIC = P**0.3 * Q**0.7 / np.sum(P**0.3 * Q**0.7, -1, keepdims=True)
ENTROPY = -np.sum(P * np.log(P), -1)
OPTIONS = {  # fields, and the value at each prefix
    "temperature": (
        "forward_kl",
        {"temperature": 2.0},
        4 * kl(soft(P, 2.0), soft(Q, 2.0)),
    ),
    "top_k": ("reverse_kl", {"top_k": 2}, kl(*merged(2)[::-1])),
    "m": ("forward_kl", {"target": "m", "towards": 0.3}, kl(0.3 * P + 0.7 * Q, Q)),
    "e": ("reverse_kl", {"target": "e", "towards": 0.3}, kl(Q, GEOMETRIC)),
    "clip": ("reverse_kl", {"term_clip": 0.05}, np.minimum(terms(P, Q), 0.05).sum(-1)),
    "entropy": (
        "reverse_kl",
        {"forward_above": float(np.median(ENTROPY))},
        kl(Q, P) + kl(P, Q) * (np.median(ENTROPY) < ENTROPY),
    ),
    "akl": ("jeffreys", {"weights": "akl"}, akl()),
    "temperature of top-k": (
        "forward_kl",
        {"temperature": 2.0, "top_k": 2},
        None,
    ),
}


PLAIN = {"forward_kl": kl(P, Q), "reverse_kl": kl(Q, P), "jeffreys": jeffreys(P, Q)}


def with_slopes(measure: next_token.Measure):
    """(z_q, z_p) -> the value at each prefix, and the gradient of their sum on z_q."""

    def both(z_q, z_p):
        values, back = jax.vjp(lambda z_q: measure(z_q, z_p), z_q)
        return values, back(jnp.ones_like(values))[0]

    return both


@functools.cache
def measured(name: str):
    """`with_slopes` of an option, compiled once for each shape."""
    divergence, fields, _ = OPTIONS[name]
    method = objectives.resolve(f"distill:{divergence}", **fields)
    assert isinstance(method, Distill)
    return jax.jit(with_slopes(method.measure(divergences.parse(divergence))))


@pytest.mark.parametrize("name", OPTIONS)
def test_values_are_the_formulas_and_not_what_they_are_without_the_option(name):
    found = np.asarray(measured(name)(np.log(Q), np.log(P))[0])
    divergence, _, wanted = OPTIONS[name]
    if wanted is None:  # first the temperature, then the bucket
        soft_p, soft_q = soft(P, 2.0), soft(Q, 2.0)
        top = np.argsort(-soft_p, -1)[:, :2]
        a, b = (np.take_along_axis(x, top, -1) for x in (soft_p, soft_q))
        a, b = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (a, b))
        wanted = 4 * kl(a, b)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    assert np.abs(found - PLAIN[divergence]).max() > 1e-4


def reward_slope(reward: np.ndarray, q: np.ndarray = Q) -> np.ndarray:
    return -q * (reward - np.sum(q * reward, -1, keepdims=True))


def of_buckets(p: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    """p / q of each token's bucket: its own for p's k likeliest, that of all others else."""
    rank = np.argsort(np.argsort(-p, -1), -1)
    rest = [np.where(rank >= k, x, 0.0).sum(-1, keepdims=True) for x in (p, q)]
    return np.where(rank < k, p / q, rest[0] / rest[1])


def akl_share() -> np.ndarray:
    """Of forward KL: AKL's value is share forward + (1 - share) reverse."""
    return ((akl() - kl(Q, P)) / (kl(P, Q) - kl(Q, P)))[:, None]


SLOPES = {  # on the logits of q; where q is held fixed in the target, by the reward of what is left
    "temperature": 2 * (soft(Q, 2.0) - soft(P, 2.0)),
    "m": 0.3 * (Q - P),
    "e": reward_slope(0.3 * np.log(P / Q)),
    "clip": None,
    "top_k": reward_slope(np.log(of_buckets(P, Q, 2))),
    "entropy": reward_slope(np.log(P / Q) + (P / Q) * (np.median(ENTROPY) < ENTROPY)[:, None]),
    "akl": reward_slope(akl_share() * P / Q + (1 - akl_share()) * np.log(P / Q)),
    "temperature of top-k": 2
    * reward_slope(of_buckets(soft(P, 2.0), soft(Q, 2.0), 2), soft(Q, 2.0)),
}


def test_every_option_has_a_value_and_a_slope_by_hand():
    """A new option of `distill` is put here first."""
    given = {field for _, fields, _ in OPTIONS.values() for field in fields}
    others = {"divergence", "policy_prefixes", "learning_rate"}
    assert given | others == {field.name for field in dataclasses.fields(Distill)}
    assert set(SLOPES) == set(OPTIONS)


@pytest.mark.parametrize("name", SLOPES)
def test_gradients_are_the_formulas(name):
    found = np.asarray(measured(name)(np.log(Q), np.log(P))[1])
    wanted = SLOPES[name]
    if wanted is None:  # of the terms under the bound alone: d/dlog q = q log(q / p)
        slope = np.where(terms(P, Q) < 0.05, Q * np.log(Q / P), 0.0)
        wanted = slope - Q * slope.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-8)


def slopes_of(*measures: next_token.Measure) -> list[np.ndarray]:
    """The gradient of each measure's sum on z_q at P and Q, in one program."""
    each = [with_slopes(measure) for measure in measures]
    every = jax.jit(lambda z_q, z_p: [both(z_q, z_p)[1] for both in each])
    return list(map(np.asarray, every(np.log(Q), np.log(P))))


@pytest.mark.parametrize(
    ("name", "twin"), [("gjs:0.9", 10.0), pytest.param("m of js", 1.0, marks=pytest.mark.wide)]
)
def test_what_the_mixture_with_q_detached_is_the_gradient_of(name, twin):
    """KL(q || .9 p + .1 q) with q detached in the mixture: 1 / .1 times gjs:0.9, not the skew KL.
    In general of the f whose reward is r(log(t u + 1 - t))."""
    at = head.divergence_at
    if name == "gjs:0.9":
        detached = next_token.towards_m(at(divergences.reverse_kl()), 0.9)
        whole = at(divergences.parse(name))
    else:
        detached = next_token.towards_m(at(divergences.js()), 0.5)
        whole = next_token.of_mixture(divergences.js(), 0.5)
    skew = at(divergences.parse("skew_reverse_kl:0.1"))
    found, its, other = slopes_of(detached, whole, skew)
    np.testing.assert_allclose(found, twin * its, atol=1e-8)
    assert np.abs(other - found).max() > 1e-3


@pytest.mark.parametrize("spec", ["tv", "mix:js+0.5*tv", "mix:tv+hellinger2"])
@pytest.mark.few(1)
def test_a_kink_seen_through_a_mixture(spec):
    """A step of the reward at s = 0 stays a step: of tv alone the gradient is tv's own."""
    d, at = divergences.parse(spec), head.divergence_at
    detached, whole = next_token.towards_m(at(d), 0.4), next_token.of_mixture(d, 0.4)
    slope = lambda m: np.asarray(jax.grad(lambda z: m(z, jnp.log(P)).sum())(jnp.log(Q)))
    np.testing.assert_allclose(slope(detached), slope(whole), atol=1e-8)
    claim = objectives.resolve(f"distill:{spec}", target="m", towards=0.4).claim()
    if spec == "tv":
        np.testing.assert_allclose(slope(detached), slope(at(d)), atol=1e-10)
        assert claim.minimises == "tv" and claim.measure is None
    else:
        assert np.isfinite(claim.measure(jnp.log(Q), jnp.log(P))).all()


@functools.cache
def bucketed_laws() -> tuple[jax.Array, jax.Array]:
    """What 40 pairs of laws are measured by, q then p, [4, 40, 6] each: at top 1, 2 and 4 and the
    rest, and as they are. Tokens that no law has are appended, so that one program measures all."""
    draw = np.random.default_rng(1)
    log_p, log_q = np.log(draw.dirichlet(np.full(6, 0.5), (2, 40)))
    pad = lambda z: jnp.pad(z, [(0, 0), (0, 6 - z.shape[1])], constant_values=-jnp.inf)
    seen = lambda z_q, z_p: jnp.stack([pad(z_q), pad(z_p)])
    each = [*(next_token.bucketed(seen, k) for k in (1, 2, 4)), seen]
    return tuple(jax.jit(lambda *laws: jnp.stack([x(*laws) for x in each], 1))(log_q, log_p))


@pytest.mark.parametrize("spec", [*divergences.every(), "todi", "dail", "mix:js+0.5*tv"])
@pytest.mark.few(1)
def test_top_k_with_the_rest_is_a_lower_bound(spec):
    """0 <= D_k <= D, increasing in k: merging outcomes raises no f-divergence."""
    values = jax.jit(head.divergence_at(divergences.parse(spec)))(*bucketed_laws())
    assert np.abs(np.diff(values, axis=0)).max() > 1e-3
    steps = np.diff(np.array([np.zeros(40), *values]), axis=0)
    assert steps.min() >= -1e-9 * (1 + np.max(values))


def test_bucketless_top_k_is_no_divergence():
    """Without the rest the terms of forward KL are not a divergence of anything: laws that agree on
    the two likeliest tokens in their ratio alone, or with less mass there, have a negative one."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.36, 0.04])
    assert np.sum(p[:2] * np.log(p[:2] / q[:2])) < 0
    at = next_token.bucketed(head.divergence_at(divergences.forward_kl()), 2)
    assert float(jax.jit(at)(np.log(q), np.log(p))) > 0


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.wide
def test_every_option_is_finite_in_single_precision(name):
    with jax.enable_x64(False):
        z_p = np.array([[200.0, 0.0, -3.0, -np.inf, 1.0]], np.float32)
        z_q = np.array([[-300.0, 4.0, 1.0, 0.5, -2.0]], np.float32)
        value, slope = measured(name)(z_q, z_p)
        assert value.dtype == slope.dtype == np.float32
        assert np.isfinite(slope).all()
        assert not np.isnan(value).any()


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("distill", {"towards": 0.5}, "towards"),
        ("distill", {"target": "m"}, "towards below 1"),
        ("distill:js", {"weights": "akl"}, "distill:jeffreys"),
        ("distill", {"temperature": 0.0}, "temperature"),
        ("distill", {"top_k": -1}, "top_k"),
        ("distill", {"top_k": 3}, "left to merge"),
        ("distill", {"term_clip": 0.0}, "term_clip"),
        ("distill", {"forward_above": -1.0}, "forward_above"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, fields, says):
    space, expert, policy, params = random_models("ending")  # three symbols
    world = build(space, policy, jnp.asarray(params), expert)
    with pytest.raises(UsageError, match=says):
        objectives.resolve(name, **fields).build(world.exact)


@pytest.mark.parametrize("name", OPTIONS)
def test_tokens_that_no_law_has_change_nothing(name):
    """Appended with probability 0, as rows of an embedding without a token are: values and slopes
    are those without them, also where no token is left for the bucket."""
    none = np.full((len(P), 2), -np.inf)
    z_q, z_p = (np.concatenate([np.log(x), none], -1) for x in (Q, P))
    value, slope = measured(name)(z_q, z_p)
    wanted, wanted_slope = measured(name)(np.log(Q), np.log(P))
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    np.testing.assert_allclose(slope[:, : P.shape[1]], wanted_slope, atol=1e-12)
    assert not np.any(slope[:, P.shape[1] :])


@pytest.mark.parametrize("spec", ["forward_kl", "reverse_kl", "js"])
def test_an_empty_bucket_costs_nothing(spec):
    whole = head.divergence_at(divergences.parse(spec))
    none = np.full((len(P), 2), -np.inf)
    z_q, z_p = (np.concatenate([np.log(x), none], -1) for x in (Q, P))
    each = [with_slopes(x) for x in (next_token.bucketed(whole, P.shape[1]), whole)]
    for found, wanted in zip(*jax.jit(lambda *laws: [both(*laws) for both in each])(z_q, z_p)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_claims_say_what_each_option_is():
    claim = lambda name, **fields: objectives.resolve(name, **fields).claim()
    assert claim("distill:reverse_kl", target="m", towards=0.9).minimises == "gjs:0.9"
    assert claim("distill:forward_kl", target="e", towards=0.5).minimises == "alpha:0.5"
    assert "temperature 2" in claim("distill", temperature=2.0).sentence
    assert claim("distill:jeffreys", weights="akl").sentence.startswith("Biased")
    assert claim("dagger", top_k=2).how == "over 2 tokens and the rest"
    assert not claim("distill").how
