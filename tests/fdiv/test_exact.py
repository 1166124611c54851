"""Enumeration, levels, dynamic programming and the best policy in a class, against independent
arithmetic."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY, SPACES, law, random_models

from fdiv import divergences, exact
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import tabular
from fdiv.types import PAD, Level, UsageError


@pytest.mark.parametrize(
    ("vocab", "horizon", "eos"), [(2, 5, None), (3, 4, 2), (3, 4, 0), (2, 6, 1), (1, 3, None)]
)
def test_enumeration_is_every_string_once(vocab, horizon, eos):
    """Brute force: all V^T rows, cut after EOS, made unique."""
    rows = set()
    for row in itertools.product(range(vocab), repeat=horizon):
        cut = row.index(eos) + 1 if eos in row else horizon
        rows.add(row[:cut] + (PAD,) * (horizon - cut))
    space = exact.enumerate_strings(vocab, horizon, eos)
    assert {tuple(map(int, row)) for row in space.sequences.tokens} == rows
    assert len(space.sequences.tokens) == len(rows) == exact.count_strings(vocab, horizon, eos)


@functools.cache
def laws_of(kind):
    """(space, the expert's law, the policy's law), for tests in double precision."""
    space, expert, policy, params = random_models(kind)
    both = jax.jit(lambda x: (law(space, *expert), law(space, policy, x)))
    return space, *both(params)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_laws_sum_to_one(kind):
    space, *both = laws_of(kind)
    for q in both:
        assert np.exp(q.string).sum() == pytest.approx(1, abs=1e-12)
        assert float((space.node_time * np.exp(q.node)).sum()) == pytest.approx(
            space.horizon, abs=1e-12
        )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.few(9)
def test_levels_by_brute_force(kind, spec):
    """Occupancy and token levels from sums over dictionaries of prefixes."""
    space, p, q = laws_of(kind)
    d = divergences.parse(spec)
    perspective = jax.jit(d.perspective)

    def total(of_p: dict, of_q: dict) -> float:
        pairs = np.log(np.array([(of_p[key], of_q[key]) for key in of_p]))
        padded = np.zeros((len(rows), 2))  # to one shape, so that one program serves all sums
        padded[: len(pairs)] = pairs
        return float(np.asarray(perspective(*padded.T))[: len(pairs)].sum())

    rows = [tuple(t for t in map(int, row) if t != PAD) for row in space.sequences.tokens]
    mass = lambda law, n: _group([row[:n] for row in rows], np.exp(law.string))
    occupancy = (
        sum(total(mass(p, n), mass(q, n)) for n in range(1, space.horizon + 1)) / space.horizon
    )

    found = {"policy": 0.0, "expert": 0.0}
    for n in range(space.horizon):
        of_p, of_q, longer_p, longer_q = mass(p, n), mass(q, n), mass(p, n + 1), mass(q, n + 1)
        for prefix in of_q:
            if len(prefix) < n or (space.eos is not None and space.eos in prefix):
                continue
            after = [row for row in longer_q if len(row) == n + 1 and row[:n] == prefix]
            each = total(
                {r: longer_p[r] / of_p[prefix] for r in after},
                {r: longer_q[r] / of_q[prefix] for r in after},
            )
            found["policy"] += of_q[prefix] * each / space.horizon
            found["expert"] += of_p[prefix] * each / space.horizon
    wanted = {
        ("occupancy",): occupancy,
        (Level.token_policy, 1.0): found["policy"],
        (Level.token_policy, 0.0): found["expert"],
        (Level.token_policy, 0.3): 0.3 * found["policy"] + 0.7 * found["expert"],
        (Level.token_expert,): found["expert"],
    }
    levels = jax.jit(lambda p, q: [exact.divergence(d, space, p, q, *at) for at in wanted])
    np.testing.assert_allclose(levels(p, q), list(wanted.values()), rtol=1e-9)


def _group(keys, mass):
    total: dict = {}
    for key, m in zip(keys, mass):
        total[key] = total.get(key, 0.0) + float(m)
    return total


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_chain_rule_of_both_kls(kind):
    """T x token level = sequence level: reverse_kl on the policy's prefixes, forward_kl on the
    expert's. Trap: levels mixed."""
    space, *laws = laws_of(kind)
    levels = (Level.sequence, Level.token_policy, Level.token_expert)
    of = lambda spec, *laws: [
        exact.divergence(divergences.parse(spec), space, *laws, level) for level in levels
    ]
    every = jax.jit(lambda *laws: [of(spec, *laws) for spec in ("reverse_kl", "forward_kl")])
    (reverse, own, experts), (forward, others, own_of_expert) = np.asarray(every(*laws))
    for sequence, token, other in ((reverse, own, experts), (forward, own_of_expert, others)):
        assert space.horizon * token == pytest.approx(sequence, rel=1e-12)
        assert other != pytest.approx(token, rel=1e-3)


def test_too_many_strings_are_refused_with_a_number_and_a_way_out():
    with pytest.raises(UsageError, match=r"needs 4,782,969 .* at most 11, or raise the limit"):
        exact.enumerate_strings(3, 14, None)
    assert len(exact.enumerate_strings(3, 12, None, limit=600_000).sequences.tokens) == 3**12
    with pytest.raises(UsageError, match=r"about 10\^240"):
        exact.enumerate_strings(257, 100, 256)


# best markov policy at V=3, T=6, w=.6, noise=.1 by multi-start L-BFGS, computed independently
# beforehand
OPTIMA = {
    "forward_kl": {
        "forward_kl": 0.4152,
        "reverse_kl": 0.8358,
        "js": 0.1099,
        "tv": 0.3013,
        "valid": 0.6636,
        "mode_b": 0.2466,
    },
    "reverse_kl": {
        "forward_kl": 1.4941,
        "reverse_kl": 0.3818,
        "js": 0.1160,
        "tv": 0.3201,
        "valid": 0.9433,
        "mode_b": 0.3182,
    },
    "js": {
        "forward_kl": 0.5644,
        "reverse_kl": 0.5574,
        "js": 0.0964,
        "tv": 0.2400,
        "valid": 0.7995,
        "mode_b": 0.2991,
    },
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("level", exact.LEVELS)
@pytest.mark.few(1)
def test_a_search_for_several_sees_the_value_and_gradient_of_each(level):
    """Those behind total variation, which takes six places, too; one's own f may have another
    type."""
    space, policy = exact.enumerate_strings(2, 3, None), tabular.policy(tabular.markov(2, 3), 2)
    expert = TwoTemplate(vocab=2, horizon=3).build().expert
    js = divergences.js()
    single = lambda lp, lq: js.perspective(lp, lq).astype(jnp.float32)
    family = {name: divergences.parse(name) for name in ("js", "tv", "reverse_kl")}
    family["own"] = js._replace(name="own", perspective=single)
    search = exact.ClassSearch(family, space, expert, policy, level, 0.25)
    p = exact.known_law(space, expert)
    (params,) = exact.random_starts(policy, 1)

    @jax.jit
    def one_by_one(params):
        def of(d):
            value = lambda x: exact.divergence(d, space, p, law(space, policy, x), level, 0.25)
            return jax.value_and_grad(value)(params)

        return {name: of(d) for name, d in family.items()}

    for name, expected in one_by_one(params).items():
        for mine, other in zip(search.value_and_gradient(name, params), expected):
            np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("minimised", OPTIMA)
@pytest.mark.few(1)
def test_best_markov_policy_on_two_templates(minimised):
    mdp = TwoTemplate().build()
    space = exact.enumerate_strings(3, 6, None)
    policy = tabular.policy(tabular.markov(3, 6), 3)
    best = exact.best_in_class(
        divergences.parse(minimised), space, mdp.expert, policy, exact.random_starts(policy, 4)
    )
    with jax.enable_x64(True):

        @jax.jit
        def measured(params):
            p, q = law(space, *mdp.expert), law(space, policy, params)
            values = {
                n: exact.divergence(divergences.parse(n), space, p, q)
                for n in ("forward_kl", "reverse_kl", "js", "tv")
            }
            return values | {
                name: exact.expectation(q, f(space.sequences)) for name, f in mdp.statistics.items()
            }

        found = {name: float(x) for name, x in measured(best.params).items()}
    assert found == pytest.approx(OPTIMA[minimised], abs=5e-4)
    values = [value for value, _ in best.minima]
    assert values == sorted(values)
    assert best.value == values[0]


@pytest.mark.wide
def test_nested_classes_never_get_worse_and_the_full_one_reaches_zero():
    mdp = TwoTemplate(vocab=2, horizon=4).build()
    space = exact.enumerate_strings(2, 4, None)
    classes = {"js": ("independent", "markov", "markov_t", "full"), "tv": ("markov", "full")}
    for spec, names in classes.items():
        values = []
        for name in names:
            policy = tabular.policy(tabular.AUTOMATA[name](2, 4), 2)
            starts = exact.random_starts(policy, 2)
            values.append(
                exact.best_in_class(
                    divergences.parse(spec), space, mdp.expert, policy, starts
                ).value
            )
        assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(values))
        assert values[-1] < (1e-8 if spec == "js" else 1e-3)


@pytest.mark.usefixtures("double")
def test_expert_of_two_templates_is_valid_as_published():
    mdp = TwoTemplate().build()
    space = exact.enumerate_strings(3, 6, None)
    valid = exact.expectation(law(space, *mdp.expert), mdp.statistics["valid"](space.sequences))
    assert float(valid) == pytest.approx(
        0.9**6 + 6 * 0.1 * 0.9**5 + 0.0000, abs=2e-4
    )  # + strings valid under the other: ~1e-5
