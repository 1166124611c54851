"""The laws of the family, over every member and random laws p, q."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import ADDED, EVERY, MORE, SMOOTH

from fdiv import divergences
from fdiv.conventions import equivalents
from fdiv.types import UsageError

pytestmark = pytest.mark.usefixtures("double")
LATER = [pytest.param(spec, marks=pytest.mark.wide) for spec in ADDED]
# log-ratios of which single precision has room for the exponentials, if not for all made of them
TAILS = np.concatenate([np.linspace(-100, 100, 401), [-1e-4, 1e-4]])
# Operations outside of a jit are compiled once for each shape, so that all laws have this one.
POINTS = len(TAILS)
SIZES = st.sampled_from([2, 5, 9])
laws = st.tuples(st.integers(0, 2**31), SIZES, st.sampled_from([0.3, 1.0, 3.0]))
quick = settings(max_examples=15, deadline=None)


def pair(law) -> tuple[np.ndarray, np.ndarray]:
    """Two log-laws [POINTS]; outcomes beyond the size have next to no mass."""
    seed, size, concentration = law
    draw = np.random.default_rng(seed)
    drawn = (draw.dirichlet(np.full(size, concentration)) for _ in range(2))
    p, q = (np.maximum(np.pad(x, (0, POINTS - size)), 1e-9) for x in drawn)
    return np.log(p / p.sum()), np.log(q / q.sum())


def value(d, log_p, log_q) -> float:
    return float(np.sum(d.perspective(log_p, log_q)))


def slope_of(function, *at: np.ndarray, by: int = 0) -> np.ndarray:
    """Of an elementwise function, by one of its arguments. Forwards: outside of a jit the other
    way takes twice the time."""
    along = tuple(np.full_like(x, i == by) for i, x in enumerate(at))
    return np.asarray(jax.jvp(function, at, along)[1])


def family_specs():
    """Random parameters for the members that take one."""
    weight = st.floats(0.02, 0.98).map(lambda w: round(w, 3))
    named = st.sampled_from(
        [name for name in divergences.FAMILY if divergences.FAMILY[name].parameter is None]
    )
    weighted = st.tuples(st.sampled_from(["gjs", "skew_kl", "skew_reverse_kl"]), weight).map(
        lambda t: f"{t[0]}:{t[1]}"
    )
    power = st.floats(-2.5, 3.0).map(lambda a: f"alpha:{a:.4f}")
    order = st.tuples(st.sampled_from(["tsallis", "renyi"]), st.floats(0.1, 2.5))
    ordered = order.map(lambda t: f"{t[0]}:{t[1]:.4f}")
    single = st.one_of(named, weighted, power, ordered)
    pair = st.tuples(st.floats(0.1, 3.0), single, single)
    return st.one_of(single, pair.map(lambda t: f"mix:{t[0]:.3f}*{t[1]}+{t[2]}"))


@quick
@given(family_specs(), laws)
def test_variational_law_is_tight_at_the_log_ratio_and_a_bound_elsewhere(spec, law):
    d, (log_p, log_q) = divergences.parse(spec), pair(law)
    bound = lambda s: np.sum(np.exp(log_p) * d.witness(s) - np.exp(log_q) * d.reward(s))
    truth = value(d, log_p, log_q)
    assert bound(log_p - log_q) == pytest.approx(truth, rel=1e-9, abs=1e-10)
    noise = np.random.default_rng(law[0]).standard_normal(log_p.shape)
    assert bound(log_p - log_q + noise) <= truth + 1e-9 * max(1, abs(truth))


@quick
@given(family_specs(), laws)
def test_gradient_law(spec, law):
    """At each outcome, whatever its log-mass is a function of."""
    d, (log_p, log_q) = divergences.parse(spec), pair(law)
    direct = slope_of(d.perspective, log_p, log_q, by=1)
    score = -np.exp(log_q) * d.reward(log_p - log_q)
    np.testing.assert_allclose(direct, score, rtol=1e-7, atol=1e-9 * (1 + np.abs(score).max()))


@quick
@given(family_specs(), laws)
def test_zero_iff_equal_and_positive_pointwise(spec, law):
    d, (log_p, log_q) = divergences.parse(spec), pair(law)
    assert value(d, log_p, log_p) == pytest.approx(0, abs=1e-12)
    each = np.asarray(d.perspective(log_p, log_q))
    assert each.min() >= -1e-9 * (1 + np.abs(each).max())
    if np.abs(log_p - log_q).max() > 1e-3:
        assert each.sum() > 0


@quick
@given(family_specs(), laws)
def test_data_processing(spec, law):
    """Merging outcomes (any stochastic map, here a random one) never raises a divergence."""
    d, (log_p, log_q) = divergences.parse(spec), pair(law)
    onto = np.random.default_rng(law[0]).dirichlet(np.ones(3), size=POINTS)
    part = np.arange(POINTS) % 3  # what comes out is three outcomes, each in equal parts
    channel = onto[:, part] / np.bincount(part)[part]
    through = lambda log: np.log(np.exp(log) @ channel)
    assert value(d, through(log_p), through(log_q)) <= value(d, log_p, log_q) + 1e-9


@pytest.mark.few(7)
@pytest.mark.parametrize("spec", [*MORE, *LATER])
def test_normalised_at_one(spec):
    d = divergences.parse(spec)
    same, none = np.linspace(-8, 0, POINTS), np.zeros(POINTS)
    slope = slope_of(d.perspective, same, same)  # p f'(u) at u = 1
    for found in (d.perspective(same, same), d.witness(none), d.reward(none), slope):
        assert np.abs(found).max() < 1e-12


@pytest.mark.parametrize("spec", [*SMOOTH, *LATER])
def test_the_three_functions_belong_to_one_f(spec):
    d, s = divergences.parse(spec), np.linspace(-4, 4, POINTS)
    u, none = np.exp(s), np.zeros(POINTS)
    f = np.asarray(d.perspective(s, none))
    witness = np.asarray(d.witness(s))
    slope = slope_of(d.perspective, s, none) / u  # by log u, so u times f'(u)
    np.testing.assert_allclose(slope, witness, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(u * witness - f, d.reward(s), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spec", [*EVERY, *LATER])
def test_swapping_exchanges_the_arguments(spec):
    d = divergences.parse(spec)
    log_p, log_q = pair((5, 6, 1.0))
    other = divergences.swapped(d)
    assert value(other, log_p, log_q) == pytest.approx(value(d, log_q, log_p), rel=1e-12)
    s = log_p - log_q
    bound = np.sum(np.exp(log_p) * other.witness(s) - np.exp(log_q) * other.reward(s))
    assert bound == pytest.approx(value(other, log_p, log_q), rel=1e-9)


IDENTITIES = [  # left = factor * right, on random laws: the equivalences that the cards print
    ("alpha:1", 1, "forward_kl"),
    ("alpha:0", 1, "reverse_kl"),
    ("alpha:2", 0.5, "pearson_chi2"),
    ("alpha:-1", 0.5, "neyman_chi2"),
    ("alpha:0.5", 2, "hellinger2"),
    ("gjs:0.5", 1, "js"),
]


@pytest.mark.parametrize(("left", "factor", "right"), IDENTITIES)
def test_identities(left, factor, right):
    log_p, log_q = pair((1, 7, 1.0))
    found, wanted = (value(divergences.parse(x), log_p, log_q) for x in (left, right))
    assert found == pytest.approx(factor * wanted, rel=1e-10)


def test_sums_and_limits():
    log_p, log_q = pair((2, 7, 1.0))
    at = lambda spec, a=log_p, b=log_q: value(divergences.parse(spec), a, b)
    assert at("jeffreys") == pytest.approx(at("forward_kl") + at("reverse_kl"))
    assert at("log_d") == pytest.approx(at("reverse_kl") - 2 * at("js"))
    b = 1e-5
    assert at(f"gjs:{b}") / (b * (1 - b)) == pytest.approx(at("forward_kl"), rel=1e-3)
    assert at(f"gjs:{1 - b}") / (b * (1 - b)) == pytest.approx(at("reverse_kl"), rel=1e-3)
    assert at("skew_kl:0.00001") == pytest.approx(at("forward_kl"), rel=1e-3)
    assert at("alpha:0.3") == pytest.approx(
        at("alpha:0.7", log_q, log_p)
    )  # swapping maps a to 1 - a
    assert at("skew_reverse_kl:0.2") == pytest.approx(at("skew_kl:0.2", log_q, log_p))
    # gjs is the two skew KLs to its own mixture b p + (1-b) q: GKD's beta is skew_kl's lambda and 1
    # - skew_reverse_kl's
    mixed = 0.3 * at("skew_kl:0.3") + 0.7 * at("skew_reverse_kl:0.7")
    assert at("gjs:0.3") == pytest.approx(mixed)


def test_renyi_converter():
    """Renyi order a = log(1 + a (a-1) D_alpha) / (a - 1), the formula that the card prints."""
    log_p, log_q = pair((3, 5, 1.0))
    a = 0.4
    renyi = np.log(np.sum(np.exp(a * log_p + (1 - a) * log_q))) / (a - 1)
    converted = math.log(1 + a * (a - 1) * value(divergences.parse(f"alpha:{a}"), log_p, log_q)) / (
        a - 1
    )
    assert converted == pytest.approx(renyi)
    assert "-0.24 D" in equivalents(f"alpha:{a}")["Renyi"]


def test_golden_values():
    """A fair die against one with P(1) = 1/2 (others 1/10), in bits: facts of arithmetic, by hand.

    forward: sum 1/6 log2((1/6)/(m)) = 1/6 log2(1/3) + 5/6 log2(5/3) = .349978; tv = |1/6 - 1/2| =
    1/3."""
    nothing = [-np.inf] * (POINTS - 6)
    p = np.concatenate([np.log([1 / 6] * 6), nothing])
    q = np.concatenate([np.log([0.5] + [0.1] * 5), nothing])
    bits = lambda spec: value(divergences.parse(spec), p, q) / math.log(2)
    assert bits("forward_kl") == pytest.approx(0.349978, abs=1e-6)
    assert bits("reverse_kl") == pytest.approx(0.423998, abs=1e-6)
    assert bits("js") == pytest.approx(0.093285, abs=1e-6)
    assert value(divergences.parse("tv"), p, q) == pytest.approx(1 / 3)
    assert value(divergences.parse("pearson_chi2"), p, q) == pytest.approx(
        1 / 36 / 0.5 + 5 * (1 / 36) / 0.1 - 1
    )


# --- log space ------------------------------------------------------------------------------------


@functools.cache
def with_slopes(spec: str, part: str = "perspective") -> Callable:
    """A function of a member and its slopes by each argument, elementwise: backwards, as in
    training."""
    function = getattr(divergences.parse(spec), part)

    @jax.jit
    def both(*at):
        found, back = jax.vjp(function, *at)
        return found, back(jnp.ones_like(found))

    return lambda *at: jax.tree.map(np.asarray, both(*at))


@pytest.mark.parametrize("spec", [*MORE, *LATER])
@pytest.mark.few(8)
def test_finite_wherever_the_value_is(spec):
    """float32, |s| <= 100: compared with float64, which holds all of these values; gradients are
    finite always."""
    for log_q in (-120.0, -3.0):
        points = np.stack([np.minimum(log_q + TAILS, 0.0), np.full_like(TAILS, log_q)])
        wide = np.asarray(divergences.parse(spec).perspective(*points))
        with jax.enable_x64(False):
            narrow, slopes = with_slopes(spec)(*points.astype(np.float32))
        assert np.isfinite(slopes[0]).all()
        assert np.isfinite(slopes[1]).all()
        fits = np.abs(wide) < 1e38  # float32 ends at 3.4e38
        assert np.isfinite(narrow[fits]).all()
        assert not np.isnan(narrow).any()
        scale = 1e-5 * (np.exp(points).sum(0) + np.abs(wide))
        np.testing.assert_array_less(
            np.abs(narrow - wide)[fits], (scale * (1 + np.abs(TAILS)) + 1e-33)[fits]
        )


def test_single_precision_stays_single_where_double_is_the_default():
    """Of all by which a run is measured: of two log-masses, and of their difference."""
    masses = [jax.ShapeDtypeStruct((3,), jnp.float32)] * 2
    for name in divergences.logged():
        d = divergences.parse(name)
        found = jax.eval_shape(lambda p, q, d=d: (d.perspective(p, q), d.reward(p - q)), *masses)
        assert [x.dtype for x in found] == [jnp.float32] * 2, name


@pytest.mark.few(14)
@pytest.mark.parametrize("spec", [*MORE, *LATER])
@pytest.mark.parametrize("side", ["witness", "reward"])
def test_witness_and_reward_in_float32(spec, side):
    wide = np.asarray(getattr(divergences.parse(spec), side)(TAILS))
    with jax.enable_x64(False):
        narrow, (slope,) = with_slopes(spec, side)(TAILS.astype(np.float32))
    fits = np.abs(wide) < 1e37  # a term of a sum may be larger than the sum
    assert np.isfinite(narrow[fits]).all()
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(narrow[fits], wide[fits], rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [*EVERY, *LATER])
@pytest.mark.few(5)
def test_extreme_logits_disjoint_supports_and_half_precision(spec):
    """Logits at +-1e4, -inf on either or both sides, bfloat16: never NaN, gradients finite."""
    inf = np.inf
    log_p, log_q = np.zeros((2, POINTS), np.float32)
    # log-laws of logits -1e4, 1e4, 0, -5 and of their negatives, then no mass on a side or on both
    log_p[:8] = [-2e4, 0.0, -1e4, -1e4 - 5, 0.0, -inf, -inf, -1.0]
    log_q[:8] = [0.0, -2e4, -1e4, 5 - 1e4, -inf, 0.0, -inf, -1.0]
    half = jnp.array([3.0, -2.0, 0.5], jnp.bfloat16)
    log, d = jax.nn.log_softmax, divergences.parse(spec)
    with jax.enable_x64(False):
        values, slopes = with_slopes(spec)(log_p, log_q)
        slope = jax.jit(jax.grad(lambda z: d.perspective(log(-half), log(z)).sum()))(half)
    assert not np.isnan(values).any()
    assert values[6] == 0
    assert np.isfinite(slopes).all()
    assert np.isfinite(np.asarray(slope, np.float32)).all()


@pytest.mark.parametrize("spec", [*EVERY, *LATER])
def test_disjoint_supports_cost_what_the_limit_says(spec):
    log_p, log_q = np.zeros((2, POINTS))
    log_p[:2], log_q[2:4] = (-200.0, -np.inf), (-200.0, -np.inf)
    costs = np.asarray(divergences.parse(spec).perspective(log_p, log_q))
    for near, limit in (costs[:2], costs[2:4]):
        assert near > 30 if math.isinf(limit) else near == pytest.approx(limit, abs=1e-6)


CLOSE = [*MORE, "gjs:0.999999", "gjs:0.000001", "skew_kl:0.999999", "skew_kl:0.9999"]
CLOSE += ["skew_kl:0.000001", "skew_reverse_kl:0.999999", "alpha:0.9999", "alpha:3"]


@pytest.mark.parametrize("spec", [*CLOSE, *LATER])
@pytest.mark.few(10)
def test_single_precision_near_equality(spec):
    """Identical laws have divergence 0 to the bit, no law a negative one at any point, and log-
    ratios of 1e-4 and more, where terms of first order would leave no digit, four digits."""
    d = divergences.parse(spec)
    away = np.geomspace(1e-4, 8, POINTS // 2)
    s = np.concatenate([[0.0], away, -away])
    log_q = np.log(np.random.default_rng(0).dirichlet(np.ones(len(s)))).astype(np.float32)
    log_p = (log_q + s).astype(np.float32)
    wide = np.asarray(d.perspective(*np.float64([log_p, log_q])))
    slopes = [np.asarray(side(s)) for side in (d.witness, d.reward)]
    with jax.enable_x64(False):
        narrow = np.asarray(d.perspective(log_p, log_q))
        assert not np.asarray(d.perspective(log_q, log_q)).any()
        found = [np.asarray(side(s.astype(np.float32))) for side in (d.witness, d.reward)]
    assert narrow.min() >= 0
    np.testing.assert_allclose(narrow, wide, rtol=2e-4)
    small = max(1e-30, 1e-7 * float(np.abs(slopes).max())) if spec == "js" else 1e-12
    for got, wanted in zip(found, slopes):
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=max(small, 2e-7 * (spec in LOOSE)))


LOOSE = ("js", "log_d", "jeffreys")  # whose witness or reward is a difference of numbers like 1


# --- names, parsing, a user's own -----------------------------------------------------------------


@pytest.mark.parametrize("spec", [*EVERY, *LATER])
def test_every_member_has_a_card_and_parses_to_itself(spec):
    card = divergences.card(spec)
    assert all(card)
    assert divergences.parse(divergences.parse(spec).name).name == divergences.parse(spec).name
    assert divergences.parse(spec.upper().replace("_", "-")).name == divergences.parse(spec).name
    assert isinstance(equivalents(spec), dict)


def test_conventions():
    assert equivalents("alpha:0.3")["Amari alpha"] == "-0.4"
    assert equivalents("alpha:0.3")["p and q swapped"] == "alpha:0.7"
    assert equivalents("skew_reverse_kl:0.1")["GKD beta of the same mixture"] == "0.9"


def as_published(convention: str, parameter: float, p: np.ndarray, q: np.ndarray) -> float:
    """Each source's own formula, of masses p and q in the order that the card's note says."""
    x, kl = parameter, lambda a, b: float(np.sum(a * np.log(a / b)))
    if convention == "Amari alpha":
        # 4 / (1 - A^2) (1 - sum p^((1+A)/2) q^((1-A)/2))
        return 4 / (1 - x**2) * (1 - np.sum(p ** ((1 + x) / 2) * q ** ((1 - x) / 2)))
    if convention == "f-DPO alpha":
        # E_ref[f(pi / ref)], f(u) = (u^(1-a) - (1-a) u - a) / (a (a-1)); p is ref, q is pi
        u = q / p
        return np.sum(p * (u ** (1 - x) - (1 - x) * u - x)) / (x * (x - 1))
    if convention == "TRL f_alpha_divergence_coef":
        # f'(u) = (u^(c-1) - 1) / (c-1) of u = pi / ref, so f(u) = (u^c - c u - (1-c)) / (c (c-1))
        u = q / p
        return np.sum(p * (u**x - x * u - (1 - x))) / (x * (x - 1))
    if convention == "alpha-DPG alpha":
        # 1 at reverse KL and 0 at KL(target||policy): E_p[(p/q)^-A] in place of E_p[(q/p)^A]
        return np.sum(p * ((p / q) ** -x - 1)) / (x * (x - 1))
    if convention == "ABKD alpha, beta":
        # -1/(a b) sum p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b), p the teacher
        a, b = x, 1 - x
        return -np.sum(p**a * q**b - a * p - b * q) / (a * b)
    if convention in ("GKD beta", "TRL beta", "SDPO distillation_alpha"):
        m = x * p + (1 - x) * q
        return x * kl(p, m) + (1 - x) * kl(q, m)
    if convention == "DistiLLM lambda":
        return kl(p, x * p + (1 - x) * q)
    if convention == "DistiLLM lambda, reversed":
        return kl(q, x * q + (1 - x) * p)
    raise KeyError(convention)


@pytest.mark.parametrize(
    ("spec", "row", "convention"),
    [
        *(
            (spec, name, name)
            for spec in ("alpha:0.3", "alpha:0.8")
            for name in (
                "Amari alpha",
                "f-DPO alpha",
                "TRL f_alpha_divergence_coef",
                "alpha-DPG alpha",
                "ABKD alpha, beta",
            )
        ),
        ("gjs:0.2", "GKD beta", "GKD beta"),
        ("gjs:0.2", "TRL beta", "TRL beta"),
        ("gjs:0.2", "SDPO distillation_alpha", "SDPO distillation_alpha"),
        ("skew_kl:0.2", "DistiLLM lambda", "DistiLLM lambda"),
        ("skew_reverse_kl:0.2", "DistiLLM lambda", "DistiLLM lambda, reversed"),
    ],
)
def test_converters_give_the_sources_value(spec, row, convention):
    """With the parameter that the card prints, the source's formula has the member's value, and in
    the other orientation that of what the card calls it when p and q are swapped."""
    parameter = float(equivalents(spec)[row].partition(",")[0].partition(" ")[0])
    for a, b in (((1, 6, 1.0), spec), ((2, 6, 3.0), spec)):
        log_p, log_q = pair(a)
        p, q = np.exp(log_p), np.exp(log_q)
        ours = value(divergences.parse(b), log_p, log_q)
        assert as_published(convention, parameter, p, q) == pytest.approx(ours, rel=1e-9)
        swapped = divergences.parse(equivalents(spec)["p and q swapped"])
        assert value(swapped, log_q, log_p) == pytest.approx(ours, rel=1e-9)
        if "skew" not in spec and spec != "gjs:0.5":  # the two orientations do differ
            assert as_published(convention, parameter, q, p) != pytest.approx(ours, rel=1e-3)


def test_a_mixture_has_the_same_weights_in_gkd():
    """skew_kl:l is KL(p||m) and skew_reverse_kl:l KL(q||m'), m = b p + (1-b) q with GKD's b."""
    log_p, log_q = pair((1, 6, 1.0))
    p, q = np.exp(log_p), np.exp(log_q)
    for spec, own in (("skew_kl:0.2", p), ("skew_reverse_kl:0.2", q)):
        b = float(equivalents(spec)["GKD beta of the same mixture"])
        wanted = np.sum(own * np.log(own / (b * p + (1 - b) * q)))
        assert value(divergences.parse(spec), log_p, log_q) == pytest.approx(wanted)


ENDS = {  # what a source computes at the ends of its parameter, p the teacher, target or reference
    "TRL beta": {
        "0": lambda p, q: np.sum(p * np.log(p / q)),
        "1": lambda p, q: np.sum(q * np.log(q / p)),
        "0.5": lambda p, q: sum(np.sum(x * np.log(2 * x / (p + q))) / 2 for x in (p, q)),
    },
    "SDPO distillation_alpha": {
        "0": lambda p, q: np.sum(p * np.log(p / q)),
        "1": lambda p, q: np.sum(q * np.log(q / p)),
        "0.5": lambda p, q: sum(np.sum(x * np.log(2 * x / (p + q))) / 2 for x in (p, q)),
    },
    # the limits of ((p/q)^-A - 1) / (A) under p at A = 0 and 1
    "alpha-DPG alpha": {
        "0": lambda p, q: np.sum(p * ((p / q) ** -1e-7 - 1)) / (1e-7 * (1e-7 - 1)),
        "1": lambda p, q: np.sum(p * ((p / q) ** -(1 - 1e-7) - 1)) / ((1 - 1e-7) * -1e-7),
    },
    # E_p[f(q/p)] with the f whose slope the loss has: log u, 1 - 1/u, log(2 u / (1 + u))
    "TRL f_divergence_type": {
        "reverse_kl": lambda p, q: np.sum(q * np.log(q / p)),
        "forward_kl": lambda p, q: -np.sum(p * np.log(q / p)),
        "js_divergence": lambda p, q: np.sum(
            q * np.log(2 * q / (p + q)) + p * np.log(2 * p / (p + q))
        ),
    },
}


@pytest.mark.parametrize("spec", ["forward_kl", "reverse_kl", "js"])
def test_the_ends_of_the_sources_parameters(spec):
    """With what the card prints for a KL or the JS the source's formula has the member's value."""
    (log_p, log_q), rows = pair((1, 6, 1.0)), equivalents(spec)
    asked = [(name, rows[name]) for name in ENDS if name in rows]
    assert len(asked) >= 3
    for name, text in asked:
        word = text.partition(" ")[0].rstrip(",:")
        factor = 2 if text.startswith("js_divergence") and "twice" in text else 1
        found = ENDS[name][word](np.exp(log_p), np.exp(log_q))
        ours = factor * value(divergences.parse(spec), log_p, log_q)
        assert found == pytest.approx(ours, rel=1e-5 if "DPG" in name else 1e-10)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("forward-kll", "forward_kl"),
        ("jss", "js"),
        ("gjs", "gjs:0.1"),
        ("gjs:0", "between 0 and 1"),
        ("gjs:nan", "between"),
        ("js:0.5", "no parameter"),
        ("alpha:half", "alpha:0.5"),
        ("alpha:inf", "real number"),
        ("", "nearest"),
    ],
)
def test_what_does_not_parse_says_the_fix(spec, says):
    with pytest.raises(UsageError, match=says):
        divergences.parse(spec)


@pytest.mark.parametrize(
    ("f", "spec"),
    [
        (lambda u: u * jnp.log(u), "forward_kl"),
        (lambda u: -jnp.log(u) + 3 * u, "reverse_kl"),
        (lambda u: (u - 1) ** 2, "pearson_chi2"),
        (lambda u: 0.5 * jnp.abs(u - 1), "tv"),
        (lambda u: (jnp.sqrt(u) - 1) ** 2 + 7, "hellinger2"),
    ],
)
@pytest.mark.few(1)
def test_a_generator_becomes_the_member_it_generates(f, spec):
    log_p, log_q = pair((4, 6, 1.0))
    log_p[-2:], log_q[-2:] = (-np.inf, 0.0), (0.0, -np.inf)
    s = (log_p - log_q)[:-2]
    of = lambda d: jax.jit(lambda: (d.perspective(log_p, log_q), d.witness(s), d.reward(s)))()
    found, wanted = of(divergences.from_generator(f, "mine")), of(divergences.parse(spec))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-7, atol=1e-10)
    for got, right in zip(found[1:], wanted[1:]):
        np.testing.assert_allclose(got, right, rtol=1e-7, atol=1e-9)


GENERATORS = {
    "forward_kl": lambda u: u * jnp.log(u),
    "reverse_kl": lambda u: -jnp.log(u),
    "js": lambda u: (u * jnp.log(u) - (u + 1) * jnp.log((u + 1) / 2)) / 2,
    "gjs:0.1": lambda u: 0.1 * u * jnp.log(u / (0.1 * u + 0.9)) - 0.9 * jnp.log(0.1 * u + 0.9),
    "tv": lambda u: jnp.abs(u - 1) / 2,
    "pearson_chi2": lambda u: (u - 1) ** 2,
    "neyman_chi2": lambda u: (1 - u) ** 2 / u,
    "jeffreys": lambda u: (u - 1) * jnp.log(u),
    "hellinger2": lambda u: (jnp.sqrt(u) - 1) ** 2,
    "alpha:0.05": lambda u: u**0.05 / (0.05 * (0.05 - 1)),
    "alpha:1.5": lambda u: u**1.5 / 0.75,
}


@pytest.mark.parametrize("spec", GENERATORS)
@pytest.mark.few(2)
def test_a_generator_follows_f_into_its_tails(spec):
    """Single precision, |s| up to 100: the member's own values, slopes and limits."""
    s = np.concatenate([np.linspace(-100, 100, 401), np.linspace(-2, 2, 81)])
    log_q = np.where(s > 0, -3 - s, -3.0)
    log_p, log_q, s = np.float32([log_q + s, log_q, s])
    log_p, log_q = np.append(log_p, [-np.inf, 0.0]), np.append(log_q, [0.0, -np.inf])

    @jax.jit
    def both(log_p, log_q, s):
        mine, known = divergences.from_generator(GENERATORS[spec], "mine"), divergences.parse(spec)
        values, back = jax.vjp(mine.perspective, log_p, log_q)
        of_mine = values, mine.witness(s), mine.reward(s)
        of_known = known.perspective(log_p, log_q), known.witness(s), known.reward(s)
        return of_mine, of_known, back(jnp.ones_like(values))

    with jax.enable_x64(False):
        found, wanted, slopes = jax.tree.map(np.asarray, both(log_p, log_q, s))
    for got, right, inside in zip(found, wanted, (slice(-2), slice(None), slice(None))):
        got, right = got[inside], right[inside]
        fits = np.abs(right) < 1e36
        np.testing.assert_allclose(got[fits], right[fits], rtol=3e-5, atol=3e-6)
    assert found[0][-2:] == pytest.approx(wanted[0][-2:], rel=1e-4)  # the limits
    assert np.isfinite(slopes).all()
    assert found[0][200] == s[200] == 0


@pytest.mark.parametrize("spec", [*GENERATORS, "(1 + u) log^2(1 + u)"])
@pytest.mark.few(1)
def test_a_generator_in_double_precision_beyond_its_centre(spec):
    """|s| up to 95, a kink's own point left out: values and slopes to 1e-10 and gradients to 1e-8;
    the reward to 3e-5, as f itself does not hold more of it where u f' and f cancel."""
    s = np.concatenate([np.linspace(-95, 95, 190), [-12.01, 12.01, 12.5, 13.3]])
    log_q = jnp.where(s > 0, -3 - s, -3.0)
    if spec in GENERATORS:
        mine, known = divergences.from_generator(GENERATORS[spec], "mine"), divergences.parse(spec)
        values, witness, reward = known.perspective, known.witness, known.reward
    else:  # whose dt/ds is no power of u; t = log^2(1+u) + 2 log(1+u)
        mine = divergences.from_generator(lambda u: (1 + u) * jnp.log1p(u) ** 2, "mine")
        at1 = math.log(2) ** 2 + 2 * math.log(2)
        size = lambda s: jnp.logaddexp(0.0, s)
        witness = lambda s: size(s) ** 2 + 2 * size(s) - at1
        # u f' - f = 2 u log(1+u) - log^2(1+u), less its value at 1
        reward = lambda s: (
            2 * jnp.exp(s) * size(s) - size(s) ** 2 - 2 * math.log(2) + math.log(2) ** 2
        )
        values = lambda lp, lq: jnp.exp(lp) * witness(lp - lq) - jnp.exp(lq) * reward(lp - lq)

    @jax.jit
    def both():
        slopes = lambda d: jax.grad(lambda *x: d(*x).sum(), (0, 1))(log_q + s, log_q)
        of = lambda v, w, r: (v(log_q + s, log_q), w(s), r(s), *slopes(v))
        return of(mine.perspective, mine.witness, mine.reward), of(values, witness, reward)

    found, wanted = both()
    tolerance = [(1e-10, 1e-14), (1e-10, 1e-12), (3e-5, 1e-9), (1e-8, 1e-9), (1e-8, 1e-9)]
    for got, right, (relative, absolute) in zip(found, wanted, tolerance):
        np.testing.assert_allclose(got, right, rtol=relative, atol=absolute)


def test_the_example_of_the_pages():
    """((u+1) log((u+1)/2) - (u+1)/2 log u) / 2: p = .9, q = .1 at one outcome and the other way at
    the other have the mean .5, so D = 2 times .5 log(.5 / sqrt(.09)) = log(5/3)."""
    f = lambda u: (u + 1) / 2 * jnp.log((u + 1) / (2 * jnp.sqrt(u)))
    d = divergences.from_generator(f, "arithmetic_geometric")
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log([[0.9, 0.1, 0.0, 1.0], [0.1, 0.9, 1.0, 0.0]])
    costs = np.asarray(jax.jit(d.perspective)(log_p, log_q))
    assert costs[:2].sum() == pytest.approx(math.log(5 / 3), rel=1e-10)
    assert np.isposinf(costs[2:]).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_divergence_of_any_scale(scale):
    d = divergences.from_generator(lambda u: scale * GENERATORS["js"](u), "scaled")
    log_p, log_q = pair((4, 6, 1.0))
    wanted = scale * value(divergences.js(), log_p, log_q)
    assert float(np.sum(jax.jit(d.perspective)(log_p, log_q))) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda u: -u * jnp.log(u), "not convex"),
        (lambda u: jnp.sin(u) + u, "not convex"),
        (lambda u: -1e-9 * u * jnp.log(u), "not convex"),
        (lambda u: 2 * u + 1, "straight"),
        (lambda u: jnp.maximum(u - 2, 0), "straight from about u = 0 to 2"),
        (lambda u: jnp.maximum(jnp.abs(u - 1) - 0.2, 0), r"straight from about u = 0.79\d to 1.2"),
        (lambda u: jnp.maximum(jnp.abs(u - 1) - 0.01, 0), "not strictly convex at 1"),
        (lambda u: jnp.where(u < 5, (u - 1) ** 2, 16.0), "u = 4.9"),
        (lambda u: jnp.log(u - 2), "not finite"),
    ],
)
def test_what_is_not_a_generator_is_refused_at_its_point(f, says):
    with pytest.raises(UsageError, match=says):
        divergences.from_generator(f, "mine")
