"""Learning from a reward: the identity behind it, exact gradients of every method, and the traps
that peers fell into."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import SPACES, close, law, random_models, reward_task
from scipy.special import log_softmax

from experiments.gradients.world import table_score
from fdiv import divergences, exact, objectives, regularised
from fdiv import tokens as tk
from fdiv.benchmarks import Markov, Rewarded, TwoTemplate
from fdiv.control import Control
from fdiv.learner import learner
from fdiv.objectives.reinforce import Rloo
from fdiv.penalties import Penalty
from fdiv.policies import tabular
from fdiv.types import Model, UsageError

METHODS = ["reinforce", "rloo", "grpo", "ppo"]
EXACT_PENALTIES = [
    "k1-reward",
    "k1-reward-string",
    "k2-loss-string",
    "k3-ratio-string",
    "exact-reward",
]
BETA = 0.3


def strings(space, n: int):
    """n strings whose prompts are all that is read of them."""
    return tk.completions(jnp.zeros((n, space.horizon), jnp.int32), None)


def task_of(kind: str, divergence: str = "reverse_kl", exactly: bool = True, seed: int = 0):
    """(space, components with a random reward and reference, random params, rewards of all
    strings)."""
    world, rewards = _task_of(kind, divergence, seed, jax.config.jax_enable_x64)
    components = world.exact if exactly else world.sampled
    return world.space, components, world.params, rewards


@functools.cache
def _task_of(kind: str, divergence: str, seed: int, double: bool):
    space, reference, *_ = random_models(kind, seed)
    table = np.random.default_rng(seed + 1).standard_normal(reference.params.shape)
    world = reward_task(kind, seed, divergence, BETA, table_score(space, table))
    return world, _rewards(kind)(table)


@functools.cache
def _rewards(kind: str):
    """A table of the prefix tree -> the rewards of all strings, compiled."""
    space = random_models(kind)[0]
    return jax.jit(lambda table: table_score(space, table)(space.sequences))


def value(space, components, rewards, divergence="reverse_kl"):
    """Exact regularised return as a function of the policy's params."""
    ref = law(space, *components.mdp.regulariser.reference)
    d = divergences.parse(divergence)
    return lambda x: regularised.value(
        d, rewards, ref.string, law(space, components.policy, x).string, BETA
    )


@functools.cache
def exact_gradient(kind: str, divergence: str = "reverse_kl"):
    """Of minus the regularised return, at the task's params; for tests in double precision."""
    space, components, params, rewards = task_of(kind, divergence)
    loss = value(space, components, rewards, divergence)
    return -jax.jit(jax.grad(loss))(params)


def gradient_of(components, name, params, space, **fields):
    objective = objectives.resolve(name, **fields).build(components)
    prompts = strings(space, 8)
    return jax.jit(lambda x: exact.expected_gradient(objective, x, prompts))(params)


# --- the identity ---------------------------------------------------------------------------------


@functools.cache
def laws_of(kind):
    """(a policy's table, a reference's, rewards) -> their laws and the optimum's, compiled."""
    space, _, policy, _ = random_models(kind)

    @jax.jit
    def laws(x, reference, rewards):
        ref = exact.law(space, policy, reference).string
        best = regularised.optimum(divergences.reverse_kl(), rewards, ref, BETA)
        return exact.law(space, policy, x).string, ref, best

    return laws


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reinforcement_learning_is_reverse_kl(kind, seed):
    """KL(pi||p*) = KL(pi||ref) - E_pi[r] / beta + log Z for any policy and reward."""
    _, components, params, rewards = task_of(kind, seed=seed)
    told = params, components.mdp.regulariser.reference.params, rewards
    pi, ref, best, rewards = map(np.asarray, (*laws_of(kind)(*told), rewards))
    log_z = np.log(np.exp(ref + rewards / BETA).sum())
    kl = lambda a, b: np.sum(np.exp(a) * (a - b))
    close(kl(pi, best), kl(pi, ref) - np.exp(pi) @ rewards / BETA + log_z)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", list(regularised.members()))
def test_the_optimum_is_stationary_and_best(name):
    """r + beta reward(s) is the same at every string, it sums to one, and no nearby law is worth
    more."""
    d = divergences.parse(name)
    draw = np.random.default_rng(0)
    rewards, log_ref = draw.standard_normal(7), np.log(draw.dirichlet(np.ones(7)))
    optimum = lambda rewards, log_ref: regularised.optimum(d, rewards, log_ref, BETA)
    best = np.asarray(jax.jit(optimum)(rewards, log_ref))
    assert np.exp(best).sum() == pytest.approx(1, abs=1e-12)
    others = log_softmax(best + 0.1 * draw.standard_normal((20, 7)), axis=1)

    @jax.jit
    def judged(best, others):
        worth = lambda law: regularised.value(d, rewards, log_ref, law, BETA)
        return d.reward(log_ref - best), worth(best), jax.vmap(worth)(others)

    rewarded, most, nearby = map(np.asarray, judged(best, others))
    level = rewards + BETA * rewarded
    assert np.ptp(level) < 1e-7 * (1 + np.abs(level).max())
    assert (nearby < most).all()


def test_penalties_that_leave_strings_out_are_refused():
    kept = set(regularised.members())
    assert {"reverse_kl", "forward_kl", "js", "hellinger2", "jeffreys", "pearson_chi2"} <= kept
    assert not {"tv", "neyman_chi2", "log_d", "skew_kl:0.1"} & kept
    with pytest.raises(UsageError, match="bounded"):
        Rewarded(divergence="tv").build()


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["ending"])
@pytest.mark.parametrize("penalty", EXACT_PENALTIES)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.few(6)
def test_unbiased_penalties_give_the_exact_gradient(kind, penalty, name):
    space, components, params, _ = task_of(kind)
    fields = {"gae_lambda": 1.0} if name == "ppo" else {}
    found = gradient_of(components, f"{name}:{penalty}", params, space, **fields)
    close(found, exact_gradient(kind))
    assert objectives.resolve(f"{name}:{penalty}", **fields).claim().sentence.endswith("Unbiased.")


def test_k1_earns_its_own_at_each_action_or_all_at_the_last():
    """s = .5 and -.2, which are .3 together."""
    s, mask = jnp.array([[0.5, -0.2, 0.0]]), jnp.array([[True, True, False]])
    for unit, wanted in (("token", [0.5, -0.2, 0.0]), ("string", [0.0, 0.3, 0.0])):
        penalty = Penalty("k1", "reward", unit)
        found = penalty.rewards(divergences.reverse_kl(), s, mask)
        np.testing.assert_allclose(found[0], wanted, atol=1e-7)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("divergence", list(regularised.members()))
@pytest.mark.few(4)
def test_any_divergence_can_be_the_penalty(divergence):
    space, components, params, _ = task_of("ending", divergence)
    found = gradient_of(components, "rloo", params, space)
    close(found, exact_gradient("ending", divergence))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "penalty",
    ["k2-loss", "k3-loss", "k3-loss-string", "k3-ratio", "exact-loss", "k2-reward", "k3-reward"],
)
def test_biased_penalties_say_so_and_are(penalty):
    space, components, params, _ = task_of("ending")
    truth = exact_gradient("ending")
    found = gradient_of(components, f"rloo:{penalty}", params, space)
    assert float(jnp.linalg.norm(found - truth) / jnp.linalg.norm(truth)) > 1e-3
    assert "Biased" in objectives.resolve(f"rloo:{penalty}").claim().sentence


@pytest.mark.usefixtures("double")
def test_a_wrong_value_function_biases_nothing_at_lambda_one():
    space, components, params, _ = task_of("ending")
    objective = objectives.resolve("ppo", gae_lambda=1.0).build(components)
    aux = objective.init(jax.random.key(0), params)
    noise = np.random.default_rng(1)
    wrong = jax.tree.map(lambda x: x + 3 * noise.standard_normal(x.shape), aux.value[0])
    aux = aux._replace(value=(wrong, aux.value[1]))
    prompts = strings(space, 8)
    found = jax.jit(lambda x: exact.expected_gradient(objective, params, prompts, x))(aux)
    close(found, exact_gradient("ending"))


@pytest.mark.usefixtures("double")
def test_the_ratio_is_clipped_on_one_side_only():
    """Once q has gone past the clip in the direction that pays, nothing more is paid; in the other
    direction all is."""
    space, components, params, _rewards = task_of("fixed")
    objective = objectives.resolve("grpo", clip=0.2).build(components)
    aux = objective.init(jax.random.key(0), params)
    prepare = jax.jit(objective.prepare)
    aux, batch, _ = prepare(jax.random.key(1), params, aux, strings(space, 8))
    advantages = np.asarray(batch.advantages)
    weight = np.where(batch.sequences.mask, np.asarray(batch.sequences.weight)[:, None], 0.0)

    @jax.jit
    def slope_at(shift):
        moved = batch._replace(log_old=batch.log_old - shift)  # ratios e^shift everywhere
        loss = lambda a: objective.loss(params, aux, moved._replace(advantages=a))[0]
        return jax.jit(jax.grad(loss))(batch.advantages)

    for shift, sign in ((0.5, 1), (-0.5, -1)):
        slope = np.asarray(slope_at(shift))
        paid = np.where(sign * advantages > 0, np.clip(np.exp(shift), 0.8, 1.2), np.exp(shift))
        close(-slope, weight * paid)


# --- traps ----------------------------------------------------------------------------------------


ADAPTED = Control("adaptive", target=0.75, adapt_over=1000)  # of .805 here, so nothing is clipped


_scores = functools.cache(jax.jit)


@functools.cache
def drawn(name: str):
    """(components, what the first `prepare` gives) on 64 strings, under a weight that adapts."""
    space, components, params, _ = task_of("ending", exactly=False)
    objective = objectives.resolve(name).build(components._replace(control=ADAPTED))

    @jax.jit
    def prepared(x):
        aux = objective.init(jax.random.key(0), x)
        return objective.prepare(jax.random.key(1), x, aux, strings(space, 64))

    return components, prepared(params)


@pytest.mark.parametrize("name", METHODS)
def test_the_score_sits_on_the_last_action_and_padding_earns_nothing(name):
    components, (_, batch, metrics) = drawn(name)
    assert not np.any(np.asarray(batch.advantages)[~np.asarray(batch.sequences.mask)])
    assert float(metrics["tokens"]) == np.asarray(batch.sequences.mask).sum()
    scores = np.asarray(_scores(components.mdp.score)(batch.sequences))
    assert float(metrics["score"]) == pytest.approx(scores.mean(), rel=1e-5)


def test_rewards_end_at_the_end():
    """EOS is the action that earns the score, also where it is the first."""
    from fdiv.penalties import last_action

    mask = jnp.array([[True, True, False], [True, False, False], [True, True, True]])
    assert last_action(mask).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("name", ["rloo", "grpo", "grpo_std"])
def test_a_group_of_identical_rewards_teaches_nothing(name):
    """With the reference as the policy and one reward for all, every advantage is 0, divided by the
    spread or not."""
    space, components, _, _ = task_of("fixed", exactly=False)
    same = components.mdp._replace(score=lambda x: jnp.full(x.tokens.shape[0], 0.7))
    reference = components.mdp.regulariser.reference
    objective = objectives.resolve(name).build(components._replace(mdp=same))
    params = jnp.asarray(reference.params, jnp.float32)
    aux = objective.init(jax.random.key(0), params)
    _, batch, _ = jax.jit(objective.prepare)(jax.random.key(0), params, aux, strings(space, 16))
    assert np.abs(np.asarray(batch.advantages)).max() < 1e-2


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["grpo_std:k3-loss", "rloo:k2-loss-string", "rloo:exact-reward"])
def test_microbatches_add_up(name):
    import optax

    space, components, params, _ = task_of("ending", exactly=False)
    params = params.astype(jnp.float32)
    objective = objectives.resolve(name).build(components)

    @jax.jit
    def updated(x):
        made = [learner(objective, optax.sgd(0.1), accumulate=parts) for parts in (1, 4)]
        states = [each.init(jax.random.key(0), x) for each in made]
        both = zip(made, states, strict=True)
        return [each.update(state, strings(space, 32))[0].params for each, state in both]

    whole, parted = updated(params)
    close(whole, parted, tolerance=1e-6)
    assert np.abs(np.asarray(whole) - np.asarray(params)).max() > 1e-4


def test_integer_scores_count_and_broken_ones_are_left_out():
    """Scores may be integers; strings whose score is NaN weigh nothing, and how many there were is
    reported."""
    space, components, params, _ = task_of("ending", exactly=False)
    params = params.astype(jnp.float32)
    whole = lambda x: x.mask.sum(1)  # int32
    broken = lambda x: jnp.where(x.mask.sum(1) == 1, jnp.nan, x.mask.sum(1))
    found = {}
    for name, score in (("whole", whole), ("broken", broken)):
        objective = Rloo().build(components._replace(mdp=components.mdp._replace(score=score)))
        aux, prepare = objective.init(jax.random.key(0), params), jax.jit(objective.prepare)
        _, batch, metrics = prepare(jax.random.key(0), params, aux, strings(space, 64))
        found[name] = (batch, metrics)
        assert np.all(np.isfinite(np.asarray(batch.advantages)))
    size = np.asarray(found["whole"][0].sequences.mask.sum(1))
    assert float(found["whole"][1]["score"]) == pytest.approx(size.mean())
    assert float(found["broken"][1]["not_finite"]) == pytest.approx((size == 1).mean())
    assert float(found["broken"][1]["score"]) == pytest.approx(size[size > 1].mean())


def test_groups_answer_the_same_prompt():
    from fdiv.episodes import repeated

    prompts = tk.completions(jnp.arange(8)[:, None], None)
    asked = jax.jit(repeated, static_argnums=1)(prompts, 4).tokens
    assert np.asarray(asked)[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(UsageError, match="batch_size = 8"):
        repeated(prompts, 3)


# --- the weight of the penalty --------------------------------------------------------------------


def test_the_adaptive_controller_by_hand():
    """beta (1 + clip(D / target - 1, -.2, .2) n / adapt_over): D = 9 against 6 is clipped to +.2,
    D = 5.4 is -.1."""
    control = Control("adaptive", target=6.0, adapt_over=1000)
    weight = control.init(0.5)
    weight = control.update(weight, 0.5, jnp.float32(9.0), 100)
    assert float(weight.beta) == pytest.approx(0.5 * 1.02)
    weight = control.update(weight, 0.5, jnp.float32(5.4), 100)
    assert float(weight.beta) == pytest.approx(0.5 * 1.02 * 0.99)


def test_the_linear_weight_by_hand():
    control = Control("linear", end=0.1, updates=4)
    weight, seen = control.init(0.5), []
    for _ in range(6):
        weight = control.update(weight, 0.5, jnp.float32(0.0), 1)
        seen.append(float(weight.beta))
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("fields", "beta", "said"),
    [
        ({"kind": "adaptive"}, 0.0, "nothing to adapt"),
        ({"kind": "adaptive"}, -0.1, "no weight"),
        ({"kind": "adaptive", "target": -6.0}, 0.1, "target = -6.0"),
        ({"kind": "adaptive", "target": 0.0}, 0.1, "target = 0.0"),
        ({"kind": "adaptive", "adapt_over": 0.0}, 0.1, "adapt_over"),
        ({"kind": "constant", "target": 3.0}, 0.1, "constant does not read it"),
        ({"kind": "linear", "end": -1.0}, 0.1, "end"),
        ({"kind": "cubic"}, 0.1, "constant, linear, adaptive"),
    ],
)
def test_controllers_that_cannot_be(fields, beta, said):
    with pytest.raises(UsageError, match=said):
        Control(**fields).init(beta)


@pytest.mark.parametrize("name", METHODS)
def test_the_controller_is_fed_what_is_reported(name):
    _, (after, _, metrics) = drawn(name)
    charged = after.charged if name == "ppo" else after
    wanted = ADAPTED.update(ADAPTED.init(BETA), BETA, metrics["penalty"], 64)
    assert float(charged.weight.beta) == pytest.approx(float(wanted.beta), rel=1e-6)
    assert float(metrics["beta"]) == pytest.approx(BETA)


# --- the task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        Rewarded(TwoTemplate(2, 3)),
        Rewarded(TwoTemplate(2, 3), divergence="js", beta=0.3, reference="independent"),
        Rewarded(Markov(2, 3, 1), reward="table"),
    ],
)
def test_the_expert_is_the_optimum(task):
    """Where E_q[r] - beta D_f(ref||q) is greatest among laws, its slope in q(x) is the same for
    every string x."""
    mdp = task.build()
    with jax.enable_x64(True):
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        d = divergences.parse(task.divergence)

        @jax.jit
        def laws(x):
            p = law(space, *mdp.expert).string
            ref = law(space, *mdp.regulariser.reference).string
            rewards = mdp.score(x).astype(float)

            def value(log_q):
                return jnp.exp(log_q) @ rewards - task.beta * d.perspective(ref, log_q).sum()

            optimum = regularised.optimum(d, rewards, ref, task.beta)
            return p, optimum, jax.grad(value)(p) / jnp.exp(p)

        p, best, slope = map(np.asarray, laws(space.sequences))
    close(np.exp(p), np.exp(best), 1e-9)
    assert np.exp(p).sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(slope, slope[0], atol=1e-6)


def test_the_reference_is_the_best_markov_fit():
    """Facts: the best markov policy for forward_kl on the default language leaves .4152 nats."""
    task = Rewarded()
    mdp, language = task.build(), task.base.build()
    with jax.enable_x64(True):
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        laws = (law(space, *m) for m in (language.expert, mdp.regulariser.reference))
        assert float(exact.divergence(divergences.forward_kl(), space, *laws)) == pytest.approx(
            0.4152, abs=2e-4
        )


def test_comparisons_are_bradley_terry():
    """Valid against invalid at temperature 1: sigmoid(1) = .7311; with labels turned round at .2 it
    is .2 + .6 of that."""
    for flips, wanted in ((0.0, 0.7311), (0.2, 0.2 + 0.6 * 0.7311)):
        mdp = Rewarded(flips=flips).build()
        scores = jax.jit(lambda key, mdp=mdp: [mdp.score(x) for x in mdp.pairs(key, 20_000)])
        better, worse = map(np.asarray, scores(jax.random.key(0)))
        assert (better > worse)[better != worse].mean() == pytest.approx(wanted, abs=0.01)


def test_how_sure_a_comparison_is_by_hand():
    """Rewards 1 apart at temperature 2 and spread log 2: strings that begin differently are
    compared at temperature 4, sigmoid(1/4) = .562177, others at 1, sigmoid(1) = .731059; a tenth
    turned round."""
    task = Rewarded(temperature=2.0, spread=float(np.log(2)), flips=0.1)
    chance = lambda differ: float(task.preference(1.0, 0.0, jnp.asarray(differ)))
    assert chance(True) == pytest.approx(0.9 * 0.562177 + 0.1 * 0.437823, abs=1e-5)
    assert chance(False) == pytest.approx(0.9 * 0.731059 + 0.1 * 0.268941, abs=1e-5)


def test_exact_labels_weigh_both_orders():
    mdp = Rewarded(labels="exact").build()

    @jax.jit
    def scored(key):
        pairs = mdp.pairs(key, 64)
        return pairs.chosen.weight, *(mdp.score(x) for x in pairs)

    weight, first, second = map(np.asarray, scored(jax.random.key(0)))
    chance = 1 / (1 + np.exp(second - first))
    np.testing.assert_allclose(weight, 2 * chance, rtol=1e-5)
    assert weight.sum() == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"reward": "niceness"}, "valid, mode_b, table"),
        ({"temperature": 0.0}, "temperature"),
        ({"flips": 1.5}, "flips"),
        ({"spread": -1.0}, "spread"),
        ({"divergence": "neyman_chi2"}, "bounded"),
    ],
)
def test_tasks_that_cannot_be(fields, said):
    with pytest.raises(UsageError, match=said):
        Rewarded(**fields).build()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grpo:k1-loss", "exactly zero"),
        ("grpo:k9-loss", "penalty.estimator"),
        ("grpo:k3", "no estimator and placement"),
        ("ppo:exact-ratio", "has none"),
    ],
)
def test_penalties_by_name(name, said):
    with pytest.raises(UsageError, match=said):
        objectives.resolve(name)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_group_of_one_is_refused(name):
    with pytest.raises(UsageError, match="group = 1"):
        objectives.resolve(name, group=1).check()


def test_estimators_of_a_kl_are_refused_for_another_divergence():
    _, components, _, _ = task_of("fixed", "js")
    with pytest.raises(UsageError, match="the penalty is js"):
        Rloo(penalty=Penalty("k3", "loss")).build(components)


def test_a_task_without_a_score_is_refused():
    _, components, _, _ = task_of("fixed")
    with pytest.raises(UsageError, match="needs a task with a score"):
        Rloo().build(components._replace(mdp=components.mdp._replace(score=None)))


@pytest.mark.parametrize("who", ["policy", "expert", "reference"])
def test_models_over_another_vocabulary_are_refused(who):
    _, components, _, _ = task_of("fixed")
    other = Model(
        tabular.policy(
            tabular.markov(components.mdp.vocab + 1, components.mdp.horizon),
            components.mdp.vocab + 1,
        ),
        None,
    )
    other = other._replace(params=jnp.zeros((components.mdp.vocab + 2, components.mdp.vocab + 1)))
    held = {
        "reference": {"regulariser": components.mdp.regulariser._replace(reference=other)},
        "expert": {"expert": other},
    }
    mdp = components.mdp._replace(**held.get(who, {}))
    with pytest.raises(
        UsageError,
        match=rf"{who}.vocab = {components.mdp.vocab + 1}: .* the task {components.mdp.vocab}",
    ):
        objectives.resolve("rloo").build(
            components._replace(
                mdp=mdp, policy=other.policy if who == "policy" else components.policy
            ),
        )


def test_demonstrations_may_slip():
    """The reference's share of valid strings is .6636, the expert's next to 1: half slipped is
    halfway."""
    for slips, wanted in ((0.0, 1.0), (0.5, 0.8318), (1.0, 0.6636)):
        mdp = Rewarded(slips=slips).build()
        scores = jax.jit(lambda key, mdp=mdp: mdp.score(mdp.demos(key, 20_000)))(jax.random.key(0))
        assert float(scores.mean()) == pytest.approx(wanted, abs=0.01)
