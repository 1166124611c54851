"""Inverse RL beyond GAIL, and a reward's target distribution: f-DPG, SPIN, IQ-Learn, DAgger, each
against its own algebra."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import EVERY, SPACES, close, law, random_models
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from experiments.gradients.world import build, table_score
from fdiv import divergences, exact, objectives, regularised
from fdiv import tokens as tk
from fdiv.learner import learner
from fdiv.objectives.distill import Distill
from fdiv.objectives.fdpg import Fdpg, FdpgState
from fdiv.objectives.iq_learn import IqLearn
from fdiv.objectives.max_likelihood import MaxLikelihood
from fdiv.objectives.policy_gradient import PolicyGradient
from fdiv.objectives.spin import Spin, SpinState
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Model, Regulariser, Sequences, UsageError

BETA = 0.7
CASES = [
    ("fdpg:js", {}),
    ("spin", {}),
    ("iq_learn", {}),
    ("iq_learn", {"data": "mixed"}),
    ("dagger", {}),
]
POWERS = {
    "reverse_kl": 0,
    "forward_kl": 1,
    "hellinger2": 0.5,
    "pearson_chi2": 2,
    "neyman_chi2": -1,
    "alpha:0.7": 0.7,
}


def task_of(kind: str = "ending", exactly: bool = True, seed: int = 0):
    """(space, components whose expert is ref e^{r / beta} / Z, random params, all demonstrations by
    weight, log Z)."""
    world, demos, log_z = _task_of(kind, seed, jax.config.jax_enable_x64)
    components = world.exact if exactly else world.sampled
    return world.space, components, world.params, demos, log_z


@functools.cache
def _task_of(kind: str, seed: int, double: bool):
    space, reference, policy, params = random_models(kind, seed)
    shape = reference.params.shape
    score = table_score(space, np.random.default_rng(seed + 1).standard_normal(shape))
    energy = lambda: exact.law(space, *reference).string + score(space.sequences) / BETA
    energy = np.asarray(jax.jit(energy)())
    log_z = logsumexp(energy)
    expert = Model(policy, tabular.written(space, energy - log_z))
    task = {"reference": reference, "score": score, "beta": BETA}
    world = build(space, policy, jnp.asarray(params), expert, **task)
    return world, jax.jit(lambda: world.demos)(), log_z


def built(name: str, fields: dict, exactly: bool = False):
    space, components, params, demos, _ = task_of(exactly=exactly)
    method = objectives.resolve(name, **fields)
    return (
        space,
        components,
        params.astype(jnp.float32),
        method.build(components),
        demos,
    )


def gradient(objective, params, demos, aux=None):
    """`exact.expected_gradient` as one compiled program."""
    return gradients([(objective, params, aux)], demos)[0]


def gradients(each, demos):
    """`exact.expected_gradient` for each (objective, params, aux), as one compiled program."""
    objectives, *at = zip(*each, strict=True)

    def of(*at):
        each = zip(objectives, *at, strict=True)
        return [exact.expected_gradient(o, x, demos, a) for o, x, a in each]

    return jax.jit(of)(*at)


@functools.cache
def likelihood_gradient(kind="ending"):
    """That of maximum likelihood, at the random params of a task."""
    _, components, params, demos, _ = task_of(kind)
    return np.asarray(gradient(MaxLikelihood().build(components), params, demos))


def moved(params, seed=1):
    """Other params, far away."""
    return params + np.random.default_rng(seed).standard_normal(params.shape)


def slopes_over_strings(specs, log_p, law_of_strings, params):
    """The gradient of the sum over strings of perspective(log_p, log q), for each divergence."""
    log_q, back = jax.vjp(law_of_strings, params)

    def along(spec):  # a perspective works string by string
        of = functools.partial(divergences.parse(spec).perspective, log_p)
        return jax.jvp(of, (log_q,), (jnp.ones_like(log_q),))[1]

    return jax.vmap(back)(jnp.stack([along(spec) for spec in specs]))[0]


def drawn(components, count: int, seed: int = 0) -> Sequences:
    """Demonstrations."""
    return jax.jit(lambda key: components.mdp.demos(key, count))(jax.random.key(seed))


def laws(space, components, params):
    return law(space, *components.mdp.expert), law(space, components.policy, params)


def cosine(a, b) -> float:
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- f-DPG ----------------------------------------------------------------------------------------


def at_z(log_z) -> FdpgState:
    """The state after some updates, with this normaliser."""
    return FdpgState(jnp.asarray(log_z), jnp.ones((), jnp.int32), ())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_the_expert_is_the_target_of_the_reward(kind):
    space, components, params, _, _ = task_of(kind)

    @jax.jit
    def optimum():
        ref = exact.law(space, *components.mdp.regulariser.reference).string
        reward = components.mdp.score(space.sequences)
        return regularised.optimum(divergences.reverse_kl(), reward, ref, BETA)

    close(laws(space, components, params)[0].string, optimum())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.few(1)
def test_the_right_normaliser_makes_every_divergence_exact(kind, in_turn):
    specs = EVERY[list(SPACES).index(kind) :: 2]  # each on one of the spaces
    space, components, params, demos, log_z = task_of(kind)

    def gradients(spec):
        both = [Fdpg(spec, normaliser=how).build(components) for how in ("estimated", "exact")]

        def at(x):
            told = exact.expected_gradient(both[0], x, demos, at_z(log_z))
            # the first batch is of all strings, so that Z^ is Z
            first = [exact.expected_gradient(o, x, demos) for o in both]
            return jnp.stack([told, *first])

        return at

    @jax.jit
    def truths(x):
        p = exact.law(space, *components.mdp.expert).string
        strings = lambda x: exact.law(space, components.policy, x).string
        return slopes_over_strings(specs, p, strings, x)

    wanted = truths(params)
    for each in np.asarray(in_turn(specs, gradients)(params)).swapaxes(0, 1):
        close(each, wanted)


@pytest.mark.usefixtures("double")
def test_a_wrong_normaliser_is_an_unnormalised_target(in_turn):
    """Z^ = e^c Z: the same f to p e^-c. Reverse KL loses nothing, the alpha family length alone,
    the others direction."""
    space, components, params, demos, log_z = task_of()
    c = 1.3

    def gradients(spec):
        objective = Fdpg(spec).build(components)
        at = lambda x, log_z: exact.expected_gradient(objective, x, demos, at_z(log_z))
        return lambda x: jax.lax.map(functools.partial(at, x), jnp.stack([log_z, log_z + c]))

    @jax.jit
    def unnormalised(x):
        p = exact.law(space, *components.mdp.expert).string
        strings = lambda x: exact.law(space, components.policy, x).string
        return slopes_over_strings(EVERY, p - c, strings, x)

    truths, found = map(np.asarray, (unnormalised(params), in_turn(EVERY, gradients)(params)))
    for spec, (right, wrong), truth in zip(EVERY, found, truths, strict=True):
        close(wrong, truth)
        if spec in POWERS:
            close(wrong, np.exp(-c * POWERS[spec]) * right)
        else:
            assert cosine(wrong, right) < 1 - 1e-4


@pytest.mark.usefixtures("double")
def test_the_normaliser_is_a_running_mean_by_hand():
    """From Z^ = 1, a batch of all strings, whose mean is Z: .75 + .25 Z; it judges from the next
    batch on."""
    _, components, params, demos, log_z = task_of()
    objective = Fdpg("js", rate=0.25).build(components)
    prepare = jax.jit(objective.prepare)
    aux, _, metrics = prepare(jax.random.key(0), params, at_z(0.0), demos)
    assert float(aux.log_z) == pytest.approx(np.log(0.75 + 0.25 * np.exp(log_z)), abs=1e-12)
    assert float(metrics["log_z"]) == 0
    assert float(prepare(jax.random.key(0), params, aux, demos)[2]["log_z"]) == float(aux.log_z)


@pytest.mark.usefixtures("double")
def test_samples_estimate_the_normaliser_without_bias_and_then_the_gradient():
    """Over many batches of 16, the mean of Z^ is Z and the mean gradient the exact one, within five
    standard errors."""
    _, components, params, demos, log_z = task_of(exactly=False)
    first, later = Fdpg("js", rate=1.0).build(components), at_z(log_z)

    def sampled(key):
        data_key, key = jax.random.split(key)
        batch = components.mdp.demos(data_key, 16)
        aux, scored, _ = first.prepare(key, params, later, batch)
        return jnp.exp(aux.log_z), jax.jit(jax.grad(lambda x: first.loss(x, aux, scored)[0]))(
            params
        )

    found = jax.jit(jax.vmap(sampled))(jax.random.split(jax.random.key(5), 4000))
    wanted = jnp.exp(log_z), gradient(Fdpg("js").build(task_of()[1]), params, demos, later)
    for draws, truth in zip(found, wanted):
        error = np.asarray(draws).std(0) / np.sqrt(len(draws))
        np.testing.assert_array_less(
            np.abs(np.asarray(draws).mean(0) - np.asarray(truth)), 5 * error + 1e-9
        )


def test_reverse_kl_needs_no_normaliser_in_any_batch():
    """The others' mean moves with s, so not the expectation alone but every batch's gradient is the
    same."""
    _, components, params, objective, _ = built("fdpg:reverse_kl", {})
    batch = drawn(components, 32)
    slope = jax.jit(lambda x, aux: exact.expected_gradient(objective, x, batch, aux))
    found = [np.asarray(slope(params, at_z(log_z))) for log_z in (0.0, 4.0)]
    close(*found, 1e-5)
    assert np.abs(found[0]).max() > 1e-2


@pytest.mark.usefixtures("double")
def test_an_exact_normaliser_is_the_policy_gradient():
    _, components, params, demos, _ = task_of()
    known = components._replace(
        mdp=components.mdp._replace(score=None, regulariser=None)
    )  # neither is read
    methods = Fdpg("js", normaliser="exact"), PolicyGradient("js")
    close(*gradients([(each.build(known), params, None) for each in methods], demos))


def test_without_a_reference_it_is_the_start():
    _, components, params, demos, _ = task_of()
    start = jnp.asarray(moved(params), params.dtype)
    task = lambda reference: components._replace(
        mdp=components.mdp._replace(regulariser=Regulariser("reverse_kl", BETA, reference))
    )
    objective = Fdpg("js").build(task(None))
    others = [Fdpg("js").build(x) for x in (task(Model(components.policy, start)), components)]
    found, same, other = gradients(
        [
            (objective, params, objective.init(jax.random.key(0), start)),
            *((each, params, None) for each in others),
        ],
        demos,
    )
    close(found, same, 1e-6)
    assert cosine(found, other) < 0.99


def test_broken_scores_are_left_out_and_counted():
    _, components, params, _, _ = task_of(exactly=False)
    broken = lambda x: jnp.where(x.mask.sum(1) == 1, jnp.nan, 0.0)
    objective = Fdpg("js").build(components._replace(mdp=components.mdp._replace(score=broken)))
    aux = objective.init(jax.random.key(0), params)
    batch = tk.empty_prompts(64)._replace(
        tokens=jnp.zeros((64, 4), jnp.int32), mask=jnp.ones((64, 4), bool)
    )
    aux, batch, metrics = jax.jit(objective.prepare)(jax.random.key(1), params, aux, batch)
    short = np.asarray(batch.sequences.mask.sum(1)) == 1
    assert 0 < short.mean() == pytest.approx(float(metrics["not_finite"]))
    assert not np.asarray(batch.sequences.weight)[short].any()
    assert np.isfinite(float(aux.log_z))
    assert np.isfinite(np.asarray(batch.advantages)).all()


def test_each_prompt_has_its_own_normaliser():
    space, components, _, _, _ = task_of(exactly=False)
    automaton = tabular.markov(space.vocab, space.horizon + 1, 1)
    policy, table = (
        tabular.policy(automaton, space.vocab),
        jnp.zeros((automaton.states, space.vocab)),
    )
    prompts = Sequences(jnp.array([[0], [1]] * 8), jnp.zeros((16, 1), bool), jnp.ones(16))
    write = sampler(space.horizon, space.eos)
    batch = jax.jit(lambda key: write(key, policy, table, prompts)[0])(jax.random.key(0))
    mdp = components.mdp._replace(
        score=lambda x: x.mask.sum(1),
        regulariser=Regulariser("reverse_kl", BETA, Model(policy, table)),
    )
    for spec in ("js", "reverse_kl"):
        objective = Fdpg(spec).build(components._replace(policy=policy, mdp=mdp))
        aux = objective.init(jax.random.key(0), table)
        prepare = lambda aux=aux, run=objective.prepare: jax.jit(run)(
            jax.random.key(1), table, aux, batch
        )
        if spec == "js":
            with pytest.raises(UsageError, match="normaliser of its own"):
                prepare()
        else:
            assert np.isfinite(np.asarray(prepare()[1].advantages)).all()


# --- SPIN -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_spin_rests_at_the_expert_and_starts_as_likelihood(kind):
    """While q is old: beta / 2 times the gradient of forward KL, for any policy; so nothing at the
    expert."""
    _, components, params, demos, _ = task_of(kind)
    objective = Spin(beta=0.6).build(components)
    slope = jax.jit(lambda x: exact.expected_gradient(objective, x, demos))
    close(slope(params), 0.3 * likelihood_gradient(kind))
    assert np.abs(np.asarray(slope(components.mdp.expert.params))).max() < 1e-12


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_spin_is_its_formula_over_all_pairs(kind):
    space, components, params, demos, _ = task_of(kind)
    old = moved(params)
    objective, aux = Spin(beta=0.6).build(components), SpinState(old, jnp.ones((), jnp.int32))

    @jax.jit
    def slopes(params):
        p = exact.law(space, *components.mdp.expert).string
        strings = lambda x: exact.law(space, components.policy, x).string

        def written(x):
            h = 0.6 * (strings(x) - strings(old))
            log_sigmoid = jnp.log(jax.nn.sigmoid(h[:, None] - h[None]))
            return -jnp.exp(p) @ log_sigmoid @ jnp.exp(strings(old))

        found = exact.expected_gradient(objective, params, demos, aux)
        return found, jax.grad(written)(params)

    found, wanted = slopes(params)
    close(found, wanted)
    assert cosine(found, likelihood_gradient(kind)) < 0.99


BOUNDS = {  # (witness, reward) of u, by hand
    "js": (lambda u: np.log(2 * u / (1 + u)) / 2, lambda u: np.log((1 + u) / 2) / 2),
    "forward_kl": (np.log, lambda u: u - 1),
    "pearson_chi2": (lambda u: 2 * (u - 1), lambda u: u**2 - 1),
    "hellinger2": (lambda u: 1 - u**-0.5, lambda u: u**0.5 - 1),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", BOUNDS)
@pytest.mark.parametrize("form", ["pairs", "single"])
@pytest.mark.few(2)
def test_self_play_by_any_f(spec, form):
    """The loss is minus the bound of D_f of the two orders of a pair, or of single strings, at
    h = beta log q/old; while q is old its gradient is likelihood's times 2 beta f''(1), or half of
    that; and of single strings with forward_kl at beta 1 it is likelihood's wherever q is."""
    space, components, params, demos, _ = task_of()
    method = Spin(0.6, form=form, divergence=spec)
    (witness, reward), curve = BOUNDS[spec], {"js": 0.25, "pearson_chi2": 2, "hellinger2": 0.5}
    factor = 0.6 * curve.get(spec, 1) * (2 if form == "pairs" else 1)
    objective = method.build(components)
    old = moved(params)
    both = components.mdp.expert, (components.policy, old)
    p, o = (np.exp(law(space, *model).string) for model in both)

    def by_hand(x):
        u = (np.exp(law(space, components.policy, x).string) / o) ** 0.6
        if form == "single":
            return o @ reward(u) - p @ witness(u)
        each = reward(u[None] / u[:, None]) - witness(u[:, None] / u[None])
        return p @ each @ o + (np.log(2) if spec == "js" else 0)

    @jax.jit
    def slopes(x, aux):
        after, batch, _ = objective.prepare(jax.random.key(0), x, aux, demos)
        return jax.value_and_grad(lambda x: objective.loss(x, after, batch)[0])(x)

    count = lambda updates: jnp.full((), updates, jnp.int32)
    renewed = slopes(params, SpinState(old, count(0)))[1]
    close(renewed, factor * likelihood_gradient())
    aux = SpinState(old, count(1))
    found, slope = slopes(params, aux)
    assert float(found) == pytest.approx(float(by_hand(params)), rel=1e-9)
    along = moved(np.zeros(params.shape), seed=2)
    ends = [float(by_hand(params + side * 1e-5 * along)) for side in (1, -1)]
    assert float(np.sum(slope * along)) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    if (spec, form) == ("forward_kl", "single"):
        plain = Spin(1.0, form=form, divergence=spec).build(components)
        close(gradient(plain, params, demos, aux), likelihood_gradient())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("form", ["pairs", "single"])
@pytest.mark.wide
def test_a_round_by_any_f_ends_at_the_expert(form):
    _, components, old, demos, _ = task_of()
    aux, there = SpinState(old, jnp.ones((), jnp.int32)), jnp.asarray(components.mdp.expert.params)
    for spec in ("hellinger2", "reverse_kl", "pearson_chi2", "alpha:0.3", "todi"):
        objective = Spin(form=form, divergence=spec).build(components)
        assert float(jnp.abs(gradient(objective, there, demos, aux)).max()) < 1e-11


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_a_round_of_spin_ends_where_it_says(beta):
    """old (p / old)^{1 / beta}: the expert at beta 1."""
    space, components, old, demos, _ = task_of()
    p, o = (np.asarray(each.string) for each in laws(space, components, old))
    best = log_softmax(o + (p - o) / beta)
    objective, aux = Spin(beta).build(components), SpinState(old, jnp.ones((), jnp.int32))
    slope = jax.jit(lambda x: exact.expected_gradient(objective, x, demos, aux))
    size = [np.abs(np.asarray(slope(x))).max() for x in (tabular.written(space, best), old)]
    assert size[0] < 1e-12 < 1e-3 < size[1]
    if beta == 1:
        close(np.exp(best), np.exp(p))


def test_the_old_policy_is_renewed_every_so_many_updates():
    _, components, params, objective, _ = built("spin", {"refresh": 3})
    made = learner(objective, optax.sgd(0.5))
    update = jax.jit(lambda state, key: made.update(state, components.mdp.demos(key, 32)))
    state, seen = made.init(jax.random.key(0), params), []
    for i in range(7):
        before = np.asarray(state.params)
        state, metrics = update(state, jax.random.key(i))
        seen.append(np.all(np.asarray(state.aux.old) == before))
        assert (float(metrics["margin"]) == pytest.approx(0, abs=1e-6)) == seen[-1]
    assert seen == [True, False, False, True, False, False, True]


@pytest.mark.usefixtures("double")
def test_rows_of_spin_average_to_all_pairs():
    _, components, params, demos, _ = task_of(exactly=False)
    aux = SpinState(moved(params), jnp.ones((), jnp.int32))
    objective = Spin().build(components)

    def sampled(key):
        data_key, key = jax.random.split(key)
        after, batch, _ = objective.prepare(key, params, aux, components.mdp.demos(data_key, 16))
        return jax.jit(jax.grad(lambda x: objective.loss(x, after, batch)[0]))(params)

    draws = np.asarray(jax.jit(jax.vmap(sampled))(jax.random.split(jax.random.key(3), 3000)))
    wanted = np.asarray(gradient(Spin().build(task_of()[1]), params, demos, aux))
    np.testing.assert_array_less(
        np.abs(draws.mean(0) - wanted), 5 * draws.std(0) / np.sqrt(len(draws)) + 1e-9
    )


# --- IQ-Learn -------------------------------------------------------------------------------------


def tree(space):
    """For every node its parent's row of a table of prefixes, its token, and its own row (one past
    the last: ended)."""
    return _tree(space.vocab, space.horizon, space.eos)


@functools.cache
def _tree(*shape):
    space = exact.enumerate_strings(*shape)
    automaton = tabular.full(space.vocab, space.horizon)
    state = np.asarray(tabular.read(automaton, space.sequences.tokens))
    after = np.where(space.sequences.mask, np.pad(state, [(0, 0), (0, 1)])[:, 1:], 0)
    goes_on = np.pad(space.sequences.mask, [(0, 0), (0, 1)])[:, 1:]
    after = np.where(goes_on, after, automaton.states)
    return state[space.node_at], space.sequences.tokens[space.node_at], after[space.node_at]


def written_out(space, components, alpha, data="offline"):
    """Minus the objective as Garg et al. have it, over nodes, nothing cancelled: of policy, V, and
    who draws own strings."""
    before, token, after = tree(space)
    p = jnp.exp(law(space, *components.mdp.expert).node)

    def loss(params, value, fixed=None):
        seen = (
            p if data == "offline" else (p + jnp.exp(law(space, components.policy, fixed).node)) / 2
        )
        v = jnp.append(value.ravel(), 0.0)
        q = v[before] + jax.nn.log_softmax(params)[before, token]  # soft Q
        r = q - v[after]
        return -p @ r + seen @ r**2 / (4 * alpha) + seen @ (v[before] - v[after])

    return loss


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("data", ["offline", "mixed"])
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.few(2)
def test_iq_learn_is_its_objective_in_policy_and_value(kind, data):
    space, components, params, demos, _ = task_of(kind)
    alpha, value = 3.0, moved(np.zeros((params.shape[0], 1)))
    objective = IqLearn(data, alpha, value_learning_rate=1e-12, value_steps=1).build(components)
    written = written_out(space, components, alpha, data)

    @jax.jit
    def measured(params, value):
        start = (value, objective.init(jax.random.key(0), params)[1])
        (_, opt), batch, _ = objective.prepare(jax.random.key(0), params, start, demos)
        found = jax.value_and_grad(lambda x: objective.loss(x, (), batch)[0])(params)
        by_hand = jax.value_and_grad(written, argnums=(0, 1))(params, value, params)
        return found, opt[0].mu, by_hand

    (loss, slope), moment, (wanted, (in_policy, in_value)) = measured(params, value)
    close(slope, in_policy)
    close(
        10 * moment, 2 * alpha * in_value
    )  # Adam's first moment is a tenth of a gradient; V's does not know alpha
    assert float(loss) == pytest.approx(float(wanted), abs=1e-10)


@pytest.mark.usefixtures("double")
def test_without_the_square_it_is_behaviour_cloning():
    _, components, params, demos, _ = task_of()
    methods = [IqLearn(data, alpha=1e12).build(components) for data in ("offline", "mixed")]
    for found in gradients([(each, params, None) for each in methods], demos):
        close(found, likelihood_gradient())


def solved(space, components, alpha, data="offline", rounds=1):
    """The policy's table and r at its nodes where the written-out objective is least, own strings
    renewed each round."""
    before, token, after = tree(space)
    states = before.max() + 1
    size = states * space.vocab
    table = lambda flat: flat[:size].reshape(states, space.vocab)

    loss = written_out(space, components, alpha, data)
    both = jax.jit(jax.value_and_grad(lambda x, fixed: loss(table(x), x[size:], fixed)))
    flat = np.zeros(size + states)
    for _ in range(rounds):
        fixed = table(flat)
        run = minimize(
            lambda x, at=fixed: tuple(map(np.asarray, both(x, at))),
            flat,
            jac=True,
            method="BFGS",
            tol=1e-9,
        )
        flat = run.x
    params, v = table(flat), np.append(flat[size:], 0.0)
    return (
        run.fun,
        params,
        np.asarray(jax.nn.log_softmax(params))[before, token] + v[before] - v[after],
    )


@pytest.mark.usefixtures("double")
def test_iq_learn_is_a_chi_square_less_entropy():
    """Solved as it is and as min over q of alpha sum (q - p)^2 / p - H(q): one value, one law; r =
    2 alpha (1 - q / p)."""
    space, components, params, _, _ = task_of("fixed")
    alpha, p = 2.0, law(space, *components.mdp.expert)

    def dual(x):
        q = law(space, components.policy, x)
        return alpha * jnp.sum(
            (jnp.exp(q.node) - jnp.exp(p.node)) ** 2 / jnp.exp(p.node)
        ) - exact.entropy(q)

    slope = jax.jit(jax.value_and_grad(lambda x: dual(x.reshape(params.shape))))
    start = np.array(components.mdp.expert.params).ravel()
    run = minimize(
        lambda x: tuple(map(np.asarray, slope(x))),
        start,
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9},
    )
    least, table, r = solved(space, components, alpha)
    assert -least == pytest.approx(run.fun, abs=1e-8)
    q = law(space, components.policy, jnp.asarray(table))
    close(
        jnp.exp(q.string),
        jnp.exp(law(space, components.policy, jnp.asarray(run.x.reshape(params.shape))).string),
        1e-6,
    )
    close(r, 2 * alpha * (1 - jnp.exp(q.node - p.node)), 1e-5)


@pytest.mark.usefixtures("double")
def test_the_square_of_mixed_strings_bounds_rewards():
    space, components, _, _, _ = task_of("fixed")
    alpha, p = 2.0, jnp.exp(law(space, *components.mdp.expert).node)
    _, table, r = solved(space, components, alpha, "mixed", rounds=12)
    q = jnp.exp(law(space, components.policy, jnp.asarray(table)).node)
    close(r, 4 * alpha * (p - q) / (p + q), 1e-3)


@pytest.mark.usefixtures("double")
def test_iq_learn_is_biased_towards_entropy_by_one_over_alpha():
    space, components, _, _, _ = task_of("fixed")
    found = []
    for alpha in (3.0, 30.0, 300.0):
        p, q = laws(space, components, jnp.asarray(solved(space, components, alpha)[1]))
        found.append(float(exact.divergence(divergences.tv(), space, p, q)))
        assert float(exact.entropy(q)) > float(exact.entropy(p))
    assert found[0] > 10 * found[2] > 1e-4
    assert found[1] / found[2] == pytest.approx(10, rel=0.1)
    assert "Biased" in IqLearn().claim().sentence


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("flat", [False, True])
def test_the_expert_is_a_fixed_point_only_where_all_strings_are_as_likely(flat):
    """With the best V at the policy = the expert. Rewards of nothing need log p(x) to be one
    number."""
    space, components, params, _, _ = task_of("fixed")
    if flat:
        components = components._replace(
            mdp=components.mdp._replace(expert=Model(components.policy, np.zeros(params.shape)))
        )
    expert = jnp.asarray(components.mdp.expert.params)
    demos = exact.weighted(space, law(space, *components.mdp.expert))
    loss = written_out(space, components, 3.0)
    of_value = lambda v: loss(expert, v)
    zero = jnp.zeros(expert.shape[0])
    value = -jnp.linalg.solve(
        jax.jit(jax.hessian(of_value))(zero), jax.jit(jax.grad(of_value))(zero)
    )  # quadratic in V
    objective = IqLearn(alpha=3.0, value_learning_rate=1e-12).build(components)
    aux = (value[:, None], objective.init(jax.random.key(0), expert)[1])
    size = float(jnp.abs(gradient(objective, expert, demos, aux)).max())
    assert size < 1e-12 if flat else size > 1e-3


def test_the_value_function_learns_to_make_rewards_small():
    """To the least squares' minimum, whatever alpha is."""
    space, components, params, demos, _ = task_of("fixed")
    best = []
    for alpha in (1.0, 1e6):
        objective = IqLearn(alpha=alpha, value_learning_rate=0.05, value_steps=300).build(
            components
        )
        prepare = jax.jit(
            lambda aux, run=objective.prepare: run(jax.random.key(0), params, aux, demos)
        )
        aux = prepare(objective.init(jax.random.key(0), params))[0]
        best.append(float(prepare(aux)[2]["squared_reward"]))
    with jax.enable_x64(True):
        loss = written_out(space, components, 1.0)
        of_value = lambda v: loss(jnp.asarray(params, float), v)
        zero = jnp.zeros(params.shape[0])
        value = -jnp.linalg.solve(
            jax.jit(jax.hessian(of_value))(zero), jax.jit(jax.grad(of_value))(zero)
        )
        fixed = (
            -jnp.exp(law(space, *components.mdp.expert).string)
            @ law(space, components.policy, jnp.asarray(params, float)).string
        )
        least = float(4 * (of_value(value) - fixed))
    assert best == pytest.approx([least, least], rel=1e-3)


def test_own_strings_have_rewards_and_no_likelihood():
    _, components, params, objective, _ = built("iq_learn", {"data": "mixed"})
    aux = objective.init(jax.random.key(0), params)
    demos = drawn(components, 16, seed=2)
    _, batch, _ = jax.jit(objective.prepare)(jax.random.key(1), params, aux, demos)
    np.testing.assert_allclose(batch.demos, [1 / 16] * 16 + [0] * 16)
    np.testing.assert_allclose(batch.sequences.weight, [1 / 32] * 32)
    assert IqLearn().reusable and not IqLearn("mixed").reusable


# --- DAgger ---------------------------------------------------------------------------------------


def test_dagger_is_distillation_on_the_policys_prefixes():
    _, components, params, demos, _ = task_of()
    for name, spec in (("dagger", "forward_kl"), ("dagger:js", "js")):
        method = objectives.resolve(name)
        same = Distill(spec, policy_prefixes=1.0)
        np.testing.assert_array_equal(
            gradient(method.build(components), params, demos),
            gradient(same.build(components), params, demos),
        )
        assert method.claim() == same.claim()
        assert method.claim().policy_prefixes == 1
    given = lambda share: {"distill": Distill(policy_prefixes=share)}
    with pytest.raises(UsageError, match="dagger fixes it at 1"):
        objectives.merged("dagger", method, given(0.5))
    for share in (0.0, 1.0):
        assert objectives.merged("dagger", method, given(share)) == method


# --- laws over all of them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("fdpg", {"normaliser": "guessed"}, "estimated, exact"),
        ("fdpg", {"rate": 0.0}, "rate"),
        ("fdpg", {"rate": 1.5}, "rate"),
        ("fdpg", {"normaliser": "exact", "rate": 0.5}, "not averaged"),
        ("spin", {"beta": 0.0}, "beta"),
        ("spin", {"refresh": 0}, "refresh"),
        ("iq_learn", {"data": "online"}, "offline, mixed"),
        ("iq_learn", {"alpha": 0.0}, "alpha"),
        ("iq_learn", {"value_steps": 0}, "value_steps"),
        ("iq_learn", {"value_learning_rate": -1.0}, "value_learning_rate"),
    ],
)
def test_what_cannot_be_is_refused(name, fields, said):
    with pytest.raises(UsageError, match=said):
        objectives.resolve(name, **fields).check()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score": None}, "needs a task with a score"),
        ({"regulariser": None}, "needs a task with a score"),
        ({"regulariser": Regulariser("reverse_kl", 0.0)}, "beta = 0.0"),
        ({"regulariser": Regulariser("js", BETA)}, "under reverse_kl alone"),
    ],
)
def test_tasks_without_a_target_are_refused(changed, said):
    _, components, _, _, _ = task_of("fixed")
    with pytest.raises(UsageError, match=said):
        Fdpg("js").build(components._replace(mdp=components.mdp._replace(**changed)))
    with pytest.raises(UsageError, match="expert whose probabilities are known"):
        Fdpg("js", normaliser="exact").build(
            components._replace(mdp=components.mdp._replace(expert=None))
        )
