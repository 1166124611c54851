"""Members from a reward, sums of members, and the alpha-beta divergence: against arithmetic in
numpy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import ADDED, SMOOTH
from scipy.special import expit, spence

from fdiv import divergences, objectives
from fdiv.types import UsageError

pytestmark = pytest.mark.usefixtures("double")


def pair(seed: int = 0, size: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """log p and log q of two random laws."""
    p, q = np.random.default_rng(seed).dirichlet(np.full(size, 0.7), 2)
    return np.log(p), np.log(q)


def todi(u):
    """(u - 1) log u - u (s^2/2 - s log(1+u) - Li2(-u) - pi^2/12), and Li2(-u) = spence(1 + u)."""
    s = np.log(u)
    lost = s**2 / 2 - s * np.log1p(u) - spence(1 + u) - math.pi**2 / 12
    return (u - 1) * s - u * lost


def dail(u):
    b = np.log((1 + u**2) / 2) / 4 - np.log((1 + u) / 2) / 2 + np.arctan(u) / 2 - math.pi / 8
    return u * b - (u - 1) / 4


# f, then u f' - f, each of u
PLAIN = {
    "todi": (todi, lambda u: (u**2 - 1 + np.log(u)) / (1 + u)),
    "dail": (dail, lambda u: u**3 / ((1 + u) * (1 + u**2)) - 1 / 4),
    "le_cam": (
        lambda u: (u - 1) ** 2 / (2 * (u + 1)),
        lambda u: (u - 1) * (3 * u + 1) / (2 * (u + 1) ** 2),
    ),
    "symmetric_chi2": (
        lambda u: (u - 1) ** 2 * (u + 1) / u,
        lambda u: u**2 - 1 + 2 * (1 - 1 / u),
    ),
    "tsallis:0.7": (
        lambda u: (u**0.7 - 0.7 * u - 0.3) / -0.3,
        lambda u: u**0.7 - 1,
    ),
    "mix:reverse_kl+0.5*neyman_chi2": (
        lambda u: -np.log(u) + u - 1 + 0.5 * (1 - u) ** 2 / u,
        lambda u: np.log(u) + 1 - 1 / u,
    ),
    "mix:0.2*forward_kl+0.8*js": (
        lambda u: (
            0.2 * (u * np.log(u) - u + 1) + 0.4 * (u * np.log(u) - (u + 1) * np.log((u + 1) / 2))
        ),
        lambda u: 0.2 * (u - 1) + 0.4 * np.log((u + 1) / 2),
    ),
}


def slope(log_q: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """The gradient on the logits of q of a divergence with that reward: -q (r - sum of q r)."""
    q = np.exp(log_q)
    return -q * (reward - q @ reward)


@pytest.mark.parametrize("spec", ADDED)
@pytest.mark.few(3)
def test_values_and_gradients_are_the_formulas(spec):
    (f, reward), (log_p, log_q) = PLAIN[spec], pair()
    d, u = divergences.parse(spec), np.exp(log_p - log_q)
    value = lambda z: d.perspective(jnp.asarray(log_p), jax.nn.log_softmax(z)).sum()
    found, gradient = jax.value_and_grad(value)(jnp.asarray(log_q))
    assert float(found) == pytest.approx(np.exp(log_q) @ f(u), rel=1e-10)
    np.testing.assert_allclose(gradient, slope(log_q, reward(u)), atol=1e-10)
    np.testing.assert_allclose(d.reward(jnp.log(u)), reward(u), rtol=1e-9, atol=1e-12)


def test_todi_is_what_its_loss_is_the_gradient_of():
    """Of sigmoid(s) p s - sigmoid(-s) q s with the weights held. As sigmoid(s) = p / (p + q) its
    value is (p - q) s, Jeffreys'; its gradient is todi's and not Jeffreys'."""
    log_p, log_q = pair(1)
    s = log_p - log_q
    weight = expit(s)

    def loss(z):
        own = jax.nn.log_softmax(z)
        ratio = log_p - own
        return jnp.sum(weight * np.exp(log_p) * ratio - (1 - weight) * jnp.exp(own) * ratio)

    jeffreys, todi = (divergences.parse(name) for name in ("jeffreys", "todi"))
    of = lambda d: jax.grad(lambda z: d.perspective(log_p, jax.nn.log_softmax(z)).sum())(log_q)
    found = np.asarray(jax.grad(loss)(jnp.asarray(log_q)))
    np.testing.assert_allclose(found, of(todi), atol=1e-10)
    other = np.asarray(of(jeffreys))
    cosine = found @ other / np.linalg.norm(found) / np.linalg.norm(other)
    assert 0.5 < cosine < 0.9999
    values = float(loss(jnp.asarray(log_q))), np.sum((np.exp(log_p) - np.exp(log_q)) * s)
    ours = float(jeffreys.perspective(jnp.asarray(log_p), jnp.asarray(log_q)).sum())
    assert values == pytest.approx((ours, ours), rel=1e-12)


# --- from a reward --------------------------------------------------------------------------------

REWARDS = {
    "js": lambda s: 0.5 * jnp.logaddexp(0.0, s),
    "reverse_kl": lambda s: s + 3,
    "forward_kl": jnp.exp,
    "neyman_chi2": lambda s: -2 * jnp.exp(-s),
    "hellinger2": lambda s: jnp.exp(s / 2),
    "todi": lambda s: jnp.exp(s) + s * jax.nn.sigmoid(-s),
    "dail": lambda s: jax.nn.sigmoid(s) * (1 + jnp.tanh(s)) / 2,
    "log_d": jax.nn.log_sigmoid,
    "alpha:1.5": lambda s: jnp.exp(1.5 * s) / 1.5,
}


@pytest.mark.parametrize("spec", REWARDS)
@pytest.mark.wide
def test_a_reward_becomes_the_member_it_belongs_to(spec):
    """Values to 1e-10 and gradients to 1e-8 in double precision, into the tails, and the limits;
    single precision to what its tables hold."""
    mine, known = divergences.from_reward(REWARDS[spec], "mine"), divergences.parse(spec)
    s = jnp.asarray(np.concatenate([np.linspace(-40, 40, 81), np.linspace(-1, 1, 21)]))
    log_q = jnp.where(s > 0, -3 - s, -3.0)

    @jax.jit
    def both():
        slopes = lambda d: jax.grad(lambda *x: d.perspective(*x).sum(), (0, 1))(log_q + s, log_q)
        of = lambda d: (d.perspective(log_q + s, log_q), d.witness(s), d.reward(s), *slopes(d))
        return of(mine), of(known)

    (value, *rest), (wanted, *others) = both()
    np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-12)
    for found, other in zip(rest, others):
        np.testing.assert_allclose(found, other, rtol=1e-8, atol=1e-9)
    nothing, all_of_it = jnp.asarray(-jnp.inf), jnp.zeros(())
    for ends in ((nothing, all_of_it), (all_of_it, nothing)):
        assert float(mine.perspective(*ends)) == pytest.approx(float(known.perspective(*ends)))
    with jax.enable_x64(False):
        narrow = jax.jit(mine.perspective)(
            *(jnp.asarray(x, jnp.float32) for x in (log_q + s, log_q))
        )
    np.testing.assert_allclose(narrow, wanted, rtol=3e-5, atol=1e-6)


def test_a_users_jensen_shannon_on_disjoint_strings():
    """log 2 = .6931, by f and by its reward alike: half of it from f(0) and half from f'(inf)."""
    by_reward = divergences.from_reward(REWARDS["js"], "mine")
    f = lambda u: (u * jnp.log(u) - (u + 1) * jnp.log((u + 1) / 2)) / 2
    nothing = jnp.array([[-jnp.inf], [-90.0], [-2000.0]])
    log_p = jnp.concatenate([jnp.zeros((3, 1)), nothing], axis=1)
    for d in (by_reward, divergences.from_generator(f, "mine")):
        values = jax.jit(d.perspective)(log_p, log_p[:, ::-1]).sum(1)
        np.testing.assert_allclose(values, math.log(2), rtol=1e-6)


@pytest.mark.wide
def test_a_kink_of_a_reward():
    """A reward held to [-1, 1]: f(u) = u log u within, and by f = u times the integral of
    r(v) / v^2 beyond: u (1 - e^-1 ... ) at u = e^2."""
    d = divergences.from_reward(lambda s: jnp.clip(s, -1, 1), "clipped")
    # integral of e^{-x} x to 1 is 1 - 2/e, of e^{-x} from 1 to 2 is 1/e - 1/e^2
    wanted = math.exp(2) * (1 - 2 / math.e + 1 / math.e - math.exp(-2))
    assert float(d.perspective(jnp.asarray(2.0), jnp.zeros(()))) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    ("reward", "at", "says"),
    [
        (lambda s: -s * jnp.exp(s), "s = 0", "no f-divergence has this reward"),  # FAIRL's
        (lambda s: -divergences.js().perspective(s, 0 * s), "s = 0", "decreases there"),
        (lambda s: jnp.where(s > 3, 6 - s, s), "s = 3", "decreases there"),
        (lambda s: 0.5 * jnp.sign(s), "s = -0.125", "jumps"),
        (lambda s: jnp.where(jnp.abs(s) < 1, 0.0, s - jnp.sign(s)), "s = 0", "level"),
        (lambda s: 0 * s, "s = 0", "level"),
        (lambda s: jnp.log(s + 5), "r(-20)", "not finite"),
    ],
)
@pytest.mark.few(2)
def test_what_is_no_reward_of_an_f_is_refused_at_its_point(reward, at, says):
    with pytest.raises(UsageError, match=says) as error:
        divergences.from_reward(reward, "mine")
    assert str(error.value.value).startswith(at)


# --- sums and conversions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("mix:reverse-kl + 0.5 * Neyman_chi2", "mix:reverse_kl+0.5*neyman_chi2"),
        ("mix:js+js", "mix:2*js"),
        ("mix:1e+2*alpha:-1e-05+.25*gjs:0.1", "mix:100*alpha:-1e-05+0.25*gjs:0.1"),
        ("mix:renyi:0.5+js", "mix:alpha:0.5+js"),
        ("renyi:0.3", "alpha:0.3"),
        ("tsallis:2", "tsallis:2"),
    ],
)
def test_names_of_sums_and_conversions(spec, name):
    d = divergences.parse(spec)
    assert d.name == name
    assert divergences.parse(name).name == name
    assert objectives.resolve(f"distill:{spec}").divergence == name
    assert all(divergences.card(spec))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mix:", "no member to be added"),
        ("mix:js+", "no member to be added"),
        ("mix:-1*js", "no weight"),
        ("mix:0*js", "no weight"),
        ("mix:nan*js", "no weight"),
        ("mix:two*js", "no weight"),
        ("mix:1e9*js", "no weight"),
        ("mix:js+jss", "no divergence of that name"),
        ("mix:js+gjs:2", "between 0 and 1"),
        ("mix:mix:js", "no member to be added"),
        ("mix:js+ab:1,1", "no f"),
        ("renyi:-1", "an order from"),
        ("tsallis:0", "an order from"),
        ("ab:0.2,0.7", "no f"),
    ],
)
def test_what_is_no_member_says_why(spec, says):
    with pytest.raises(UsageError, match=says):
        divergences.parse(spec)


def test_a_sum_weighs_its_members():
    log_p, log_q = map(jnp.asarray, pair(2))
    of = lambda spec: float(divergences.parse(spec).perspective(log_p, log_q).sum())
    assert of("mix:0.25*js+3*tv") == pytest.approx(0.25 * of("js") + 3 * of("tv"), rel=1e-12)
    assert of("mix:forward_kl+reverse_kl") == pytest.approx(of("jeffreys"), rel=1e-12)
    assert "chi-PO" in divergences.card("mix:0.5*neyman_chi2+reverse_kl").names


# --- alpha-beta -----------------------------------------------------------------------------------

POWERS = [(0.2, 0.7), (0.5, 1.0), (2.0, 1.0), (0.3, 0.7), (1.0, 0.001)]


@pytest.mark.parametrize(("a", "b"), POWERS)
def test_alpha_beta_is_its_sources_formula(a, b):
    """And PowerOPD's sampled reward p^a - q^a has the expected gradient of a AB(a, 1)."""
    log_p, log_q = pair(3)
    p, q = np.exp(log_p), np.exp(log_q)
    d = divergences.over_vocabulary(f"ab:{a},{b}")
    each = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    value = lambda z: d.perspective(jnp.asarray(log_p), jax.nn.log_softmax(z)).sum()
    found, gradient = jax.value_and_grad(value)(jnp.asarray(log_q))
    assert float(found) == pytest.approx(-each.sum() / (a * b), rel=1e-9)
    # -dD/dq q = (p^a - q^a) q^b / a
    np.testing.assert_allclose(gradient, slope(log_q, q ** (b - 1) * (p**a - q**a) / a), atol=1e-10)
    if b == 1:
        expected = slope(log_q, p**a - q**a)
        np.testing.assert_allclose(a * np.asarray(gradient), expected, atol=1e-12)
    if math.isclose(a + b, 1):
        alpha = divergences.parse(f"alpha:{a}").perspective(jnp.asarray(log_p), jnp.asarray(log_q))
        assert float(found) == pytest.approx(float(alpha.sum()), rel=1e-10)


@pytest.mark.wide
def test_alpha_beta_where_a_side_has_no_mass_and_in_single_precision():
    """On disjoint laws 1/(a (a+b)) + 1/(b (a+b)) = 1/(a b): 2 of ab:0.5,1."""
    d = divergences.over_vocabulary("ab:0.5,1")
    with jax.enable_x64(False):
        log_p = jnp.array([0.0, -jnp.inf, -jnp.inf])
        log_q = jnp.array([-jnp.inf, 0.0, -jnp.inf])
        assert float(d.perspective(log_p, log_q).sum()) == pytest.approx(2.0)
        assert np.isfinite(jax.grad(lambda z: d.perspective(log_p, z).sum())(log_q)).all()
        near = jnp.linspace(-1e-3, 1e-3, 41, dtype=jnp.float32)
        each = d.perspective(-1 + near, jnp.full_like(near, -1.0))
        assert float(each.min()) >= 0
        assert not d.perspective(near, near).any()


@pytest.mark.parametrize("method", ["policy_gradient", "adversarial", "f_dpo", "fdpg"])
def test_alpha_beta_is_refused_where_an_f_is_needed(method):
    with pytest.raises(UsageError, match="function of p and q, not of p / q"):
        objectives.resolve(f"{method}:ab:0.2,0.7")
    for name in ("distill", "dagger"):
        assert objectives.resolve(f"{name}:AB:.2,.7").divergence == "ab:0.2,0.7"
    with pytest.raises(UsageError, match="no f"):
        divergences.over_vocabulary("ab:0.2,0.7").reward(jnp.zeros(()))


@pytest.mark.parametrize("spec", ["ab", "ab:", "ab:1", "ab:1,0", "ab:-1,2", "ab:nan,1", "ab:1,2,3"])
def test_powers_that_cannot_be(spec):
    with pytest.raises(UsageError, match=r"ab:0.2,0.7"):
        divergences.over_vocabulary(spec)


def test_the_standard_family_is_what_it_was():
    """What is added is on the card and in the parser; runs go on being measured by the same."""
    assert set(SMOOTH) < {*divergences.every(), "gjs:0.3", "skew_kl:0.2"} | set(SMOOTH)
    assert not {"todi", "dail", "le_cam"} & set(divergences.every())
    assert {"todi", "dail", "le_cam", "tsallis:0.5", "renyi:0.5"} < set(divergences.examples())
