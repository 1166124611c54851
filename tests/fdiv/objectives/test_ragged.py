"""Strings of unequal lengths: every objective against values worked out string by string, without
padding, and baselines against the exact expectation over all groups of answers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fdiv import divergences, exact, objectives
from fdiv.penalties import Penalty
from fdiv.policies import tabular
from fdiv.tokens import normalise
from fdiv.types import PAD, Components, Model, Pairs, Regulariser, Sequences, TokenMDP

pytestmark = pytest.mark.usefixtures("double")

V, EOS, H, BETA = 3, 2, 3, 0.3
STRINGS = ((2,), (0, 1, 2), (1, 2), (0, 0, 1))  # of 1, 3, 2 and 3 actions; the last has no EOS
SIZES = [len(x) for x in STRINGS]
SCORES = (1.0, 0.0, 0.4, -0.3)
PROMPT = 1  # where there is one, its last token


def table(seed: int) -> np.ndarray:
    """Logits of a Markov policy: a row for the start, and one for each token before."""
    return np.random.default_rng(seed).standard_normal((V + 1, V))


OWN, REFERENCE, EXPERT = table(0), table(1), table(2)
CRITIC = np.random.default_rng(3).standard_normal(V + 1)  # a value for each token before
LOGIT = np.random.default_rng(4).standard_normal((V + 1, V))  # a discriminator's


def padded(strings, weight=None, prompt: bool = False) -> Sequences:
    """The strings as a batch, each behind a prompt of its own length where wanted."""
    width, rows = (2 if prompt else 0), []
    for i, x in enumerate(strings):
        before = [0, PROMPT][i % 2 :] if prompt else []
        row = [*before, *x]
        rows.append((row + [PAD] * (width + H - len(row)), len(before), len(x)))
    mask = [[a <= t < a + n for t in range(width + H)] for _, a, n in rows]
    weight = jnp.ones(len(rows)) if weight is None else jnp.asarray(weight)
    return Sequences(jnp.array([r for r, _, _ in rows], jnp.int32), jnp.array(mask), weight)


def laws(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def rows_of(x, prompt: bool = False) -> list[int]:
    """The table's row that each action is written from."""
    return [1 + PROMPT if prompt else 0, *(1 + token for token in x[:-1])]


def per_token(logits: np.ndarray, x, prompt: bool = False) -> np.ndarray:
    return laws(logits)[rows_of(x, prompt), list(x)]


def total(logits: np.ndarray, x, prompt: bool = False) -> float:
    return float(per_token(logits, x, prompt).sum())


def components(prompt: bool = False, strings=STRINGS, scores=SCORES, **mdp) -> Components:
    """A task whose policy always writes the same strings."""
    automaton = tabular.markov(V, H)
    policy = tabular.policy(automaton, V)
    fixed = padded(strings, prompt=prompt)
    log_probs = lambda params, x: jnp.where(
        x.mask,
        jnp.take_along_axis(
            policy.head(params, policy.trunk(params, x.tokens)),
            jnp.maximum(x.tokens, 0)[..., None],
            2,
        )[..., 0],
        0.0,
    )
    task = TokenMDP(
        V,
        H,
        EOS,
        lambda key, n: fixed,
        lambda key, n: fixed,
        lambda key, n: fixed,
        Model(policy, EXPERT),
        score=lambda x: jnp.asarray(scores),
        regulariser=Regulariser("reverse_kl", BETA, Model(policy, REFERENCE)),
    )._replace(**mdp)
    scorer, critic = (tabular.scorer(automaton, V, outputs) for outputs in (None, 1))
    rollout = lambda key, policy, params, prompts: (fixed, log_probs(params, fixed))
    return Components(policy, task, rollout, scorer, critic)


def prepared(name: str, kit: Components, change=lambda aux: aux, batch=None, **fields):
    """(objective, state, batch after `prepare`, metrics) at the policy's own table."""
    objective = objectives.resolve(name, **fields).build(kit)
    batch = kit.mdp.demos(jax.random.key(0), 0) if batch is None else batch

    @jax.jit
    def all_of_it(params, batch):
        aux = change(objective.init(jax.random.key(0), params))
        return objective.prepare(jax.random.key(1), params, aux, batch)

    return objective, *all_of_it(jnp.asarray(OWN), batch)


def lost(objective, logits, aux, batch) -> float:
    """The loss at a table."""
    return float(jax.jit(lambda *x: objective.loss(*x)[0])(jnp.asarray(logits), aux, batch))


def actions(values, x: Sequences) -> list[list[float]]:
    """Entries at actions, string by string."""
    return [np.asarray(v)[np.asarray(m)].tolist() for v, m in zip(values, x.mask)]


def same(got, wanted) -> None:
    assert [len(x) for x in got] == [len(x) for x in wanted]
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(wanted), atol=1e-10)


# --- advantages -----------------------------------------------------------------------------------


def charges(prompt: bool = False) -> list[np.ndarray]:
    """What the penalty pays from each action on: beta sum over j >= k of log ref - log q."""
    each = [BETA * (per_token(REFERENCE, x, prompt) - per_token(OWN, x, prompt)) for x in STRINGS]
    return [np.cumsum(x[::-1])[::-1] for x in each]


def less(values, group: int, how: str) -> list[np.ndarray]:
    """Lists of numbers less their group's baseline at each place, a list that has ended being 0."""
    out = []
    for i, own in enumerate(values):
        members = range(i // group * group, i // group * group + group)
        others = [j for j in members if how == "mean" or j != i]
        at = lambda j, k: values[j][k] if k < len(values[j]) else 0.0
        baseline = [
            0.0 if how == "none" else sum(at(j, k) for j in others) / len(others)
            for k in range(len(own))
        ]
        out.append(np.asarray(own) - baseline)
    return out


def advantages_by_hand(group: int, how: str, prompt: bool) -> list[np.ndarray]:
    scores = less([[score] for score in SCORES], group, how)
    return [score + charge for score, charge in zip(scores, less(charges(prompt), group, how))]


@pytest.mark.parametrize(
    ("name", "fields", "group", "how", "prompt"),
    [
        ("reinforce", {}, 4, "mean", False),
        ("reinforce", {"baseline": "none"}, 4, "none", False),
        ("rloo", {"group": 2}, 2, "leave_one_out", False),
        ("rloo", {"group": 4}, 4, "leave_one_out", True),
        ("grpo", {"group": 2}, 2, "mean", True),
        ("grpo", {"group": 4}, 4, "mean", False),
    ],
)
@pytest.mark.few(2)
def test_advantages_of_a_score(name, fields, group, how, prompt):
    *_, batch, _ = prepared(name, components(prompt), **fields)
    same(actions(batch.advantages, batch.sequences), advantages_by_hand(group, how, prompt))


def test_advantages_of_grpo_are_the_published_ones():
    """Scores 1 and 0, lengths 1 and 3, nothing charged: .5 and -.5 at every action. Their deviation
    with n - 1 is sqrt(.5) = .7071, so grpo_std has .7070 (1e-4 is added to it)."""
    regulariser = Regulariser("reverse_kl", 0.0, Model(components().policy, REFERENCE))
    kit = components(strings=STRINGS[:2], scores=(1.0, 0.0), regulariser=regulariser)
    for name, size in (("grpo", 0.5), ("grpo_std", 0.5 / (0.5**0.5 + 1e-4))):
        *_, batch, _ = prepared(name, kit, group=2)
        same(actions(batch.advantages, batch.sequences), [[size], [-size] * 3])


def test_the_deviation_of_a_group_is_that_of_whole_answers():
    kit = components()
    *_, batch, _ = prepared("grpo_std", kit, group=2)
    whole = [score + charge[0] for score, charge in zip(SCORES, charges())]
    spread = np.repeat([np.std(whole[:2], ddof=1), np.std(whole[2:], ddof=1)], 2)
    centred = less([[x] for x in whole], 2, "mean")
    wanted = [list(x / (size + 1e-4)) * len(y) for x, size, y in zip(centred, spread, STRINGS)]
    same(actions(batch.advantages, batch.sequences), wanted)


def test_the_ratio_of_strings_has_one_advantage_a_string():
    """All that was earned less the group's mean, at each action."""
    *_, batch, _ = prepared("grpo", components(), group=2, ratio="sequence")
    whole = [[score + charge[0]] for score, charge in zip(SCORES, charges())]
    wanted = [list(x) * len(y) for x, y in zip(less(whole, 2, "mean"), STRINGS)]
    same(actions(batch.advantages, batch.sequences), wanted)


def test_an_answer_without_a_score_is_in_no_mean():
    """Scores 1, nan and 0 of three answers: the others' are .5 and -.5, theirs is not learned."""
    regulariser = Regulariser("reverse_kl", 0.0, Model(components().policy, REFERENCE))
    kit = components(strings=STRINGS[:3], scores=(1.0, np.nan, 0.0), regulariser=regulariser)
    *_, batch, _ = prepared("grpo", kit, group=3)
    assert batch.sequences.weight.tolist() == [0.5, 0.0, 0.5]
    first, _, last = actions(batch.advantages, batch.sequences)
    same([first, last], [[0.5], [-0.5] * 2])


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_advantages_of_ppo(lam):
    """A_k = sum over j >= k of lambda^(j - k) (r_j + V_{j+1} - V_j), V = 0 after the end."""
    with_values = lambda aux: aux._replace(value=(jnp.asarray(CRITIC)[:, None], aux.value[1]))
    *_, batch, _ = prepared("ppo", components(), with_values, gae_lambda=lam)
    wanted = []
    for x, score in zip(STRINGS, SCORES):
        reward = BETA * (per_token(REFERENCE, x) - per_token(OWN, x))
        reward[-1] += score
        value = [*CRITIC[rows_of(x)], 0.0]
        surprise = reward + np.diff(value)
        wanted.append(
            [sum(lam ** (j - k) * surprise[j] for j in range(k, len(x))) for k in range(len(x))]
        )
    same(actions(batch.advantages, batch.sequences), wanted)


def test_the_value_function_steps_towards_the_returns():
    """Each step of size .1 goes down the slope of half the mean over strings of
    sum_k max((V_k - R_k)^2, (V_k bounded - R_k)^2), where R = A + V is the return and V may move by
    .05: once a value is further than that on its way to R, it stays."""
    rate, bound = 0.1, 0.05
    with_values = lambda aux: aux._replace(value=(jnp.asarray(CRITIC)[:, None], aux.value[1]))
    fields = {"value_learning_rate": rate, "value_clip": bound, "gae_lambda": 0.6}
    moved = {}
    for steps in (1, 3):
        kit = components()._replace(optimiser=optax.sgd)
        _, aux, batch, _ = prepared("ppo", kit, with_values, value_steps=steps, **fields)
        moved[steps] = np.asarray(aux.value[0])[:, 0]
    gains, value = actions(batch.advantages, batch.sequences), CRITIC.copy()
    for step in (1, 2, 3):
        slope = np.zeros_like(value)
        for x, gain in zip(STRINGS, gains):
            for row, advantage in zip(rows_of(x), gain):
                wanted = CRITIC[row] + advantage
                near = CRITIC[row] + np.clip(value[row] - CRITIC[row], -bound, bound)
                if abs(value[row] - wanted) >= abs(near - wanted):
                    slope[row] += (value[row] - wanted) / len(STRINGS)
        value = value - rate * slope
        if step in moved:
            np.testing.assert_allclose(moved[step], value, atol=1e-10)
    assert np.abs(value - CRITIC).max() > bound  # so that the bound was felt


def test_an_entropy_bonus_is_paid():
    """A bonus of .1 takes .1 times the mean over strings of their laws' entropies off the loss."""
    losses = []
    for entropy in (0.0, 0.1):
        objective, aux, batch, _ = prepared("ppo", components(), entropy=entropy)
        losses.append(lost(objective, OWN, aux, batch))
    each = -(np.exp(laws(OWN)) * laws(OWN)).sum(1)
    wanted = np.mean([each[rows_of(x)].sum() for x in STRINGS])
    assert losses[0] - losses[1] == pytest.approx(0.1 * wanted)


def test_a_discount_weighs_what_the_penalty_charges_later():
    """From action k on: sum over j >= k of .5^(j - k) (log ref - log q)_j, for a method that
    charges beta times it, and for the penalty alone."""
    penalty, paid = Penalty("k1", "reward", discount=0.5), []
    for x in STRINGS:
        s = per_token(REFERENCE, x) - per_token(OWN, x)
        paid.append(
            np.array([sum(0.5 ** (j - k) * s[j] for j in range(k, len(x))) for k in range(len(x))])
        )
    kit = components()._replace(penalty=penalty)
    *_, batch, _ = prepared("rloo", kit, group=4)
    scores = less([[score] for score in SCORES], 4, "leave_one_out")
    charged = less([BETA * x for x in paid], 4, "leave_one_out")
    same(actions(batch.advantages, batch.sequences), [a + b for a, b in zip(scores, charged)])
    alone = penalty.build(kit, Model(kit.policy, jnp.asarray(REFERENCE)))
    _, batch, _ = alone.prepare(jax.random.key(1), jnp.asarray(OWN), (), padded(STRINGS))
    same(actions(batch.advantages, batch.sequences), reached(paid, "leave_one_out"))


def returns_by_hand(d, level: str, s: np.ndarray, discount: float) -> list[float]:
    """R_k of one string from its log-ratios per token, as `estimators.returns_to_go` says."""
    reward, f = (
        (lambda x: float(d.reward(jnp.asarray(x)))),
        lambda x: float(d.perspective(jnp.asarray(x), jnp.zeros(()))),
    )
    n, prefix = len(s), np.concatenate([[0.0], np.cumsum(s)])
    out = []
    for k in range(n):
        if level == "token":
            later = sum(discount ** (j - k) * f(s[j]) for j in range(k + 1, n))
            out.append((reward(s[k]) - later) / H)
            continue
        share = lambda j: 1.0 if level == "sequence" else (H - j) / H
        gain = lambda j: reward(prefix[j + 1]) - reward(prefix[j])
        out.append(sum(discount ** (j - k) * share(j) * gain(j) for j in range(k, n)))
    return out


def reached(values, how: str) -> list:
    """Less a baseline for each index: of the other strings that reach it, or of all of them."""
    if how == "mean":
        return less(values, len(values), "mean")
    out = []
    for i, own in enumerate(values):
        others = lambda k, i=i: [v[k] for j, v in enumerate(values) if j != i and k < len(v)]
        out.append([x - (np.mean(others(k)) if others(k) else 0.0) for k, x in enumerate(own)])
    return out


@pytest.mark.parametrize(
    ("level", "discount", "baseline", "prompt"),
    [
        ("sequence", 1.0, "leave_one_out", True),
        ("sequence", 0.5, "mean", False),
        ("occupancy", 1.0, "mean", True),
        ("occupancy", 0.5, "leave_one_out", False),
        ("token", 1.0, "mean", False),
        ("token", 0.5, "leave_one_out", True),
    ],
)
def test_advantages_towards_an_expert(level, discount, baseline, prompt):
    fields = {"level": level, "discount": discount, "baseline": baseline}
    *_, batch, _ = prepared("js", components(prompt), **fields)
    d = divergences.js()
    returns = [
        returns_by_hand(
            d, level, per_token(EXPERT, x, prompt) - per_token(OWN, x, prompt), discount
        )
        for x in STRINGS
    ]
    same(actions(batch.advantages, batch.sequences), reached(returns, baseline))


@pytest.mark.parametrize("prompt", [False, True])
def test_advantages_from_known_means(prompt):
    """js of strings, later actions weighing half: each action's reward less its mean over the three
    or more tokens, and the means of later actions less those of the other strings."""
    fields = {"baseline": "state", "discount": 0.5}
    *_, batch, _ = prepared("js", components(prompt), **fields)
    reward = lambda u: np.log((1 + u) / 2) / 2
    own, later = [], []
    for x in STRINGS:
        p, q = (np.exp(laws(z)[rows_of(x, prompt)]) for z in (EXPERT, OWN))
        u, gains, means = 1.0, [], []
        for k, token in enumerate(x):
            gain = reward(u * p[k] / q[k]) - reward(u)
            means.append(q[k] @ gain)
            gains.append(gain[token] - means[-1])
            u *= p[k, token] / q[k, token]
        own.append(np.array(gains))
        rest = lambda k, means=means: sum(0.5 ** (j - k) * m for j, m in enumerate(means) if j > k)
        later.append(np.array([rest(k) for k in range(len(x))]))
    wanted = [a + b for a, b in zip(own, reached(later, "leave_one_out"))]
    same(actions(batch.advantages, batch.sequences), wanted)


@pytest.mark.parametrize("prompt", [False, True])
def test_advantages_of_the_relativistic_game(prompt):
    """softplus(s(y) - s(x)), the mean over the demonstrations x, at the end less before the action;
    here the demonstrations are the strings themselves."""

    def informed(aux):
        return aux._replace(discriminator=(jnp.asarray(LOGIT), aux.discriminator[1]))

    fields = {"warmup": 0, "discriminator_learning_rate": 1e-12}
    *_, batch, _ = prepared("relativistic", components(prompt), informed, **fields)
    so_far = [np.cumsum([0.0, *LOGIT[rows_of(x, prompt), list(x)]]) for x in STRINGS]
    real = np.array([s[-1] for s in so_far])
    pay = lambda s: np.log1p(np.exp(s - real)).mean()
    returns = [np.array([pay(s[-1]) - pay(before) for before in s[:-1]]) for s in so_far]
    same(actions(batch.advantages, batch.sequences), reached(returns, "leave_one_out"))


@pytest.mark.parametrize(
    ("level", "prompt", "options"),
    [
        ("sequence", True, {}),
        ("occupancy", False, {}),
        ("sequence", False, {"discount": 0.5}),
        ("occupancy", False, {"baseline": "mean"}),
        ("sequence", False, {"entropy": 0.3}),
    ],
)
@pytest.mark.few(1)
def test_advantages_of_a_discriminator(level, prompt, options):
    """The logit of a string is the sum over its actions; of a position, its action's own. An
    entropy bonus takes .3 times the log-probs of this action and of all later ones off."""

    def informed(aux):
        return aux._replace(discriminator=(jnp.asarray(LOGIT), aux.discriminator[1]))

    fields = {"level": level, "warmup": 0, "discriminator_learning_rate": 1e-12} | options
    *_, batch, _ = prepared("gail", components(prompt), informed, **fields)
    d, returns = divergences.js(), []
    for x in STRINGS:
        logits = LOGIT[rows_of(x, prompt), list(x)]
        s = logits if level == "sequence" else np.diff([0.0, *logits])
        bonus = -options.get("entropy", 0.0) * np.cumsum(per_token(OWN, x, prompt)[::-1])[::-1]
        returns.append(returns_by_hand(d, level, s, options.get("discount", 1.0)) + bonus)
    wanted = reached(returns, options.get("baseline", "leave_one_out"))
    same(actions(batch.advantages, batch.sequences), wanted)


@pytest.mark.parametrize("form", ["ratio", "expert"])
def test_the_logit_of_airl_begins_at_the_start(form):
    """Of each action: reward + potential after it - potential before it + log q_start - log q, the
    policy being another than at the start. The potential is 0 before the first and after the last
    action; the expert's part is the logit plus log q."""
    potential = table(5)
    nets = {"reward": jnp.asarray(LOGIT), "potential": jnp.asarray(potential)}

    def informed(aux):
        aux = aux._replace(start=jnp.asarray(REFERENCE))
        return aux._replace(discriminator=(nets, aux.discriminator[1]))

    level = "occupancy" if form == "ratio" else "sequence"
    fields = {"level": level, "warmup": 0, "discriminator_learning_rate": 1e-12}
    *_, batch, _ = prepared("airl", components(), informed, reward_form=form, **fields)
    returns = []
    for x in STRINGS:
        at = rows_of(x), list(x)
        shaping = np.diff([0.0, *potential[at][:-1], 0.0])
        logits = LOGIT[at] + shaping + per_token(REFERENCE, x) - per_token(OWN, x)
        s = np.diff([0.0, *logits]) if form == "ratio" else logits + per_token(OWN, x)
        returns.append(returns_by_hand(divergences.reverse_kl(), level, s, 1.0))
    same(actions(batch.advantages, batch.sequences), reached(returns, "leave_one_out"))


def test_advantages_of_fdpg_are_of_whole_strings():
    *_, batch, _ = prepared("fdpg:js", components(), normaliser="exact")
    reward = divergences.js().reward
    each = [[float(reward(jnp.asarray(total(EXPERT, x) - total(OWN, x))))] for x in STRINGS]
    wanted = [list(a) * len(x) for a, x in zip(less(each, 4, "leave_one_out"), STRINGS)]
    same(actions(batch.advantages, batch.sequences), wanted)


def test_a_token_discriminators_accuracy_counts_actions_alone():
    """Each action once, whatever the strings' lengths: on 9 actions of four strings."""
    fields = {"level": "token", "warmup": 0, "discriminator_learning_rate": 1e-12}
    known = lambda aux: aux._replace(discriminator=(jnp.asarray(LOGIT), aux.discriminator[1]))
    *_, metrics = prepared("gail", components(), known, **fields)
    logits = np.concatenate([LOGIT[rows_of(x), list(x)] for x in STRINGS])
    # held-out and training demonstrations are the same strings, judged beside the same samples
    assert float(metrics["d_accuracy"]) == pytest.approx(float(metrics["d_accuracy_train"]))
    rights = 2 * float(metrics["d_accuracy"]) - np.mean(logits > 0)
    assert rights * sum(SIZES) == pytest.approx(round(rights * sum(SIZES)), abs=1e-4)
    assert 0 <= rights <= 1


# --- losses ---------------------------------------------------------------------------------------

FIRST, SECOND = STRINGS, (*STRINGS[1:], STRINGS[0])  # what is preferred to what


def log_ratio(logits: np.ndarray, x) -> float:
    return total(logits, x) - total(REFERENCE, x)


def softplus(x):
    return np.log1p(np.exp(x))


def of_pairs(each):
    """A loss that is the mean over comparisons of `each(score(first), score(second))`."""
    score, lost = each
    return lambda logits: np.mean(
        [lost(score(logits, x) - score(logits, y)) for x, y in zip(FIRST, SECOND)]
    )


def likelihood(aggregate: str):
    def loss(logits):
        sums = np.array([total(logits, x) for x in STRINGS])
        return -{
            "string": sums.mean(),
            "token": sums.sum() / sum(SIZES),
            "string_mean": np.mean(sums / SIZES),
            "constant": sums.sum() / (len(STRINGS) * H),
        }[aggregate]

    return loss


def distilled(logits):
    """Sum over the vocabulary at the expert's prefixes, over H positions, those after the end 0."""
    each = [
        sum(
            float(divergences.js().perspective(*map(jnp.asarray, pair)).sum())
            for pair in zip(laws(EXPERT)[rows_of(x)], laws(logits)[rows_of(x)])
        )
        for x in STRINGS
    ]
    return np.mean(each) / H


def rewards_of_iq(alpha: float):
    """-log q + sum of r^2 / (4 alpha), r = log q + V(before) - V(after), V = 0 after the end."""

    def loss(logits):
        lost = []
        for x in STRINGS:
            value = np.array([*CRITIC[rows_of(x)], 0.0])
            r = per_token(logits, x) - np.diff(value)
            lost.append(-total(logits, x) + (r**2).sum() / (4 * alpha))
        return np.mean(lost)

    return loss


def labelled(logits):
    """KTO at its reference point: each row's prompt is empty, so others' answers are its own."""
    point = max(0.0, np.mean([log_ratio(OWN, x) for x in (*FIRST, *SECOND)]))
    u = lambda x: BETA * (log_ratio(logits, x) - point)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    lost = [sigmoid(-u(x)) for x in FIRST] + [1.5 * sigmoid(u(x)) for x in SECOND]
    return np.mean(lost)


def discriminated(logits):
    """The token-level policy loss: -(1/H) sum over actions of sum_v q(v) reward(s(v))."""
    reward = np.asarray(divergences.js().reward(jnp.asarray(LOGIT)))
    each = [(np.exp(laws(logits)[rows_of(x)]) * reward[rows_of(x)]).sum() for x in STRINGS]
    return -np.mean(each) / H


LOSSES = {
    **{
        f"sft {how}": ("sft", {"aggregate": how}, likelihood(how))
        for how in ("string", "token", "string_mean", "constant")
    },
    "dpo": ("dpo", {}, of_pairs((lambda l, x: BETA * log_ratio(l, x), lambda m: softplus(-m)))),
    "ipo": ("ipo", {}, of_pairs((log_ratio, lambda m: (m - 0.5 / BETA) ** 2))),
    "ipo mean": (
        "ipo",
        {"reduction": "mean"},
        of_pairs((lambda l, x: log_ratio(l, x) / len(x), lambda m: (m - 0.5 / BETA) ** 2)),
    ),
    "simpo": (
        "simpo",
        {"margin": 0.7},
        of_pairs((lambda l, x: total(l, x) / len(x), lambda m: softplus(-BETA * (m - 0.7)))),
    ),
    "kto": ("kto", {"undesirable": 1.5}, labelled),
    "spin": (  # demonstrations against what the policy, as it was, wrote
        "spin",
        {"beta": 0.7},
        of_pairs((lambda l, x: 0.7 * (total(l, x) - total(OWN, x)), lambda m: softplus(-m))),
    ),
    "spin of single strings": (  # js by its bound: softplus(-h) and softplus(h), halved, less log 2
        "spin",
        {"form": "single"},
        lambda l: (
            np.mean([softplus(total(OWN, x) - total(l, x)) for x in FIRST]) / 2
            + np.mean([softplus(total(l, x) - total(OWN, x)) for x in SECOND]) / 2
            - np.log(2)
        ),
    ),
    "distill": ("distill", {}, distilled),
    "iq_learn": ("iq_learn", {"value_learning_rate": 1e-12}, rewards_of_iq(10.0)),
    "iq_learn alpha 2": (
        "iq_learn",
        {"value_learning_rate": 1e-12, "alpha": 2.0},
        rewards_of_iq(2.0),
    ),
    "gail token": (
        "gail",
        {"level": "token", "warmup": 0, "discriminator_learning_rate": 1e-12},
        discriminated,
    ),
}


def informed(name: str):
    """What is learned beside the policy, at the tables above."""
    if name == "iq_learn":
        return lambda aux: (jnp.asarray(CRITIC)[:, None], aux[1])
    if name == "gail":
        return lambda aux: aux._replace(discriminator=(jnp.asarray(LOGIT), aux.discriminator[1]))
    return lambda aux: aux


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.few(5)
def test_losses_string_by_string(case):
    """The loss, and its slope along one direction by central differences of the hand-made one, at
    the table that `prepare` saw and away from it."""
    name, fields, by_hand = LOSSES[case]
    kit = components(strings=SECOND if name == "spin" else STRINGS)
    batch = padded(STRINGS)
    if objectives.resolve(name).reads != "demos":
        batch = Pairs(padded(FIRST), padded(SECOND))
    objective, aux, batch, _ = prepared(name, kit, informed(name), batch, **fields)
    loss = lambda params: objective.loss(params, aux, batch)[0]
    along, slope_at = table(9), jax.jit(jax.value_and_grad(loss))
    for logits in (OWN, OWN + 0.5 * table(8)):
        value, slope = slope_at(jnp.asarray(logits))
        assert float(value) == pytest.approx(by_hand(logits), rel=1e-9)
        ends = [by_hand(logits + side * 1e-5 * along) for side in (1, -1)]
        assert float(jnp.sum(slope * along)) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


@pytest.mark.few(3)
@pytest.mark.parametrize("aggregate", ["string", "token", "string_mean", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_clipped_loss_off_ratio_one(ratio, aggregate):
    """After the policy has moved: min(rho A, clip(rho) A) of each action, by hand."""
    fields = {"group": 2, "ratio": ratio, "aggregate": aggregate, "clip": 0.1}
    objective, aux, batch, _ = prepared("grpo", components(), **fields)
    moved = OWN + 0.8 * table(7)
    gains, clipped, weights = [], [], []
    for x, advantage in zip(STRINGS, actions(batch.advantages, batch.sequences)):
        change = per_token(moved, x) - per_token(OWN, x)
        rho = np.exp(change if ratio == "token" else np.full(len(x), change.mean()))
        each = np.minimum(rho * advantage, np.clip(rho, 0.9, 1.1) * advantage)
        clipped.append(np.mean(each < rho * advantage))
        weights.append(len(x) if aggregate == "token" else 1)
        gains.append(each)
    assert sum(clipped) > 0
    sums = np.array([x.sum() for x in gains])
    wanted = {
        "string": sums.mean(),
        "token": sums.sum() / sum(SIZES),
        "string_mean": np.mean(sums / SIZES),
        "constant": sums.sum() / (len(STRINGS) * H),
    }[aggregate]
    loss, metrics = jax.jit(objective.loss)(jnp.asarray(moved), aux, batch)
    assert float(loss) == pytest.approx(-wanted)
    assert float(metrics["clip_share"]) == pytest.approx(np.average(clipped, weights=weights))


@pytest.mark.parametrize(
    ("how", "each"),
    [
        ("k2-loss", lambda s, change: (s**2 / 2).sum()),
        ("k3-loss", lambda s, change: (np.exp(s) - 1 - s).sum()),
        ("k2-loss-string", lambda s, change: s.sum() ** 2 / 2),
        ("k3-loss-string", lambda s, change: np.exp(s.sum()) - 1 - s.sum()),
        ("k3-ratio", lambda s, change: ((np.exp(s) - 1 - s) * np.exp(change)).sum()),
        (
            "k3-ratio-string",
            lambda s, change: (np.exp(s.sum()) - 1 - s.sum()) * np.exp(change.sum()),
        ),
    ],
)
def test_penalties_in_the_loss(how, each):
    """beta times the mean over strings of k, beside a score of 0 for all."""
    kit = components(scores=(0.0,) * 4)
    objective, aux, batch, _ = prepared(f"rloo:{how}", kit, group=2)
    moved = OWN + 0.3 * table(7)
    k = [
        each(per_token(REFERENCE, x) - per_token(moved, x), per_token(moved, x) - per_token(OWN, x))
        for x in STRINGS
    ]
    assert lost(objective, moved, aux, batch) == pytest.approx(BETA * np.mean(k))


def test_penalties_as_rewards():
    """k3 per token is paid from each action on; per string at the last one; the exact sum at the
    prefix after each action, times the discount."""
    k3 = lambda s: np.exp(s) - 1 - s
    mask = padded(STRINGS).mask
    s = [per_token(REFERENCE, x) - per_token(OWN, x) for x in STRINGS]
    grid = np.zeros((4, H))
    for row, each in zip(grid, s):
        row[: len(each)] = each
    paid = lambda penalty, **given: actions(
        penalty.rewards(divergences.reverse_kl(), jnp.asarray(grid), mask, **given),
        padded(STRINGS),
    )
    same(paid(Penalty("k1", "reward")), s)
    same(paid(Penalty("k3", "reward")), [-k3(x) for x in s])
    same(
        paid(Penalty("k3", "reward", "string")),
        [[*[0.0] * (len(x) - 1), -k3(x.sum())] for x in s],
    )
    exactly = np.where(mask, np.arange(1.0, 1 + H), 0.0)  # 1, 2, 3 at the prefixes of a string
    same(
        paid(Penalty("exact", "reward", discount=0.5), exact=jnp.asarray(exactly)),
        [[-0.5 * (k + 2) if k + 1 < len(x) else 0.0 for k in range(len(x))] for x in STRINGS],
    )


def test_constant_averages_over_the_horizon_whatever_the_prompts():
    for prompt in (False, True):
        weight = normalise(padded(STRINGS, prompt=prompt), "constant", H).weight
        np.testing.assert_allclose(weight, 1 / (4 * H))


# --- groups ---------------------------------------------------------------------------------------


def every_string() -> list[tuple[int, ...]]:
    return [
        x
        for n in range(1, H + 1)
        for x in itertools.product(range(V), repeat=n)
        if EOS not in x[:-1] and (x[-1] == EOS or n == H)
    ]


def score_of(x) -> float:
    """Any function of whole strings that hangs on their lengths as well."""
    return 0.7 * len(x) - 1.3 * (x[0] == 0) + (x[-1] == EOS)


def expected_over_groups(name: str, n: int, **fields) -> np.ndarray:
    """Exact expectation over all groups of n answers of the gradient on such a batch."""
    space = every_string()
    groups = np.array(list(itertools.product(range(len(space)), repeat=n)))
    whole = padded(space)
    chance = np.exp([total(OWN, x) for x in space])
    assert chance.sum() == pytest.approx(1)
    scores = jnp.array([score_of(x) for x in space])

    @jax.jit
    def gradient(rows):
        strings = Sequences(whole.tokens[rows], whole.mask[rows], jnp.ones(n))
        kit = components(score=lambda x: scores[rows])
        rollout = lambda key, policy, params, prompts: (
            strings,
            jnp.where(
                strings.mask,
                jnp.take_along_axis(
                    policy.head(params, policy.trunk(params, strings.tokens)),
                    jnp.maximum(strings.tokens, 0)[..., None],
                    2,
                )[..., 0],
                0.0,
            ),
        )
        objective = objectives.resolve(name, **fields).build(kit._replace(rollout=rollout))
        params = jnp.asarray(OWN)
        aux = objective.init(jax.random.key(0), params)
        aux, batch, _ = objective.prepare(jax.random.key(1), params, aux, strings)
        return jax.grad(lambda p: objective.loss(p, aux, batch)[0])(params)

    each = jax.vmap(gradient)(jnp.asarray(groups))
    return np.einsum("g,g...->...", chance[groups].prod(1), np.asarray(each))


def exact_gradient_of_return() -> np.ndarray:
    """Minus that of E[score] - beta KL(q||ref), by listing strings."""
    space = every_string()

    def value(logits):
        log_q = np.array([total(logits, x) for x in space])
        log_ref = np.array([total(REFERENCE, x) for x in space])
        scores = np.array([score_of(x) for x in space])
        return np.exp(log_q) @ (scores - BETA * (log_q - log_ref))

    return -numerical(value)


def exact_gradient_of(spec: str) -> np.ndarray:
    """Of the sequence-level divergence from the expert, by listing strings."""
    d, space = divergences.parse(spec), every_string()

    def value(logits):
        laws = ([total(table, x) for x in space] for table in (EXPERT, logits))
        return float(d.perspective(*map(jnp.array, laws)).sum())

    return numerical(value)


def numerical(value) -> np.ndarray:
    slope = np.zeros_like(OWN)
    for at in np.ndindex(OWN.shape):
        step = np.zeros_like(OWN)
        step[at] = 1e-5
        slope[at] = (value(OWN + step) - value(OWN - step)) / 2e-5
    return slope


@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [
        ("reinforce", {"baseline": "none"}, 1.0),
        ("reinforce", {}, 0.5),
        ("rloo", {"group": 2}, 1.0),
        ("grpo", {"group": 2}, 0.5),
        ("ppo", {"gae_lambda": 1.0}, 1.0),
    ],
)
def test_groups_of_two_give_the_exact_gradient(name, fields, size):
    """A mean of n answers shrinks it by 1 - 1/n and turns it nowhere."""
    found = expected_over_groups(name, 2, **fields)
    np.testing.assert_allclose(found, size * exact_gradient_of_return(), atol=1e-8)


@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [
        ("js", {}, 1.0),
        ("js", {"baseline": "none"}, 1.0),
        ("js", {"baseline": "mean"}, 0.5),
        ("fdpg:js", {"normaliser": "exact"}, 1.0),
    ],
)
def test_batches_of_two_give_the_exact_gradient(name, fields, size):
    found = expected_over_groups(name, 2, **fields)
    np.testing.assert_allclose(found, size * exact_gradient_of("js"), atol=1e-8)


def test_groups_of_three():
    found = expected_over_groups("grpo", 3, group=3)
    np.testing.assert_allclose(found, 2 / 3 * exact_gradient_of_return(), atol=1e-8)


def test_the_space_is_the_whole_one():
    assert len(every_string()) == exact.count_strings(V, H, EOS)
