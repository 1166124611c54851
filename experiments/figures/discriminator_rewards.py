"""What a policy that maximises a discriminator's reward descends: `python -m experiments.figures
discriminator_rewards`.

At its best the discriminator's logit is s = log p - log q. The mean cosine of each reward's policy
gradient with each -grad D over random pairs of laws: 1 for AIRL's s with reverse_kl, GAIL's -log(1
- D) with js, e^s with forward_kl; below -.9 for FAIRL's -s e^s with forward_kl. Trained from
uniform to p = (.6, .4), FAIRL ends at total variation .6, all others at 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common import students
from experiments.figures.common.base import Check, Figure, Picture, Result
from experiments.gradients.world import build
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv.checks import at_least, between, present
from fdiv.objectives.adversarial import fairl
from fdiv.objectives.policy_gradient import policy_gradient
from fdiv.policies import tabular
from fdiv.types import Components, Divergence, Model, Objective

FAMILY = list(divergences.every().values())
PUBLISHED = {  # name -> (reward of the logit s, which divergence it is said to descend)
    # airl is log D - log(1 - D), gail is -log(1 - D)
    "airl": (lambda s: jax.nn.log_sigmoid(s) - jax.nn.log_sigmoid(-s), "reverse_kl"),
    "gail": (lambda s: -jax.nn.log_sigmoid(-s), "js"),
    "e^s": (jnp.exp, "forward_kl"),
    "fairl": (fairl(divergences.forward_kl()).reward, "forward_kl"),
}
REWARDS = {name: reward for name, (reward, _) in PUBLISHED.items()}
REWARDS |= {d.name: d.reward for d in FAMILY}
OWN = [(d.name, d.name) for d in FAMILY]  # (reward, the divergence that it descends)
OWN += [(name, d) for name, (_, d) in PUBLISHED.items() if name != "fairl"]
ONE, NEAR = 1 - 1e-9, 0.01
TARGET, STEPS, RATE = (0.6, 0.4), 3000, 0.05


@dataclasses.dataclass(frozen=True)
class Flags:
    """One choice among arms; the policy's logits are a random step away from the expert's."""

    arms: int = 10
    """Number of arms (at least 2)."""
    scale: float = 1.0
    """Standard deviation of that step; the expert's own logits are standard normal."""
    pairs: int = 200
    """Random pairs of expert and policy."""


def make(flags: Flags) -> Result:
    """Cosines over random pairs, and where training ends."""
    at_least("arms", flags.arms, 2)
    between("scale", flags.scale, 1e-6, 10)
    at_least("pairs", flags.pairs, 1)
    with jax.enable_x64(True):
        there, close = cosines(flags.arms, flags.pairs, (flags.scale, NEAR))
        trained = dict(zip(REWARDS, map(float, _train(jnp.log(jnp.asarray(TARGET))))))
    cosine = _by_name(there.mean(0))
    values = {"cosine": cosine, "trained_tv": trained}
    rows = [{"reward": k, **row, "trained tv": trained[k]} for k, row in cosine.items()]
    checks = _checks(_by_name(there.min(0)), _by_name(close.max(0)), trained)
    return Result(values, checks, rows, _picture(values))


def _by_name(table: np.ndarray) -> dict[str, dict[str, float]]:
    """[rewards, divergences] as reward -> divergence -> number."""
    names = [d.name for d in FAMILY]
    return {r: dict(zip(names, map(float, row))) for r, row in zip(REWARDS, table)}


def _bandit(log_p: jax.Array, reward: jax.Array | int) -> tuple[exact.Space, Components, Objective]:
    """One choice from the law p, and the policy gradient that pays the reward of that number."""
    arms = log_p.shape[-1]
    space = exact.enumerate_strings(arms, 1, None)
    policy = tabular.policy(tabular.independent(arms, 1), arms)
    components = build(space, policy, log_p, Model(policy, log_p)).exact

    def rewarded(s: jax.Array) -> jax.Array:
        return jnp.stack([r(s) for r in REWARDS.values()])[reward]

    return space, components, policy_gradient(components, FAMILY[0]._replace(reward=rewarded))


def _measure(
    d: Divergence, space: exact.Space, components: Components, params: jax.Array
) -> jax.Array:
    p, q = (
        exact.law(space, *present(components.mdp.expert, "expert")),
        exact.law(space, components.policy, params),
    )
    return exact.divergence(d, space, p, q)


def cosines(arms: int, pairs: int, scales: Sequence[float]) -> np.ndarray:
    """Of the reward's policy gradient with -grad D. [scales, pairs, rewards, divergences]"""
    expert, step = np.random.default_rng(0).standard_normal((2, pairs, 1, arms))

    def climbed(log_p, params, reward):
        space, _, objective = _bandit(log_p, reward)
        return exact.expected_gradient(objective, params, space.sequences)[0]

    def one(log_p, params):
        space, components, _ = _bandit(log_p, 0)
        ups = jax.vmap(climbed, (None, None, 0))(log_p, params, jnp.arange(len(REWARDS)))
        slopes = [jax.grad(_measure, 3)(d, space, components, params)[0] for d in FAMILY]
        return _unit(ups) @ _unit(jnp.stack(slopes)).T

    policies = np.array([expert + x * step for x in scales])
    return np.asarray(jax.jit(jax.vmap(jax.vmap(one), (None, 0)))(expert, policies))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _train(log_p: jax.Array) -> np.ndarray:
    """Total variation after training on each reward from the uniform law, by exact gradients.
    [rewards]"""

    def end(reward):
        space, components, objective = _bandit(log_p[None], reward)
        training = students.adam(objective, RATE, STEPS)
        start = training.init(jax.random.key(0), jnp.zeros((1, len(TARGET))))
        state, _ = students.advance(training, start, lambda _: space.sequences, STEPS)
        return _measure(divergences.tv(), space, components, state.params)

    return np.asarray(jax.jit(jax.vmap(end))(jnp.arange(len(REWARDS))))


def _checks(
    least: dict[str, dict[str, float]],
    close: dict[str, dict[str, float]],
    trained: dict[str, float],
) -> list[Check]:
    """Own pairs over every random pair; FAIRL near the optimum; where training ends."""
    checks = []
    for r, d in OWN:
        x = least[r][d]
        checks.append(Check(f"{r} descends {d}", x >= ONE, f"least cosine {x:.12f}"))
    most, end = close["fairl"]["forward_kl"], trained["fairl"]
    name = f"fairl climbs forward_kl at scale {NEAR:g}"
    checks.append(Check(name, most < -0.9, f"greatest cosine {most:.6f}"))
    checks.append(Check("trained on fairl, tv > .5", end > 0.5, f"{end:.6g}"))
    for reward, tv in trained.items():
        if reward != "fairl":
            checks.append(Check(f"trained on {reward}, tv < .001", tv < 1e-3, f"{tv:.3g}"))
    return checks


def _picture(values: dict[str, dict]) -> Picture:
    style.use()
    plt.rcParams["axes.grid"] = False
    names, columns = list(REWARDS), [d.name for d in FAMILY]
    figure, (grid, bars) = plt.subplots(
        1, 2, figsize=(7.2, 4.6), width_ratios=(5.4, 1), sharey=True, layout="constrained"
    )
    cosine = np.array([[*row.values()] for row in values["cosine"].values()])
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    grid.imshow(angle, cmap="RdYlBu_r", vmin=0, vmax=180, aspect="auto")
    for (i, j), value in np.ndenumerate(cosine):
        text = f"{value:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")
        colour = "white" if abs(angle[i, j] - 90) > 60 else "black"
        grid.annotate(text, (j, i), ha="center", va="center", fontsize=6.5, color=colour)
    for reward, d in OWN:
        corner = (columns.index(d) - 0.5, names.index(reward) - 0.5)
        grid.add_patch(plt.Rectangle(corner, 1, 1, fill=False, linewidth=1.3))
    grid.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    label = "cosine with \N{MINUS SIGN}grad of the divergence (framed: its own reward)"
    grid.set(xlabel=label, ylabel="reward")
    ends = values["trained_tv"].values()
    rectangles = bars.barh(names, ends, 0.6, color=style.colour("forward_kl"))
    labels = [f"{tv:.1f}" if tv > 5e-4 else "0" for tv in ends]
    bars.bar_label(rectangles, labels, fontsize=6.5, padding=2)
    bars.set(xlabel="total variation\nafter training", xlim=(0, 0.75))
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Discriminator rewards and what they descend",
    claim=(
        "AIRL's reward descends reverse KL, GAIL's Jensen-Shannon, e^s forward KL; FAIRL's "
        "climbs forward KL, its target."
    ),
    source=(
        "Ho & Ermon 2016 (arXiv 1606.03476); Fu et al. 2018 (arXiv 1710.11248); "
        "Ghasemipour et al. 2019 (arXiv 1911.02256)"
    ),
)
