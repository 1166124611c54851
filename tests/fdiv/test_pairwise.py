"""The divergence of the two orders of a pair, what it pays an answer, and known means in the place
of samples: against arithmetic in numpy, and by enumeration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY, random_models

from experiments.gradients import batches
from experiments.gradients.world import build, random_world
from fdiv import divergences, objectives, pairwise, state_means
from fdiv.exact import expected_gradient
from fdiv.objectives import policy_gradient
from fdiv.types import Level, Model, UsageError

pytestmark = pytest.mark.usefixtures("double")
P, Q = np.random.default_rng(0).dirichlet(np.ones(5), 2)
kl = lambda p, q: np.sum(p * np.log(p / q))
chi2 = lambda p, q: np.sum(p**2 / q) - 1
ORDERS = np.outer(P, Q), np.outer(Q, P)  # x first and y second; the other way

VALUES = {
    "js": (kl(ORDERS[0], sum(ORDERS) / 2) + kl(ORDERS[1], sum(ORDERS) / 2)) / 2,
    "forward_kl": kl(P, Q) + kl(Q, P),
    "reverse_kl": kl(P, Q) + kl(Q, P),
    "jeffreys": 2 * (kl(P, Q) + kl(Q, P)),
    "pearson_chi2": (1 + chi2(P, Q)) * (1 + chi2(Q, P)) - 1,
    "tv": np.abs(ORDERS[0] - ORDERS[1]).sum() / 2,
}


@pytest.mark.parametrize("spec", VALUES)
def test_the_divergence_of_the_two_orders(spec):
    found = pairwise.measured(divergences.parse(spec), jnp.log(Q), jnp.log(P))
    assert float(found) == pytest.approx(VALUES[spec], rel=1e-10)


@pytest.mark.wide
def test_pairs_row_by_row(monkeypatch):
    """More pairs than are compared at once."""
    js = divergences.js()
    monkeypatch.setattr(pairwise, "WHOLE", 10)
    found = pairwise.measured(js, jnp.log(Q), jnp.log(P))
    assert float(found) == pytest.approx(VALUES["js"], rel=1e-10)


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.few(4)
def test_its_gradient_is_what_it_pays(spec):
    """-E_q[pay grad log q], s known up to a constant, and its bound is reached at the log-ratio."""
    d, log_p, log_q = divergences.parse(spec), jnp.log(P), jnp.log(Q)
    of = lambda z: pairwise.measured(d, jax.nn.log_softmax(z), log_p)
    value, slope = jax.value_and_grad(of)(log_q)
    s = log_p - log_q + 3.7
    pay = np.asarray(pairwise.paid(d, s, jnp.asarray(P)).reward(s))
    np.testing.assert_allclose(slope, -Q * (pay - Q @ pay), rtol=1e-8, atol=1e-9)
    lost = P @ np.asarray(pairwise.lost(d, s[:, None] - s[None])) @ Q
    assert float(value) == pytest.approx(-lost + np.log(2) * (spec == "js"), rel=1e-9)


def test_the_relativistic_gans_formulas():
    """-log sigmoid(s(x) - s(y)) lost, softplus(s(y) - s(x)) paid, log 2 left out."""
    s = np.log(P / Q)
    ahead = s[:, None] - s[None]
    js = divergences.js()
    np.testing.assert_allclose(pairwise.lost(js, jnp.asarray(ahead)), np.log1p(np.exp(-ahead)))
    paid = pairwise.paid(js, jnp.asarray(s), jnp.asarray(P)).reward(jnp.asarray(s))
    np.testing.assert_allclose(paid, np.log1p(np.exp(ahead)) @ P - np.log(2), atol=1e-12)


@pytest.mark.parametrize("width", [pytest.param(32, marks=pytest.mark.wide), 64])
def test_what_a_gradient_of_the_witness_would_not_see(width):
    """tv and sums with it are refused, and no smooth member, however steep."""
    with jax.enable_x64(width == 64):
        smooth = [*EVERY, "alpha:-64", "todi", "dail", "gjs:0.000001"] if width == 32 else []
        for spec in ("alpha:64", *smooth):
            if spec != "tv":
                divergences.refuse_steps(divergences.parse(spec))
        for spec in ("tv", "mix:js+0.1*tv", "mix:1000*forward_kl+10*tv"):
            with pytest.raises(UsageError, match="rises in steps"):
                divergences.refuse_steps(divergences.parse(spec))


# --- known means ----------------------------------------------------------------------------------


def by_hand(name: str, level: str, discount: float, p, q, tokens: list[int]) -> list[float]:
    """(g_k - b_k) + what the b of later prefixes add up to, of one string over tables p, q [K, V];
    the prefix tree's states are numbered as 3 state + token + 1."""
    reward = {"js": lambda u: np.log((1 + u) / 2) / 2, "forward_kl": lambda u: u - 1}[name]
    f = {
        "js": lambda u: (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2,
        "forward_kl": lambda u: u * np.log(u) - u + 1,
    }[name]
    state, u, gains, means, later = 0, 1.0, [], [], []
    for k, token in enumerate(tokens):
        ratio = p[state] / q[state]
        before = 1.0 if level == "token" else u
        gain = reward(before * ratio) - (0 if level == "token" else reward(u))
        share = {"sequence": 1, "occupancy": (3 - k) / 3, "token": 1 / 3}[level]
        means.append(share * q[state] @ gain)
        gains.append(share * gain[token])
        later.append(-share * q[state] @ f(ratio) if level == "token" else means[-1])
        u, state = u * ratio[token], 3 * state + token + 1
    rest = lambda k: sum(discount ** (j - k) * later[j] for j in range(k + 1, len(tokens)))
    return [gains[k] - means[k] + rest(k) for k in range(len(tokens))]


@pytest.mark.parametrize("level", ["sequence", "occupancy", "token"])
@pytest.mark.parametrize("name", ["js", "forward_kl"])
@pytest.mark.few(1)
def test_advantages_from_known_means(name, level):
    """Of strings of 1, 2 and 3 tokens, each less the mean of the other strings' later terms."""
    world = random_world(3, 3, 0.5, 0)
    expert, own = world.exact.mdp.expert, Model(world.exact.policy, world.params)
    rows = [[2], [0, 2], [1, 0, 1]]
    tokens = np.array([row + [-1] * (3 - len(row)) for row in rows])
    x = world.space.sequences._replace(tokens=tokens, mask=tokens >= 0, weight=np.ones(3))
    x = jax.tree.map(jnp.asarray, x)
    soft = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    p, q = soft(np.asarray(expert.params)), soft(np.asarray(world.params))
    ratio = np.zeros(tokens.shape)
    for row, string in enumerate(rows):
        state = 0
        for k, token in enumerate(string):
            ratio[row, k] = np.log(p[state, token] / q[state, token])
            state = 3 * state + token + 1
    found = state_means.advantages_of(
        divergences.parse(name),
        Level.token_policy if level == "token" else Level(level),
        *(expert, own, x, jnp.asarray(ratio)),
        horizon=3,
        vocab=3,
        discount=0.5,
    )
    full = [by_hand(name, level, 0.5, p, q, row) for row in rows]
    none = [by_hand(name, level, 0.0, p, q, row) for row in rows]
    later = [[a - b for a, b in zip(*both)] for both in zip(full, none)]
    for row, string in enumerate(rows):
        for k in range(len(string)):
            others = [later[i][k] for i in range(3) if i != row and len(rows[i]) > k]
            wanted = full[row][k] - (np.mean(others) if others else 0)
            assert float(found[row, k]) == pytest.approx(wanted, abs=1e-12)


def expected(method, world):
    """The exact expected gradient, flat."""
    objective = method.build(world.exact)
    gradient = jax.jit(lambda x: expected_gradient(objective, x, world.demos, ()))
    return np.ravel(gradient(world.params))


SPREAD = ["reverse_kl", "js", "forward_kl"]


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("discount", [1.0, 0.0])
@pytest.mark.few(1)
def test_known_means_are_unbiased_and_vary_less(name, discount):
    """Exactly, over all batches of two strings: the same gradient as with any other baseline, and
    less variance; where later actions count, less than without a baseline too (at discount 0 a
    value is not the baseline of least variance, and near the expert none is as good)."""
    world = random_world(3, 2, 0.5, 0)
    found = {}
    for baseline in ("none", "leave_one_out", "state"):
        method = objectives.resolve(name, baseline=baseline, discount=discount)
        mean = expected(method, world)
        each = batches.in_batches(world, method, (), mean)
        assert each[:2] == pytest.approx((1, 1))
        found[baseline] = each.variance, mean
    for baseline, (variance, mean) in found.items():
        np.testing.assert_allclose(found["state"][1], mean, atol=1e-12)
        if baseline == "leave_one_out" or (baseline, discount) == ("none", 1.0):
            assert found["state"][0] < variance


def too_much(advantages_of):
    """The means taken off later actions as well."""

    def wrong(d, level, target, own, x, log_ratio, **rest):
        mean = state_means.earned_on_average(
            d, target, own, x, jnp.cumsum(log_ratio, 1) - log_ratio, rest["vocab"]
        )
        later = jnp.cumsum(mean[:, ::-1], 1)[:, ::-1] - mean
        return advantages_of(d, level, target, own, x, log_ratio, **rest) - later

    return wrong


@pytest.mark.wide
def test_means_taken_off_later_actions_are_a_bias(monkeypatch):
    space, expert, policy, params = random_models("ending")
    world = build(space, policy, jnp.asarray(params), expert)

    def gradient():
        return expected(objectives.resolve("reverse_kl", baseline="state"), world)

    right = gradient()
    monkeypatch.setattr(policy_gradient, "advantages_of", too_much(policy_gradient.advantages_of))
    wrong = gradient()
    assert np.linalg.norm(right - wrong) > 0.1 * np.linalg.norm(right)


def test_steps_are_told_in_the_middle_of_a_trace():
    """A method may be built inside a program."""

    def built(x):
        divergences.refuse_steps(divergences.parse("js"))
        return x

    assert jax.jit(built)(1.0) == 1.0
