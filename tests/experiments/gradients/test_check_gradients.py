"""The gradient card: its targets by brute force, its words on made-up gradients, and the command on
a small MDP."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import cli
from experiments.commands import check_gradients
from experiments.gradients import batches, card, cases, finite, targets
from experiments.gradients.published import PUBLISHED
from experiments.gradients.world import random_world, rewarded
from fdiv import divergences, objectives, pairwise
from fdiv.exact import expected_gradient
from fdiv.objectives import grpo, policy_gradient
from fdiv.objectives.adversarial import Adversarial
from fdiv.objectives.distill import Distill
from fdiv.objectives.policy_gradient import PolicyGradient
from fdiv.objectives.spin import Spin
from fdiv.types import Claim, Level, UsageError

SMALL = ["--vocab", "3", "--horizon", "2", "--seed", "1"]


@pytest.fixture
def fewer(monkeypatch):
    """One variant a group and four divergences to compare with, so that little is compiled."""
    few = {name: divergences.parse(name) for name in ("forward_kl", "reverse_kl", "js", "tv")}
    monkeypatch.setattr(divergences, "every", lambda: few)
    monkeypatch.setattr(PolicyGradient, "variants", lambda self: [{"discount": 0.0}])
    monkeypatch.setattr(
        Distill, "variants", lambda self: [{"policy_prefixes": 1.0}] * (self.policy_prefixes == 0)
    )
    monkeypatch.setattr(
        Adversarial, "variants", lambda self: [{"reward_form": "expert"}] * self.structured
    )


# --- the measuring --------------------------------------------------------------------------------


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def strings(q, horizon):
    """Every string that ends with EOS (symbol 2) or at the horizon, with the states and tokens it
    passes; tree nodes."""
    for length in range(1, horizon + 1):
        for x in itertools.product((0, 1, 2), repeat=length):
            if 2 in x[:-1] or (x[-1] != 2 and length < horizon):
                continue
            state, path = 0, []
            for token in x:
                path.append((state, token))
                state = state * 3 + token + 1
            yield path


def slope(value, params):
    """Central differences."""
    gradient = np.zeros_like(params)
    for at in np.ndindex(params.shape):
        ends = []
        for side in (1, -1):
            moved = params.copy()
            moved[at] += side * 1e-6
            ends.append(value(moved))
        gradient[at] = (ends[0] - ends[1]) / 2e-6
    return gradient.ravel()


@pytest.mark.usefixtures("double")
def test_targets_by_brute_force():
    """Reverse KL and chi-square of strings; the KL of tokens with prefixes held; E[log p]: all by
    listing strings."""
    world = random_world(3, 2, 0.5, 0)
    candidates = targets.targets(world, ["reverse_kl", "pearson_chi2"])
    now, p = np.array(world.params), softmax(np.array(world.exact.mdp.expert.params))
    chance = lambda table, path: np.prod([table[at] for at in path])

    def kl(params, log_q=1.0):
        q = softmax(params)
        return sum(
            chance(q, x) * (log_q * np.log(chance(q, x)) - np.log(chance(p, x)))
            for x in strings(q, 2)
        )

    def chi2(params):
        q = softmax(params)
        return sum(chance(p, x) ** 2 / chance(q, x) for x in strings(q, 2)) - 1

    def kl_of_tokens(params):
        q, fixed = softmax(params), softmax(now)
        arrival = {0: 1.0, 1: fixed[0, 0], 2: fixed[0, 1]}  # the empty prefix and those that go on
        return (
            sum(
                mass * np.sum(q[state] * np.log(q[state] / p[state]))
                for state, mass in arrival.items()
            )
            / 2
        )

    pairs = [
        (candidates.exact["sequence"]["reverse_kl"], kl),
        (candidates.exact["sequence"]["pearson_chi2"], chi2),
        (candidates.fixed_prefixes["token"]["reverse_kl"], kl_of_tokens),
        (candidates.cross_entropy, lambda params: kl(params, 0.0)),
    ]
    for gradient, value in pairs:
        np.testing.assert_allclose(gradient, slope(value, now), atol=1e-7)


@pytest.mark.usefixtures("double")
def test_variance_is_that_of_one_string():
    """Of maximum likelihood: the trace of E_p[g g'] less the mean's, g the gradient of one string's
    log-prob."""
    world = random_world(3, 2, 0.5, 0)
    case = cases.cases({"sft": objectives.resolve("sft")})[0]
    (measured,) = cases.measure(world, case, {})
    q, p = softmax(np.array(world.params)), softmax(np.array(world.exact.mdp.expert.params))
    mean, square = np.zeros_like(q), 0.0
    for path in strings(p, 2):
        each, mass = np.zeros_like(q), np.prod([p[at] for at in path])
        for state, token in path:
            each[state] += q[state] - np.eye(3)[token]
        mean, square = mean + mass * each, square + mass * np.sum(each**2)
    np.testing.assert_allclose(measured.gradient, mean.ravel(), atol=1e-12)
    assert measured.variance == pytest.approx(square - np.sum(mean**2), rel=0.2)  # of 256 batches


BATCHES = [  # size of the expectation over batches of two beside the population's; None: turned
    ("grpo", {}, 0.5),
    ("grpo_std", {}, None),
    ("rloo", {}, 1.0),
    ("reverse_kl", {}, 1.0),
    ("reverse_kl", {"baseline": "mean"}, 0.5),
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "fields", "size"), BATCHES)
def test_batches_of_two(name, fields, size):
    """What one population does not show: a mean of two that counts the answer itself halves the
    gradient, one that leaves it out keeps it; dividing by the deviation of two turns it."""
    world = rewarded(random_world(3, 2, 0.5, 0), "reverse_kl")
    method = objectives.resolve(name, **fields)
    objective = method.build(world.exact)
    aux = objective.init(jax.random.key(0), world.params)
    population = jax.jit(lambda x: expected_gradient(objective, x, world.demos, aux))(world.params)
    found = batches.in_batches(world, method, aux, np.ravel(population))
    assert found is not None
    if size is None:
        assert found.cosine < 0.999
    else:
        assert found[:2] == pytest.approx((1, size))


GROUPS = [  # a mean that counts the answer itself shrinks by 1 - 1/n; one over the others does not
    ("rloo", {}, lambda n: 1.0),
    ("grpo", {}, lambda n: 1 - 1 / n),
    ("reinforce", {}, lambda n: 1 - 1 / n),
    ("js", {}, lambda n: 1.0),
    ("js", {"baseline": "mean"}, lambda n: 1 - 1 / n),
    ("js", {"baseline": "state"}, lambda n: 1.0),
    ("relativistic", {}, lambda n: 1.0),
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.wide), 4, 8])
@pytest.mark.parametrize(("name", "fields", "shrunk"), GROUPS)
@pytest.mark.few(2)
def test_groups_of_two_four_and_eight(name, fields, shrunk, size):
    """Three strings, so that every group can be listed: 3^8 in 45 sets."""
    world = rewarded(random_world(2, 2, 0.5, 0), "reverse_kl")
    found, _ = _in_groups(world, name, fields, size)
    assert found[:2] == pytest.approx((1, shrunk(size)))


def _in_groups(world, name, fields, size):
    method = objectives.resolve(name, **fields)
    if learned := isinstance(method, Adversarial):
        method = dataclasses.replace(method, warmup=0)
    objective = method.build(batches.still(method, world.exact))
    aux = objective.init(jax.random.key(0), world.params)
    if learned:
        case = cases.Case(name, method, fields)
        aux = cases.with_critic(aux, cases.optimal(world, case, aux))
    population = jax.jit(lambda x: expected_gradient(objective, x, world.demos, aux))(world.params)
    return batches.in_batches(world, method, aux, np.ravel(population), size), population


def counted(advantages):
    """The mean of all in place of that of the others."""
    return lambda returns, mask, weight, baseline: advantages(returns, mask, weight, "mean")


def without_end(returns_to_go):
    """Of each string's last action, which ends it, nothing is learned."""

    def wrong(d, level, prefix, mask, discount=1.0):
        last = mask & ~jnp.pad(mask, [(0, 0), (0, 1)])[:, 1:]
        return jnp.where(last, 0.0, returns_to_go(d, level, prefix, mask, discount))

    return wrong


def a_step_late(returns_to_go):
    """Each action is paid what the one after it should be."""
    return lambda *arguments: jnp.pad(returns_to_go(*arguments), [(0, 0), (0, 1)])[:, 1:]


PLANTED = {
    "nothing": ("advantages", lambda advantages: advantages),
    "a mean that counts the answer": ("advantages", counted),
    "EOS left out": ("returns_to_go", without_end),
    "off by one": ("returns_to_go", a_step_late),
}


@pytest.mark.usefixtures("double")
@pytest.mark.wide
@pytest.mark.parametrize("wrong", PLANTED)
def test_planted_mistakes_of_a_policy_gradient_are_caught(monkeypatch, wrong):
    """By the column of batches, or by the verdict."""
    name, plant = PLANTED[wrong]
    monkeypatch.setattr(policy_gradient, name, plant(getattr(policy_gradient, name)))
    world = random_world(2, 3, 0.5, 0)
    found, gradient = _in_groups(world, "reverse_kl", {}, 2)
    candidates = targets.targets(world, ["reverse_kl", "js"])
    claim = objectives.resolve("reverse_kl").claim()
    verdict = targets.verdict(np.ravel(gradient), claim, candidates)
    right = verdict == "exact gradient of sequence reverse_kl"
    caught = not right or found.norm_ratio == pytest.approx(0.5)
    assert caught == (wrong != "nothing")


def without_witness(paid):
    """The relativistic pay as if the policy were in one of the two orders alone."""

    def wrong(d, real, weight):
        none = d._replace(witness=jnp.zeros_like)
        return paid(none, real, weight)

    return wrong


def behind(paid):
    """Paid for how far the demonstrations are ahead."""

    def wrong(d, real, weight):
        right = paid(d, real, weight)
        return right._replace(reward=lambda s: -right.reward(s))

    return wrong


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plant", [None, without_witness, behind])
@pytest.mark.wide
def test_planted_mistakes_of_the_relativistic_pay_are_caught(monkeypatch, plant):
    """Of pearson_chi2, whose two sides differ; of js both are the same, and half of them would show
    in the size alone."""
    if plant:
        monkeypatch.setattr(pairwise, "paid", plant(pairwise.paid))
    world = random_world(2, 3, 0.5, 0)
    _, gradient = _in_groups(world, "relativistic:pearson_chi2", {}, 2)
    claim = objectives.resolve("relativistic:pearson_chi2").claim()
    candidates = targets.targets(world, ["pearson_chi2", "js"])
    candidates = candidates._replace(
        measures={targets.phrase(claim): targets.of_measure(world, claim)}
    )
    verdict = targets.verdict(np.ravel(gradient), claim, candidates)
    right = verdict == "exact gradient of sequence pearson_chi2 of pairs"
    assert right == (plant is None)


@pytest.mark.usefixtures("double")
@pytest.mark.wide
def test_a_deviation_without_bessels_correction_shows_in_the_size(monkeypatch):
    """In groups of two it is smaller by sqrt 2; in the population both are one."""
    world = rewarded(random_world(2, 2, 0.5, 0), "reverse_kl")
    right, _ = _in_groups(world, "grpo_std", {}, 2)
    plain = grpo.spread
    drawn = lambda x: jnp.all((x.sequences.weight == 0) | (x.sequences.weight == 1))
    less = lambda x: plain(x) * jnp.where(drawn(x), 0.5**0.5, 1.0)
    monkeypatch.setattr(grpo, "spread", less)
    found, _ = _in_groups(world, "grpo_std", {}, 2)
    assert found.norm_ratio > 1.3 * right.norm_ratio


@pytest.mark.usefixtures("double")
def test_a_discriminator_of_pairs_knows_the_ratio_up_to_a_constant():
    """GAD: at log p/q plus any constant its loss has no slope, elsewhere it has one, and the policy
    follows reverse KL of strings exactly, whatever the constant."""
    world = random_world(2, 2, 0.5, 0)
    method = Adversarial(divergence="reverse_kl", training="pairs", warmup=0)
    objective = method.build(world.exact._replace(optimiser=lambda rate, betas: optax.sgd(1.0)))
    still = method.build(batches.still(method, world.exact))
    table = targets.log_ratios(world)["token"]
    wanted = targets.targets(world, ["reverse_kl"]).exact["sequence"]["reverse_kl"]

    @jax.jit
    def both(table):
        start = objective.init(jax.random.key(0), world.params)
        learned = objective.prepare(
            jax.random.key(0), world.params, cases.with_critic(start, table), world.demos
        )[0]
        moved = cases.critic_of(learned) - table
        start = still.init(jax.random.key(0), world.params)
        aux = cases.with_critic(start, table)
        return moved, expected_gradient(still, world.params, world.demos, aux)

    for constant in (0.0, 3.0):
        shifted = jnp.asarray(table).at[0].add(constant)  # every string passes the empty prefix
        moved, gradient = both(shifted)
        assert float(jnp.abs(moved).max()) < 1e-12
        np.testing.assert_allclose(np.ravel(gradient), wanted, atol=1e-12)
    assert float(jnp.abs(both(jnp.asarray(table) * 1.5)[0]).max()) > 1e-3


@pytest.mark.parametrize(
    "fields", [{"divergence": "js"}, {"divergence": "reverse_kl", "level": "occupancy"}]
)
def test_pairs_are_refused_where_the_constant_would_show(fields):
    with pytest.raises(UsageError, match="up to a constant"):
        Adversarial(training="pairs", **fields).check()


VERDICTS = {
    "naive_forward_kl": "ascends sequence forward_kl",
    "naive_reverse_kl": "exact gradient of sequence reverse_kl",
    "naive_js": "biased: far from sequence js",
    "sampled_k1_loss": "zero",
    "sampled_k2_loss": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "sampled_k3_loss": "drops the effect on later prefixes of token forward_kl on the policy's",
    "sampled_k1_reward": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "sampled_k3_reward": "biased: far from token reverse_kl",
    "sampled_k3_ratio": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "sampled_k3_straight": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "sampled_z_score": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "relativistic_gan": "biased: near sequence js of pairs",
    "dagger:reverse_kl": "drops the effect on later prefixes of token reverse_kl on the policy's",
    "grpo_std:k3-loss": "biased: far from the regularised return",
    "relativistic": "exact gradient of sequence js of pairs",
    "relativistic:reverse_kl": "exact gradient of sequence jeffreys",
    "relativistic:hellinger2": "exact gradient of sequence hellinger2 of pairs",
    "spin:hellinger2": "exact gradient of sequence forward_kl",
    "top_k_alone": "biased: far from token forward_kl",
    "top_k_reverse": "biased: far from token reverse_kl",
    "top_k_conditional": "biased: far from token reverse_kl",
}


@pytest.mark.parametrize("part", range(4))
@pytest.mark.wide
def test_losses_as_other_codes_have_them(fewer, part, monkeypatch):
    monkeypatch.setattr(cases, "CRITIC_UPDATES", 2)
    monkeypatch.setattr(Spin, "variants", lambda self: ())
    for column in ("in_batches", "off_ratio"):  # which no verdict is told by
        monkeypatch.setattr(batches, column, lambda *given: None)
    names = tuple(VERDICTS)[part::4]
    rows = check_gradients.card(check_gradients.Options(), check_gradients.methods(names))
    wrong = {name: rows[name]["verdict"] for name in names}
    assert {k: v for k, v in wrong.items() if VERDICTS[k] not in v} == {}


def test_every_loss_of_other_codes_has_a_verdict_that_is_tested():
    assert set(PUBLISHED) <= set(VERDICTS)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.few(2)
def test_a_clip_on_the_wrong_side_shows_once_the_policy_has_moved(monkeypatch, wrong, ratio):
    """The larger of rho A and clip(rho) A in place of the smaller is the same at ratio 1."""

    def larger(batch, log_q, clip, ratio="token"):
        change = jnp.where(batch.sequences.mask, log_q - batch.log_old, 0.0)
        if ratio == "sequence":
            change = change.sum(1, keepdims=True) / batch.sequences.mask.sum(1, keepdims=True)
        rho = jnp.exp(change)
        return jnp.maximum(rho * batch.advantages, rho.clip(1 - clip, 1 + clip) * batch.advantages)

    if wrong:
        monkeypatch.setattr(grpo, "clipped", larger)
    world = rewarded(random_world(3, 2, 0.5, 0), "reverse_kl")
    method = objectives.resolve("grpo", ratio=ratio)
    aux = method.build(world.exact).init(jax.random.key(0), world.params)
    error = batches.off_ratio(world, method, aux)
    assert error is not None
    assert error > 0.01 if wrong else error < 1e-12


# --- finite tables --------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_the_variance_by_position_is_that_of_one_string(monkeypatch):
    """In all what listing batches gives, where no baseline ties a batch's strings together; and of
    sft at two positions by the formula: E_p||g||^2 - ||E_p g||^2 of the states at that depth."""
    monkeypatch.setattr(batches, "BLOCK", 16)  # of 28 batches: the last block is filled up
    world = random_world(3, 2, 0.5, 0)
    (plain,) = finite.named([("js", {"baseline": "none"})])
    whole = batches.in_batches(world, plain.method, (), np.ones(world.params.size))
    assert finite.by_position(world, plain).sum() == pytest.approx(whole.variance, rel=1e-9)
    q, p = softmax(np.array(world.params)), softmax(np.array(world.exact.mdp.expert.params))
    mean, square = np.zeros_like(q), np.zeros_like(q)
    for path in strings(p, 2):
        mass = np.prod([p[at] for at in path])
        for state, token in path:
            each = q[state] - np.eye(3)[token]
            mean[state] += mass * each
            square[state] += mass * each**2
    by_state = (square - mean**2).sum(-1)
    (likelihood,) = finite.named([("sft", {})])
    found = finite.by_position(world, likelihood)
    np.testing.assert_allclose(found, [by_state[0], by_state[1:].sum()], rtol=1e-9)


@pytest.mark.wide
def test_the_finite_tables(monkeypatch):
    """A mean over three of four; the first epoch is exact and later ones are not; what is known of
    later actions takes variance away, more of it on longer strings."""
    with jax.enable_x64(True):
        groups = finite.groups((2, 4), [("reverse_kl", {"baseline": "mean"}), ("rloo", {})])
        reuse = finite.reuse((1, 8), [("grpo", {}), ("rloo", {})])
        pairs = [("reverse_kl", {}), ("reverse_kl", {"baseline": "state"})]
        variance = finite.variance((2, 4), pairs)
    halves = groups.numbers["reverse_kl baseline=mean"]
    assert [halves[n]["norm_ratio"] for n in "24"] == pytest.approx([0.5, 0.75])
    assert groups.numbers["rloo"]["4"]["variance"] < groups.numbers["rloo"]["2"]["variance"]
    for name in ("grpo", "rloo"):
        first, last = (reuse.numbers[name][n] for n in "18")
        assert first["cosine"] == pytest.approx(1) and last["cosine"] < 0.9
    assert reuse.numbers["grpo"]["8"]["stopped"] > 0.1
    plain, state = (variance.numbers[label]["horizon"] for label in variance.rows)
    assert state[1] < plain[1] and state[0] / state[1] > plain[0] / plain[1]
    page = finite.markdown([groups, reuse, variance])
    assert page.count("\n### ") == 3 and "0.7500" in page
    whole = f"a\n{card.MARKS[0]}\n{card.MARKS[1]}\n{card.FURTHER[0]}\nold\n{card.FURTHER[1]}\nz\n"
    assert "old" not in card.with_table(whole, {}, [groups])
    assert "old" in card.with_table(whole, {})


# --- the words ------------------------------------------------------------------------------------


def test_verdicts():
    axis = np.eye(7)
    levels = {"sequence": 0, "occupancy": 1, "token": 2, "token_expert": 3}
    candidates = targets.Targets(
        {level: {"js": axis[i]} for level, i in levels.items()},
        {"token": {"js": axis[4]}, "prefix": {"js": axis[5]}},
        axis[6],
    )
    sequence, half = Claim("js", Level.sequence, ""), Claim("js", Level.token_policy, "", 0.5)
    verdict = lambda gradient, claim=sequence: targets.verdict(
        np.asarray(gradient, float), claim, candidates
    )
    assert verdict(0 * axis[0]) == "zero"
    assert verdict(axis[0]) == "exact gradient of sequence js"
    assert verdict(0.25 * axis[0]) == "exact gradient of sequence js, times 0.25"
    assert verdict(axis[1]) == "exact gradient of occupancy js"
    assert verdict(axis[2]) == "exact gradient of token js on the policy's prefixes"
    assert verdict(2 * axis[3]) == "exact gradient of token js on the expert's prefixes, times 2"
    assert verdict(3 * axis[5]) == "biased: drops the effect on later prefixes of sequence js"
    assert (
        verdict(axis[2] / 2 + axis[3] / 2, half)
        == "exact gradient of token js on prefixes 50% the policy's"
    )
    assert verdict(axis[4] / 2 + axis[3] / 2, half).startswith(
        "biased: drops the effect on later prefixes of token js on prefixes"
    )
    assert verdict(axis[6]).startswith("no divergence's")
    assert verdict(-axis[0]) == "ascends sequence js"
    assert verdict(axis[0] + 0.2 * axis[1]) == "biased: near sequence js"
    assert verdict(axis[0] + 2.0 * axis[1]) == "biased: far from sequence js"


def test_the_numbers_are_against_what_is_claimed():
    """The share of prefixes that are the policy's is of the token level alone."""
    axis = np.eye(4)
    levels = {"sequence": 0, "occupancy": 1, "token": 2, "token_expert": 3}
    exact = {level: {"js": axis[i]} for level, i in levels.items()}
    candidates = targets.Targets(exact, {"token": {}, "prefix": {}}, axis[3])
    for level in (Level.sequence, Level.occupancy):
        own = exact[level.plain]["js"]
        for share in (0.0, 1.0):
            np.testing.assert_array_equal(candidates.of(Claim("js", level, "", share)), own)
    half = candidates.of(Claim("js", Level.token_policy, "", 0.5))
    np.testing.assert_array_equal(half, (axis[2] + axis[3]) / 2)


def test_what_has_changed():
    rows = {"a": {"verdict": "zero"}, "b": {"verdict": "exact"}}
    assert card.changes(rows, {"a": "zero", "b": "exact"}, whole=True) == []
    assert card.changes(rows, {"a": "zero", "b": "exact", "c": "x"}, whole=False) == []
    lines = card.changes(rows, {"a": "exact", "c": "x"}, whole=True)
    assert [line.split(":")[0] for line in lines] == ["changed", "new", "gone"]


def test_every_registered_method_has_a_case():
    methods = check_gradients.methods(())
    registered = {name.partition(":")[0] for name in methods if name not in PUBLISHED}
    assert registered == set(objectives.METHODS)
    assert set(PUBLISHED) < set(methods)
    labels = [case.label for case in cases.cases(methods)]
    assert len(set(labels)) == len(labels)
    assert {
        "sft",
        "reverse_kl discount=0",
        "airl reward_form=expert entropy=1",
        "distill policy_prefixes=0.5",
    } <= set(labels)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.wide
def test_the_card_of_a_small_mdp(fewer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cases, "CRITIC_UPDATES", 150)
    names = ["reverse_kl", "fairl", "distill:reverse_kl"]
    assert check_gradients.main([*names, *SMALL, "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        f"gradients.{kind}" for kind in ("json", "md", "csv", "png", "pdf")
    }
    rows = json.loads((tmp_path / "gradients.json").read_text())["rows"]
    drops = "biased: drops the effect on later prefixes of"
    assert {label: row["verdict"] for label, row in rows.items()} == {
        "reverse_kl": "exact gradient of sequence reverse_kl",
        "reverse_kl discount=0": f"{drops} sequence reverse_kl",
        "fairl": "ascends sequence forward_kl",
        "fairl (trained)": "close to the optimal discriminator's",
        "distill:reverse_kl": "exact gradient of token reverse_kl on the expert's prefixes",
        "distill:reverse_kl policy_prefixes=1": (
            f"{drops} token reverse_kl on the policy's prefixes"
        ),
    }
    same = ("reverse_kl discount=0", "distill:reverse_kl policy_prefixes=1")
    a, b = (rows[label]["against"] for label in same)
    for level, family in a.items():  # one and the same direction
        assert [x["cosine"] for x in family.values()] == pytest.approx(
            [x["cosine"] for x in b[level].values()]
        )
    assert rows["reverse_kl"]["relative_error"] < 1e-9
    assert rows["fairl (trained)"]["cosine"] != rows["fairl"]["cosine"]
    assert "ascends sequence forward_kl" in capsys.readouterr().out


def test_a_verdict_that_changes_is_an_error(tmp_path, capsys, monkeypatch):
    row = {"verdict": "exact gradient of sequence forward_kl"}
    monkeypatch.setattr(check_gradients, "card", lambda options, methods: {"sft": row})
    monkeypatch.setattr(card, "show", lambda *rest: None)
    monkeypatch.setattr(card, "write", lambda *rest: None)
    for verdict, code in ((row["verdict"], 0), ("zero", 1)):
        (tmp_path / "then.json").write_text(
            json.dumps({"rows": {"sft": {"verdict": verdict}, "gail": {"verdict": "zero"}}})
        )
        assert check_gradients.main(["sft", "--expect", str(tmp_path / "then.json")]) == code
    changed = "changed: sft: 'zero' -> 'exact gradient of sequence forward_kl'"
    assert changed in capsys.readouterr().out


BAD = {
    "unknown objective": (["gial"], "gail"),
    "objective twice": (["sft", "sft"], "once"),
    "no divergence": (["adversarial"], "hellinger2"),
    "one symbol": (["--vocab", "1"], "vocab = 1"),
    "too long": (["--horizon", "30"], "at most 11"),
    "no perturbation": (["--perturbation", "0"], "perturbation = 0.0"),
    "no such file": (["--expect", "/nowhere"], "expect = '/nowhere'"),
    "not a card": (["--expect", __file__], "holds no verdicts"),
    "out is a file": (["--out", __file__], "is a file"),
    "no such import": (["--import", "/nowhere.py"], "Python file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_paragraph_and_exit_code_2(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv, says = BAD[case]
    assert check_gradients.main(argv) == cli.USAGE_EXIT
    message = " ".join(capsys.readouterr().err.split())
    assert says in message
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


OWN = """
import dataclasses

import jax.numpy as jnp

from fdiv import tokens as tk
from fdiv.objectives import METHODS
from fdiv.types import Claim, Level, Method, Objective


@dataclasses.dataclass(frozen=True)
class Backwards(Method):
    kind = "backwards"
    learning_rate: float | None = None

    def claim(self):
        return Claim("forward_kl", Level.sequence, "Likelihood with the wrong sign.")

    def build(self, components):
        policy, vocab = components.policy, components.mdp.vocab

        def loss(params, aux, batch):
            log_q = tk.log_probs(policy, params, batch, vocab).sum(1)
            return jnp.sum(batch.weight * log_q), {}

        prepare = lambda key, params, aux, batch: (aux, tk.normalise(batch), {})
        return Objective(lambda key, params: (), prepare, loss)


METHODS["backwards"] = Backwards()
"""


@pytest.mark.wide
def test_an_objective_of_the_users_own(fewer, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "IMPORTED", [])
    monkeypatch.setattr(objectives, "METHODS", dict(objectives.METHODS))
    (tmp_path / "own.py").write_text(OWN)
    argv = ["--import", str(tmp_path / "own.py"), "backwards", *SMALL]
    assert check_gradients.main([*argv, "--out", str(tmp_path / "x")]) == 0
    rows = json.loads((tmp_path / "x" / "gradients.json").read_text())["rows"]
    assert rows["backwards"]["verdict"] == "ascends sequence forward_kl"
    assert rows["backwards"]["cosine"] == pytest.approx(-1)
