"""Any increasing reward of one discriminator: `python -m experiments.figures any_reward [--updates
N --away X]`.

At its best a discriminator's logit is s = log p/q, and imitation methods differ in what they pay
for it: AIRL s, GAIL -log(1 - D), others log D or D itself (TextGAIL), e^s, DAIL sigmoid(s)(1 +
tanh s)/2, FAIRL -s e^s. Each that increases is the reward of an f-divergence, f'' = r'(u)/u, so all
of these are but FAIRL's, which falls from s = -1 on. What sets the others apart is their value at
s = 0: paid for each token of strings that end when EOS is written, a reward that is positive at the
expert pays for going on (survival bias), and the expert is no fixed point. Less r(0) it is one.
Exact policy gradients of the sum of rewards, the discriminator at its best throughout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from experiments.figures.common import students
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, near
from experiments.gradients.world import build
from experiments.reporting import style
from fdiv import divergences, exact, prefixes
from fdiv import tokens as tk
from fdiv.checks import at_least, between, present, seeding
from fdiv.divergences import from_reward
from fdiv.estimators import Scored, discounted_to_go
from fdiv.policies import tabular
from fdiv.types import Components, Model, Objective, UsageError

VOCAB, HORIZON = 3, 6  # the last symbol ends a string
RATE, POINTS = 0.05, 20
ENOUGH = 300  # updates from which ends are checked
REWARDS: dict[str, Callable[[Array], Array]] = {
    "AIRL": lambda s: s,
    "GAIL": lambda s: jax.nn.softplus(s),
    "log D": lambda s: jax.nn.log_sigmoid(s),
    "TextGAIL": lambda s: jax.nn.sigmoid(s),
    "e^s": lambda s: jnp.exp(s),
    "DAIL": lambda s: 0.5 * jax.nn.sigmoid(s) * (1 + jnp.tanh(s)),
    "FAIRL": lambda s: -s * jnp.exp(s),
}
COLOURS = {
    "AIRL": style.colour("reverse_kl"),
    "GAIL": style.colour("js"),
    "log D": style.colour("log_d"),
    "TextGAIL": style.colour("jeffreys"),
    "e^s": style.colour("forward_kl"),
    "DAIL": "#0B7A75",
    "FAIRL": style.EXPERT,
}
# MinAtar means, read off a plot of the DAIL paper (arXiv 2510.00922)
MINATAR = {"GAIL": 0.55, "AIRL": 0.30, "FAIRL": 0.35, "DAIL": 0.85}
KINDS = ("centred", "raw")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Strings of up to six tokens with EOS; a table policy some way off the expert."""

    away: float = 0.5
    """Standard deviation of the start's logits about the expert's."""
    updates: int = 600
    """Updates by Adam, on exact gradients."""
    seed: int = 0
    """Which expert and start."""


def make(flags: Flags) -> Result:
    """Which rewards are an f's, then training on each."""
    between("away", flags.away, 0.01, 3)
    at_least("updates", flags.updates, POINTS)
    seeding("seed", flags.seed)
    with jax.enable_x64(True):
        refusals = {name: _refused(reward) for name, reward in REWARDS.items()}
        at_zero = {name: float(reward(jnp.zeros(()))) for name, reward in REWARDS.items()}
        paths, expert_length = _train(flags)
        checks = _checks(flags, refusals, paths, expert_length)
    rows: list[Row] = [
        {
            "reward": name,
            "of an f": not refusals[name],
            "at s = 0": at_zero[name],
            "tv, start": float(paths["tv"][0][i][0]),
            **{f"tv, {kind}": float(paths["tv"][j][i][-1]) for j, kind in enumerate(KINDS)},
            **{f"length, {kind}": float(paths["length"][j][i][-1]) for j, kind in enumerate(KINDS)},
            "expert's length": expert_length,
            "MinAtar (DAIL paper)": MINATAR.get(name),
        }
        for i, name in enumerate(REWARDS)
    ]
    values = {"rewards": {row["reward"]: row for row in rows}, "refusals": refusals}
    curve = [
        {"reward": name, "kind": kind, "update": int(update)}
        | {what: float(paths[what][j][i][n]) for what in ("tv", "length")}
        for j, kind in enumerate(KINDS)
        for i, name in enumerate(REWARDS)
        for n, update in enumerate(_stops(flags))
    ]
    return Result(values, checks, rows, _picture(flags, values, paths), [*rows, *curve])


def _refused(reward: Callable[[Array], Array]) -> str:
    """Why no f has this reward, nothing where one has."""
    try:
        from_reward(reward)
    except UsageError as error:
        return f"{error.value}: {error.problem}"
    return ""


def returned(components: Components, reward: Callable[[Array], Array]) -> Objective:
    """The policy gradient of E[sum over tokens of reward(s_t)], every token's reward held fixed:
    what RL makes of a discriminator's reward."""
    policy, mdp = components.policy, components.mdp

    def prepare(key, params, aux, batch):
        x, log_q = components.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))
        log_p = tk.log_probs(*present(mdp.expert, "expert"), x, mdp.vocab)
        paid = jnp.where(x.mask, reward(jnp.where(x.mask, log_p - log_q, 0.0)), 0.0)
        to_go = jnp.where(x.mask, discounted_to_go(paid, 1.0), 0.0)
        return aux, Scored(tk.normalise(x), to_go), {}

    def loss(params, aux, batch):
        return prefixes.policy_gradient_loss(Model(policy, params), batch, mdp.vocab), {}

    return Objective(lambda key, params: (), prepare, loss)


def _train(flags: Flags) -> tuple[dict[str, np.ndarray], float]:
    """Total variation to the expert and mean length along the way, [kinds, rewards, points], and
    the expert's mean length."""
    space = exact.enumerate_strings(VOCAB, HORIZON, VOCAB - 1)
    automaton = tabular.full(VOCAB, HORIZON)
    policy = tabular.policy(automaton, VOCAB)
    draw = np.random.default_rng(flags.seed).standard_normal((2, automaton.states, VOCAB))
    table, start = draw[0], draw[0] + flags.away * draw[1]
    components = build(space, policy, start, Model(policy, table)).exact
    p = exact.known_law(space, Model(policy, table))
    lengths = np.asarray(space.sequences.mask).sum(1)

    def path(index: Array, centred: Array) -> dict[str, Array]:
        def reward(s: Array) -> Array:
            each = jnp.stack(
                [r(s) - jnp.where(centred, r(jnp.zeros(())), 0.0) for r in REWARDS.values()]
            )
            return each[index]

        training = students.adam(returned(components, reward), RATE, flags.updates)

        def measured(params: Array) -> dict[str, Array]:
            q = exact.law(space, policy, params)
            tv = exact.divergence(divergences.tv(), space, p, q)
            return {"tv": tv, "length": jnp.exp(q.string) @ lengths}

        def stretch(state, _):
            stride = flags.updates // POINTS
            state, _ = students.advance(training, state, lambda _: space.sequences, stride)
            return state, measured(state.params)

        first = training.init(jax.random.key(0), jnp.asarray(start))
        found = jax.lax.scan(stretch, first, None, length=POINTS)[1]
        before = measured(first.params)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, found)

    every = jax.jit(jax.vmap(jax.vmap(path, (0, None)), (None, 0)))
    found = jax.device_get(every(jnp.arange(len(REWARDS)), jnp.array([True, False])))
    return found, float(np.exp(p.string) @ lengths)


def _stops(flags: Flags) -> np.ndarray:
    return np.arange(POINTS + 1) * (flags.updates // POINTS)


def _checks(flags: Flags, refusals: Mapping, paths: Mapping, expert_length: float) -> list[Check]:
    checks = []
    for name, reason in refusals.items():
        holds = bool(reason) == (name == "FAIRL")
        word = "no f's reward" if name == "FAIRL" else "an f's reward"
        checks.append(Check(f"{name} is {word}", holds, reason or "increases throughout"))
    own, member = from_reward(REWARDS["DAIL"]), divergences.parse("dail")
    u = np.array([0.0, 0.1, 0.5, 1.5, 4.0, 30.0])
    off = float(np.abs(np.asarray(own.f(u)) - np.asarray(member.f(u))).max())
    checks.append(near("DAIL's f from its reward alone and in closed form", off, 0, 1e-9))
    checks.append(near("DAIL's f(0)", float(own.f(0.0)), 0.25, 1e-9))
    if flags.updates < ENOUGH:
        return checks
    for i, name in enumerate(REWARDS):
        tv = {kind: float(paths["tv"][j][i][-1]) for j, kind in enumerate(KINDS)}
        start = float(paths["tv"][0][i][0])
        if name == "FAIRL":
            detail = f"{start:.3f} -> {tv['centred']:.3f}"
            checks.append(Check("FAIRL leaves the expert", tv["centred"] > start, detail))
            continue
        checks.append(near(f"{name}, less r(0), arrives: total variation", tv["centred"], 0, 0.02))
        value = float(REWARDS[name](jnp.zeros(())))
        if value != 0:
            change = float(paths["length"][1][i][-1]) - expert_length
            word = "longer" if value > 0 else "shorter"
            holds = change * value > 0 and tv["raw"] > 0.1
            about = f"{name} as it is: strings are {word} than the expert's"
            checks.append(Check(about, holds, f"by {change:+.3f}, total variation {tv['raw']:.3f}"))
    return checks


def _picture(flags: Flags, values: dict, paths: Mapping) -> Picture:
    """Rewards as they are; total variation of training; mean lengths at the end."""
    style.use()
    shape = {"figsize": (7.4, 3.0), "width_ratios": (1.1, 1, 1.15), "layout": "constrained"}
    figure, (rewards, training, lengths) = plt.subplots(1, 3, **shape)
    s = np.linspace(-3, 2.2, 200)
    for i, (name, reward) in enumerate(REWARDS.items()):
        look = {"color": COLOURS[name], "linestyle": "--" if name == "FAIRL" else "-"}
        rewards.plot(s, np.asarray(reward(jnp.asarray(s))), label=name, **look)
        training.plot(_stops(flags), paths["tv"][0][i], **look)
    rewards.axvline(0, color=style.OTHER, linewidth=0.7)
    rewards.set(xlabel=r"log-ratio $s$", ylabel="reward", ylim=(-3, 3))
    training.set(xlabel="update", ylabel="total variation to the expert", ylim=(0, 1.02))
    training.set_title("less r(0)")
    names, place = list(REWARDS), np.arange(len(REWARDS))
    table = values["rewards"]
    for name, y in zip(names, place):
        row = table[name]
        ends = (row["length, centred"], row["length, raw"])
        lengths.plot(ends, (y, y), color=COLOURS[name], linewidth=1.2)
        lengths.plot(ends[0], y, "o", color=COLOURS[name])
        lengths.plot(ends[1], y, "o", color=COLOURS[name], markerfacecolor="white")
    lengths.axvline(table["AIRL"]["expert's length"], color=style.OTHER, linestyle=":", linewidth=1)
    lengths.set_yticks(place, names)
    lengths.invert_yaxis()
    lengths.set(xlabel="mean length at the end", xlim=(0.9, HORIZON + 0.1))
    handles, labels = rewards.get_legend_handles_labels()
    handles += [
        plt.Line2D([], [], color=style.OTHER, marker="o", linestyle="", label="less r(0)"),
        plt.Line2D([], [], color=style.OTHER, marker="o", linestyle="", markerfacecolor="white"),
        plt.Line2D([], [], color=style.OTHER, linestyle=":"),
    ]
    labels += ["less r(0)", "as it is", "expert"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Any increasing reward of one discriminator",
    claim=(
        "Every increasing reward is an f-divergence's and leads to the expert once its value at "
        "s = 0 is taken off; as they are, their sign there sets how long strings become."
    ),
    source=(
        "DAIL (arXiv 2510.00922); Ho & Ermon 2016 (arXiv 1606.03476); Fu et al. 2018 (arXiv "
        "1710.11248); Ghasemipour et al. 2019 (arXiv 1911.02256); Kostrikov et al. 2019 (arXiv "
        "1809.02925) for the bias of episodes that end"
    ),
)
