"""Preferences without a reward model: where each loss is least, what it is on two strings, and
which rows it reads."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import SPACES, close, law, reward_task

from experiments.gradients.world import weighted_pairs
from fdiv import divergences, exact, objectives, regularised
from fdiv import tokens as tk
from fdiv.learner import learner
from fdiv.objectives.kto import mismatched
from fdiv.policies import tabular
from fdiv.regularised import FAR, extended_reward
from fdiv.rollout import sampler
from fdiv.types import PAD, Components, Model, Pairs, Regulariser, Sequences, TokenMDP, UsageError

NAMES = ["dpo", "f_dpo:js", "f_dpo:forward_kl", "ipo", "kto", "simpo"]
COMPARING = [name for name in NAMES if name != "kto"]
BETA = 0.3


def task_of(kind: str, seed: int = 0):
    """(space, components with a random reference, random params, a random reward of each
    string)."""
    return _task_of(kind, seed, jax.config.jax_enable_x64)


@functools.cache
def _task_of(kind: str, seed: int, double: bool):
    world = reward_task(kind, seed, beta=BETA)
    rewards = np.random.default_rng(seed + 1).standard_normal(len(world.space.state))
    return world.space, world.exact, world.params, rewards


def built(name: str, components: Components, **fields):
    return objectives.resolve(name, **fields).build(components)


def population(space, log_law, chance) -> Pairs:
    """Every two strings drawn from a law, each way round by its chance [N, N] of being the
    preferred one."""
    first, second = (x.ravel() for x in np.indices(chance.shape))
    weight = jnp.exp(log_law[first] + log_law[second]) * chance[first, second]
    return weighted_pairs(space, first, second, weight)


def bradley_terry(rewards):
    return 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))


def reference(space, components):
    return np.asarray(law(space, *components.mdp.regulariser.reference).string)


def gradient(objective):
    """Of params and comparisons, compiled once."""
    return jax.jit(lambda x, pairs: exact.expected_gradient(objective, x, pairs))


def largest(x):
    return float(jnp.abs(x).max())


def slopes(space, components, params):
    """d log q(string) / d params, [N, ...]."""
    return jax.jit(jax.jacrev(lambda x: law(space, components.policy, x).string))(params)


# --- where the loss is least ----------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["ending"])
@pytest.mark.parametrize("name", list(regularised.members()))
@pytest.mark.few(2)
def test_f_dpo_is_stationary_at_the_regularised_optimum_and_nowhere_near(name, kind):
    """Whichever strings are compared: two draws from the reference, or from any other law."""
    space, components, params, rewards = task_of(kind)
    log_ref = reference(space, components)
    d = divergences.parse(name)
    best = jax.jit(lambda r, ref: regularised.optimum(d, r, ref, BETA))(rewards, log_ref)
    other = law(space, components.policy, params).string
    slope = gradient(built(f"f_dpo:{name}", components))
    for compared in (log_ref, other):
        pairs = population(space, compared, bradley_terry(rewards))
        assert largest(slope(jnp.asarray(tabular.written(space, best)), pairs)) < 1e-9
        assert largest(slope(params, pairs)) > 1e-3
    if name != "reverse_kl":  # DPO's optimum is another one
        plain = regularised.optimum(divergences.reverse_kl(), rewards, log_ref, BETA)
        assert largest(slope(jnp.asarray(tabular.written(space, plain)), pairs)) > 1e-4


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_the_gradient_of_dpo_by_another_formula(kind):
    """-beta E[sigmoid(-margin) (grad log q(chosen) - grad log q(rejected))], rows of one string
    left out."""
    space, components, params, rewards = task_of(kind)
    log_ref, log_q = (
        reference(space, components),
        np.asarray(law(space, components.policy, params).string),
    )
    weight = np.exp(log_ref[:, None] + log_ref[None, :]) * bradley_terry(rewards)
    np.fill_diagonal(weight, 0)
    implicit = BETA * (log_q - log_ref)
    pull = BETA * weight / weight.sum() / (1 + np.exp(implicit[:, None] - implicit[None, :]))
    net = pull.sum(1) - pull.sum(0)
    pairs = population(space, log_ref, bradley_terry(rewards))
    found = gradient(built("dpo", components))(params, pairs)
    close(found, -np.tensordot(net, np.asarray(slopes(space, components, params)), 1))
    close(found, gradient(built("f_dpo:reverse_kl", components))(params, pairs))


@pytest.mark.usefixtures("double")
def test_smoothed_labels_are_labels_turned_round():
    space, components, params, rewards = task_of("ending")
    log_ref, chance = reference(space, components), bradley_terry(rewards)
    smoothed = gradient(built("dpo", components, label_smoothing=0.2))(
        params, population(space, log_ref, chance)
    )
    close(
        smoothed,
        gradient(built("dpo", components))(
            params, population(space, log_ref, 0.8 * chance + 0.2 * (1 - chance))
        ),
    )
    assert "Biased" in objectives.resolve("dpo", label_smoothing=0.2).claim().sentence


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_ipo_is_stationary_at_its_closed_form_and_not_at_that_of_dpo(kind):
    """q ~ ref e^{P / beta}, P the chance to win against another draw; preferences here are no
    Bradley-Terry."""
    space, components, params, rewards = task_of(kind)
    log_ref, slope = reference(space, components), gradient(built("ipo", components))
    odds = np.random.default_rng(5).uniform(-2, 2, (len(rewards), len(rewards)))
    chance = 1 / (1 + np.exp(odds.T - odds))
    pairs = population(space, log_ref, chance)
    best = jax.nn.log_softmax(log_ref + chance @ np.exp(log_ref) / BETA)
    assert largest(slope(jnp.asarray(tabular.written(space, best)), pairs)) < 1e-9
    assert largest(slope(params, pairs)) > 1e-3
    pairs = population(space, log_ref, bradley_terry(rewards))
    plain = regularised.optimum(divergences.reverse_kl(), rewards, log_ref, BETA)
    assert largest(slope(jnp.asarray(tabular.written(space, plain)), pairs)) > 1e-3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_simpo_without_a_margin_is_stationary_where_each_token_carries_the_reward(kind):
    """log q(x) = |x| (r(x) / beta + c), whatever the reference; a margin moves it away."""
    space, components, params, rewards = task_of(kind)
    size = space.sequences.mask.sum(1)
    c = regularised.bisect(
        lambda c: jnp.exp(size * (rewards / BETA + c)).sum() - 1, jnp.float64(-100.0), 100.0
    )
    best = jnp.asarray(tabular.written(space, size * (rewards / BETA + c)))
    pairs = population(space, reference(space, components), bradley_terry(rewards))
    plain, ahead = (gradient(built("simpo", components, margin=margin)) for margin in (0.0, 0.5))
    assert largest(plain(best, pairs)) < 1e-9
    assert largest(plain(params, pairs)) > 1e-3
    assert largest(ahead(best, pairs)) > 1e-4


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
def test_the_gradient_of_kto_by_another_formula(kind):
    """-beta sum over strings of net(x) sigmoid'(u) grad log q(x): each string moves by the sign of
    its net label."""
    space, components, params, rewards = task_of(kind)
    log_ref, log_q = (
        reference(space, components),
        np.asarray(law(space, components.policy, params).string),
    )
    weight = np.exp(log_ref[:, None] + log_ref[None, :]) * bradley_terry(rewards)
    z = max(0.0, 0.5 * (weight.sum(0) + weight.sum(1)) @ (log_q - log_ref) / weight.sum())
    np.fill_diagonal(weight, 0)
    net = (2.0 * weight.sum(1) - 1.5 * weight.sum(0)) / (2 * weight.sum())
    chance = 1 / (1 + np.exp(-BETA * (log_q - log_ref - z)))
    wanted = -BETA * np.tensordot(
        net * chance * (1 - chance), np.asarray(slopes(space, components, params)), 1
    )
    pairs = population(space, log_ref, bradley_terry(rewards))
    close(gradient(built("kto", components, desirable=2.0, undesirable=1.5))(params, pairs), wanted)


# --- two strings by hand --------------------------------------------------------------------------


def by_hand(turned: bool = False):
    """Two symbols, the second one EOS, at most two tokens: chosen "00", rejected the empty string
    "1".

    q(00) = .6 x .5 = .3, ref(00) = .5 x .2 = .1; q(1) = .4, ref(1) = .5: log-ratios log 3 and log
    .8. beta is .5. `turned` exchanges policy and reference."""
    policy = tabular.policy(tabular.full(2, 2), 2)
    own, ref = (
        np.log([[0.6, 0.4], [0.5, 0.5], [0.5, 0.5]]),
        np.log([[0.5, 0.5], [0.2, 0.8], [0.5, 0.5]]),
    )
    own, ref = (ref, own) if turned else (own, ref)
    prompts = lambda key, n: tk.empty_prompts(n)
    mdp = TokenMDP(
        2,
        2,
        1,
        prompts,
        prompts,
        prompts,
        None,
        regulariser=Regulariser("reverse_kl", 0.5, Model(policy, ref)),
    )
    string = lambda *tokens: tk.completions(jnp.array([tokens]), 1)
    return (
        Components(policy, mdp, sampler(2, 1)),
        jnp.asarray(own),
        Pairs(string(0, 0), string(1, PAD)),
    )


def loss_of(objective, params, pairs):
    """(loss, metrics of prepare and of the loss)"""

    @jax.jit
    def both(params, pairs):
        key = jax.random.key(0)
        aux, batch, metrics = objective.prepare(key, params, objective.init(key, params), pairs)
        loss, more = objective.loss(params, aux, batch)
        return loss, metrics | more

    loss, metrics = both(params, pairs)
    return float(loss), metrics


@pytest.mark.parametrize(
    ("name", "fields", "wanted"),
    [
        # e^-margin = (3 / .8)^-.5 = .516398; log(1 + .516398)
        ("dpo", {}, 0.416337),
        # .9 x .416337 + .1 x log(1 + 1 / .516398) = .374703 + .1 x 1.077215
        ("dpo", {"label_smoothing": 0.1}, 0.482425),
        # rewards -.5 (3^-.5 - 1) = .211325 and -.5 (1.25^.5 - 1) = -.059017; margin .270342, log(1
        # + e^-.270342)
        ("f_dpo:hellinger2", {}, 0.567085),
        # (log 3.75 - 1 / (2 x .5))^2 = (1.321756 - 1)^2
        ("ipo", {}, 0.103527),
        # .5 (log .3 / 2 - log .4 - .1) = .5 (-.601986 + .916291 - .1) = .107152; log(1 +
        # e^-.107152)
        ("simpo", {"margin": 0.1}, 0.641006),
        # z = (log 3 + log .8) / 2 = .437734; u = .5 (1.098612 - .437734) = .330439 and -u; 1 -
        # sigmoid(u) = .418134 twice
        ("kto", {}, 0.418134),
        # (1 x .418134 + 3 x .418134) / 2
        ("kto", {"undesirable": 3.0}, 0.836268),
        # (2 x .418134 + 1 x .418134) / 2
        ("kto", {"desirable": 2.0}, 0.627201),
    ],
)
@pytest.mark.few(2)
def test_losses_of_two_strings(name, fields, wanted):
    components, params, pairs = by_hand()
    assert loss_of(built(name, components, **fields), params, pairs)[0] == pytest.approx(
        wanted, abs=2e-6
    )


def test_the_reference_point_is_at_least_zero():
    """Turned round the mean log-ratio is -.437734, so z = 0: (sigmoid(.5 log 3) + sigmoid(.5 log
    1.25)) / 2, where sigmoid(.549306) = .633975 and sigmoid(.111572) = .527864."""
    components, params, pairs = by_hand(turned=True)
    loss, metrics = loss_of(built("kto", components), params, pairs)
    assert loss == pytest.approx(0.580919, abs=2e-6)
    assert float(metrics["reference_point"]) == 0
    components, params, pairs = by_hand()
    assert float(
        loss_of(built("kto", components), params, pairs)[1]["reference_point"]
    ) == pytest.approx(0.437734, abs=1e-6)


def test_what_is_reported():
    components, params, pairs = by_hand()
    for name in NAMES:
        metrics = loss_of(built(name, components), params, pairs)[1]
        assert float(metrics["chosen_log_prob"]) == pytest.approx(np.log(0.3), abs=1e-6)
        assert float(metrics["rejected_log_prob"]) == pytest.approx(np.log(0.4), abs=1e-6)
        assert float(metrics["margin_accuracy"]) == 1
        assert int(metrics["tokens"]) == 3
        assert float(metrics["identical"]) == 0
    metrics = loss_of(built("dpo", components), params, Pairs(*pairs[::-1]))[1]
    assert float(metrics["margin_accuracy"]) == 0
    assert float(metrics["margin"]) == pytest.approx(-0.5 * np.log(3.75), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(3)
def test_the_chosen_string_is_raised_and_the_rejected_one_lowered(name):
    """At the first token "0" leads to the chosen string alone, "1" to the rejected one."""
    components, params, pairs = by_hand(turned=True)
    down = -gradient(built(name, components))(params, pairs)
    assert float(down[0, 0]) > 0 > float(down[0, 1])
    assert float(down[1, 0]) > 0  # and on to the chosen string's second token
    after = learner(built(name, components), optax.sgd(0.1))
    moved = jax.jit(after.update)(after.init(jax.random.key(0), params), pairs)[0].params
    of_string = jax.jit(lambda x, side: tk.log_probs(components.policy, x, side, 2).sum())
    log_q = lambda x, side: float(of_string(x, side))
    assert log_q(moved, pairs.chosen) > log_q(params, pairs.chosen)
    assert log_q(moved, pairs.rejected) < log_q(params, pairs.rejected)


def test_ipo_comes_back_from_beyond_its_margin():
    """h = log 3.75 = 1.32 where 1 is wanted: the chosen string is lowered."""
    components, params, pairs = by_hand()
    down = -gradient(built("ipo", components))(params, pairs)
    assert float(down[0, 0]) < 0 < float(down[0, 1])


# --- which rows are read --------------------------------------------------------------------------


@functools.cache
def prompted(n: int = 24, seed: int = 0):
    """(components, params, comparisons with ragged prompts): the policy and the reference read
    two tokens back."""
    space, components, _, _ = task_of("ending", seed)
    automaton = tabular.markov(space.vocab, space.horizon + 2, 2)
    policy = tabular.policy(automaton, space.vocab)
    draw = np.random.default_rng(seed)
    table = lambda: draw.standard_normal((automaton.states, space.vocab))
    tokens = jnp.array([[0, 1], [1, PAD], [PAD, PAD], [0, 0]] * (n // 4))
    prompts = Sequences(tokens, jnp.zeros_like(tokens, bool), jnp.ones(n))
    ref, params = Model(policy, table()), jnp.asarray(table(), jnp.float32)
    write = jax.jit(lambda key: sampler(space.horizon, space.eos)(key, *ref, prompts)[0])
    strings = [write(jax.random.key(i)) for i in range(2)]
    weight = jnp.asarray(draw.uniform(0.5, 2.0, n), jnp.float32)
    mdp = components.mdp._replace(regulariser=Regulariser("reverse_kl", BETA, ref))
    pairs = Pairs(*(x._replace(weight=weight) for x in strings))
    return (
        components._replace(policy=policy, mdp=mdp, rollout=sampler(space.horizon, space.eos)),
        params,
        pairs,
    )


@functools.cache
def objective_of(name: str):
    """A method's objective on prompts, the same one whenever it is asked for."""
    return built(name, prompted()[0])


@functools.cache
def compiled(objective):
    """`outcome` of params and pairs: one program for all rows of one shape."""

    @jax.jit
    def run(params, pairs):
        aux, batch, metrics = objective.prepare(
            jax.random.key(0), params, objective.init(jax.random.key(0), params), pairs
        )
        slope = jax.value_and_grad(lambda x: objective.loss(x, aux, batch), has_aux=True)
        (loss, more), gradient = slope(params)
        return loss, metrics | more, gradient

    return run


def outcome(objective, params, pairs):
    """(loss, metrics, gradient)"""
    return compiled(objective)(params, pairs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(1)
def test_a_string_against_itself_says_nothing(name):
    _, params, pairs = prompted()
    objective = objective_of(name)
    twice = Pairs(pairs.chosen, pairs.chosen)
    loss, metrics, slope = outcome(objective, params, twice)
    assert float(loss) == 0 == largest(slope)
    assert float(metrics["identical"]) == 1
    assert all(np.isfinite(x) for x in metrics.values())

    differ = np.any(np.asarray(pairs.chosen.tokens) != np.asarray(pairs.rejected.tokens), axis=1)
    assert 0 < differ.sum() < len(differ)  # some of the strings drawn are the same
    wanted = outcome(objective, params, jax.tree.map(lambda x: x[differ], pairs))
    found = outcome(objective, params, pairs)
    weight = np.asarray(pairs.chosen.weight)
    assert float(found[1]["identical"]) == pytest.approx(
        weight[~differ].sum() / weight.sum(), abs=1e-6
    )
    if name != "kto":  # its reference point is that of all answers
        close((found[0], found[2]), (wanted[0], wanted[2]), 1e-6)


def alone(pairs: Pairs) -> Pairs:
    """Each comparison as two rows, of which one side alone is labelled; nothing stands on the
    other."""
    nothing = lambda x: Sequences(
        jnp.full_like(x.tokens, PAD), jnp.zeros_like(x.mask), jnp.zeros_like(x.weight)
    )
    both = lambda a, b: jax.tree.map(lambda u, v: jnp.concatenate([u, v]), a, b)
    return Pairs(
        both(pairs.chosen, nothing(pairs.chosen)), both(nothing(pairs.rejected), pairs.rejected)
    )


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.few(2)
def test_comparisons_ignore_strings_labelled_alone(name):
    _, params, pairs = prompted()
    objective = objective_of(name)
    more = jax.tree.map(
        lambda u, v: jnp.concatenate([u, v]), pairs, alone(jax.tree.map(lambda x: x[::-1], pairs))
    )
    close(outcome(objective, params, pairs), outcome(objective, params, more), 1e-6)
    loss, metrics, slope = outcome(objective, params, alone(pairs))
    assert float(loss) == 0 == largest(slope)
    assert int(metrics["tokens"]) == 0


def test_kto_reads_strings_labelled_alone():
    """Without prompts, comparisons taken apart are the same strings: the same loss, gradient and
    log-probs."""
    space, components, params, rewards = task_of("ending")
    draw = np.random.default_rng(0)
    rows = np.stack(
        [draw.permutation(len(rewards))[:2] for _ in range(16)]
    )  # two different strings each
    side = lambda k: Sequences(
        *(x[rows[:, k]] for x in space.sequences[:2]), jnp.asarray(draw.uniform(0.5, 2.0, 16))
    )
    chosen, rejected = side(0), side(1)
    pairs = Pairs(chosen, rejected._replace(weight=chosen.weight))
    params = params.astype(jnp.float32)
    whole, apart = (outcome(built("kto", components), params, x) for x in (pairs, alone(pairs)))
    close((whole[0], whole[2]), (apart[0], apart[2]), 1e-6)
    for name in ("tokens", "chosen_log_prob", "rejected_log_prob", "reference_point"):
        assert float(whole[1][name]) == pytest.approx(float(apart[1][name]), abs=1e-5)
    wished = jax.tree.map(lambda x: x[:16], alone(pairs))  # chosen strings alone are raised
    assert float(outcome(built("kto", components), params, wished)[0]) > 0


def test_answers_to_other_prompts():
    """Prompts (0), (1 0) and none, answers moved up by one row; row 1 has no chosen string, so its
    prompt is the other's."""
    row = lambda *tokens: [*tokens, *[PAD] * (4 - len(tokens))]
    chosen = Sequences(
        jnp.array([row(0, 1, 1), row(), row(2)]),
        jnp.array([[False, True, True, False], [False] * 4, [True, False, False, False]]),
        jnp.array([1.0, 0.0, 2.0]),
    )
    rejected = Sequences(
        jnp.array([row(0, 2), row(1, 0, 1, 1), row(0, 0)]),
        jnp.array(
            [[False, True, False, False], [False, False, True, True], [True, True, False, False]]
        ),
        jnp.array([1.0, 3.0, 2.0]),
    )
    found = mismatched(Pairs(chosen, rejected), horizon=2, eos=2)
    wanted = [row(0), row(1, 0, 2), row(1, 1), row(0, 1, 1), row(1, 0, 0, 0), row(2)]
    assert found.tokens.tolist() == wanted
    assert found.mask.sum(1).tolist() == [0, 1, 2, 2, 2, 1]
    assert found.weight.tolist() == [0, 2, 1, 3, 2, 1]


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto"])
@pytest.mark.few(1)
def test_without_a_reference_it_is_the_policy_at_the_start(name):
    components, params, pairs = prompted()
    started = components._replace(
        mdp=components.mdp._replace(regulariser=components.mdp.regulariser._replace(reference=None))
    )
    objective = built(name, started)
    metrics = outcome(objective, params, pairs)[1]
    assert float(metrics["margin"]) == 0
    assert float(metrics["margin_accuracy"]) == pytest.approx(0.5)
    given = components._replace(
        mdp=components.mdp._replace(
            regulariser=Regulariser("reverse_kl", BETA, Model(components.policy, params))
        )
    )
    aux, moved = (
        objective.init(jax.random.key(0), params),
        params + 0.3 * jnp.sin(jnp.arange(params.size)).reshape(params.shape),
    )
    _, batch, found = jax.jit(objective.prepare)(jax.random.key(0), moved, aux, pairs)
    loss, wanted, _ = outcome(built(name, given), moved, pairs)
    own, more = jax.jit(objective.loss)(moved, aux, batch)
    found |= more
    close((own, found), (loss, wanted), 1e-6)
    assert float(found["margin_accuracy"]) not in (0.0, 0.5)


@pytest.mark.parametrize(
    "name", [*NAMES, *(f"f_dpo:{member}" for member in ("pearson_chi2", "jeffreys", "hellinger2"))]
)
@pytest.mark.parametrize("size", [30.0, 1e4])
@pytest.mark.few(2)
def test_far_from_the_reference_gradients_are_finite(name, size):
    _, params, pairs = prompted()
    far = size * jnp.sign(params)
    loss, metrics, slope = outcome(objective_of(name), far, pairs)
    assert np.isfinite(float(loss))
    assert np.all(np.isfinite(np.asarray(slope)))
    assert all(np.isfinite(x) for x in metrics.values())


@pytest.mark.usefixtures("double")
@pytest.mark.wide
def test_the_tangent_of_a_reward_goes_on_from_where_it_touches():
    for d in regularised.members().values():
        s = jnp.linspace(-30.0, FAR, 40)
        close(extended_reward(d, s), d.reward(s))
        slope = jax.jit(jax.grad(d.reward))(jnp.float64(FAR))
        close(
            jax.vmap(jax.grad(lambda s, d=d: extended_reward(d, s)))(
                jnp.array([FAR, FAR + 1, FAR + 500])
            ),
            jnp.full(3, slope),
        )


# --- refusals and the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("f_dpo:tv", {}, "bounded"),
        ("f_dpo:neyman_chi2", {}, "bounded"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("dpo", {"label_smoothing": -0.1}, "label_smoothing"),
        ("kto", {"desirable": 0.0}, "desirable"),
        ("kto", {"undesirable": -1.0}, "undesirable"),
        ("simpo", {"margin": -0.1}, "margin"),
        ("simpo", {"margin": float("nan")}, "margin"),
    ],
)
def test_what_cannot_be_is_refused(name, fields, says):
    with pytest.raises(UsageError, match=says):
        built(name, task_of("fixed")[1], **fields)


def test_names_that_do_not_resolve():
    for name, says in (
        ("f_dpo", "needs a divergence"),
        ("dpo:js", "no argument"),
        ("f_dpo:jss", "js"),
    ):
        with pytest.raises(UsageError, match=says):
            objectives.resolve(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_a_regulariser_is_refused(name):
    _, components, _, _ = task_of("fixed")
    with pytest.raises(UsageError, match="reference"):
        built(name, components._replace(mdp=components.mdp._replace(regulariser=None)))
    with pytest.raises(UsageError, match="beta"):
        built(
            name,
            components._replace(
                mdp=components.mdp._replace(
                    regulariser=components.mdp.regulariser._replace(beta=0.0)
                )
            ),
        )


def test_claims():
    for name, minimises in (
        ("dpo", "reverse_kl"),
        ("f_dpo:js", "js"),
        ("f_dpo:alpha:0.5", "alpha:0.5"),
    ):
        method = objectives.resolve(name)
        assert method.reads == "pairs"
        claim = method.claim()
        assert (claim.minimises, claim.level) == (minimises, "return")
    for name in ("ipo", "kto", "simpo"):
        assert "not ref exp(r / beta)" in objectives.resolve(name).claim().sentence


@pytest.mark.parametrize("name", ["f_dpo:hellinger2"])
def test_f_dpo_reaches_its_closed_form(name):
    """By Adam, in single precision, on all comparisons at once."""
    space, components, _, rewards = task_of("fixed")
    with jax.enable_x64(True):
        log_ref = reference(space, components)
        d = divergences.parse(name.partition(":")[2])
        best = np.exp(regularised.optimum(d, rewards, log_ref, BETA))
    pairs = jax.tree.map(jnp.asarray, population(space, log_ref, bradley_terry(rewards)))
    made = learner(built(name, components), optax.adam(optax.cosine_decay_schedule(0.1, 1500)))
    start = made.init(
        jax.random.key(0), jnp.asarray(components.mdp.regulariser.reference.params, jnp.float32)
    )
    train = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: (made.update(s, pairs)[0], None), s, length=1500)[0]
    )
    apart = lambda params: (
        0.5 * np.abs(np.exp(law(space, components.policy, params).string) - best).sum()
    )
    assert apart(start.params) > 0.2
    assert apart(train(start).params) < 1e-3
