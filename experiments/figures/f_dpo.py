"""f-DPO's population minimiser, and what a budget buys: `python -m experiments.figures f_dpo
[--arms N --budgets B ...]`.

The family is turned round here: u = pi/ref and D_f(pi||ref) = E_ref[f(u)], so that forward_kl is
KL(pi||ref), DPO's own, and reverse_kl is KL(ref||pi).

    f-DPO        least E[-log sigmoid(beta (f'(u_w) - f'(u_l)))],
                 preferences Bradley-Terry in the true reward r
    regularised  most E_pi r - beta D_f(pi||ref): beta f'(u_i) = r_i + c,
                 no arm at 0 wherever f'(0) = -inf

The two laws agree within 1e-5, and where every f may spend the same amount of one divergence, the
one of that divergence earns most. Equal betas prove nothing: what they buy changes with the scale
of f."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.reporting import style
from fdiv import divergences, exact, regularised
from fdiv.checks import at_least, between, seeding
from fdiv.divergences import swapped
from fdiv.regularised import bisect
from fdiv.types import Divergence, UsageError

SHARES = np.geomspace(0.02, 1, 15)  # of the first budget, along the curve
BETAS = (1e-30, 1e6)  # the range in which budgets are met


@dataclasses.dataclass(frozen=True)
class Flags:
    """Random rewards and a random reference over a few arms."""

    arms: int = 6
    """Number of answers."""
    seed: int = 0
    """Which rewards (standard normal) and which reference (Dirichlet(1))."""
    budgets: tuple[str, ...] = (
        "forward_kl",
        "reverse_kl",
        "js",
        "hellinger2",
        "neyman_chi2",
        "jeffreys",
    )
    """Divergences that budgets are measured in; each allows what its own optimum at `beta`
    spends."""
    beta: float = 0.5
    """Weight of the divergence."""


def make(flags: Flags) -> Result:
    """The minimiser and the optimum of each f, then every f at every budget."""
    at_least("arms", flags.arms, 2)
    seeding("seed", flags.seed)
    between("beta", flags.beta, 0.099, 100)
    draw = np.random.default_rng(flags.seed)
    rewards, log_ref = draw.standard_normal(flags.arms), np.log(draw.dirichlet(np.ones(flags.arms)))
    with jax.enable_x64(True):
        family = interior()
        names = _budgets(flags, family)
        best = jax.jit(
            lambda: {name: optimum(d, rewards, log_ref, flags.beta) for name, d in family.items()}
        )()
        gap = {k: _gap(d, rewards, log_ref, flags.beta, best[k]) for k, d in family.items()}
        amount = {name: float(cost(family[name], best[name], log_ref)) for name in names}
        budgets = [*amount.items(), *((names[0], x * amount[names[0]]) for x in SHARES)]
        # [budgets, arms]
        laws = {
            k: np.asarray(spend(d, budgets, family, rewards, log_ref)) for k, d in family.items()
        }
        checks = [
            near(f"f-DPO's minimiser under {k} is the optimum", gap[k], 0.0, 1e-5) for k in gap
        ]
        checks += [_stationary(d, rewards, log_ref, flags.beta, best[k]) for k, d in family.items()]
        for i, k in enumerate(names):
            costs = [float(cost(family[k], law[i], log_ref)) for law in laws.values()]
            off = max(abs(x - amount[k]) for x in costs)
            checks.append(near(f"all spend the same {k}", off, 0.0, 1e-7 * (1 + amount[k])))
    reward = {k: np.exp(law) @ rewards for k, law in laws.items()}  # [budgets]
    table = {name: {k: float(reward[k][i]) for k in family} for i, name in enumerate(names)}
    for k, row in table.items():
        checks.append(near(f"{k} earns most on its own budget", row[k], max(row.values()), 1e-7))
    values = {
        "minimiser_gap": gap,
        "reward_at_budget": table,
        "budget": amount,
        "reward_at_equal_beta": {k: float(np.exp(log_pi) @ rewards) for k, log_pi in best.items()},
        "reference_reward": float(np.exp(log_ref) @ rewards),
    }
    rows = [
        {"trained": k, "minimiser_gap": gap[k]} | {f"reward at {n}": table[n][k] for n in names}
        for k in family
    ]
    curve = [
        {"trained": k, "budget": name, "amount": x, "reward": float(y)}
        for k in family
        for (name, x), y in list(zip(budgets, reward[k]))[len(names) :]
    ]
    return Result(values, checks, rows, _picture(values, curve), [*rows, *curve])


# --- laws over a few arms, in double precision under `jax.enable_x64` -----------------------------


def interior() -> dict[str, Divergence]:
    """Members of the family with f'(0) = -inf, under which every arm keeps some mass."""
    family = divergences.every().items()
    return {name: d for name, d in family if regularised.keeps_support(swapped(d))}


def optimum(d: Divergence, rewards: np.ndarray, log_ref: np.ndarray, beta: float | Array) -> Array:
    """log pi of the most E_pi r - beta D_f(pi||ref)."""
    # pyrefly: ignore[bad-argument-type]
    return regularised.optimum(swapped(d), rewards, log_ref, beta)


def preferred(d: Divergence, rewards: np.ndarray, log_ref: np.ndarray, beta: float) -> np.ndarray:
    """log pi of f-DPO's population minimiser over pairs drawn from the reference, by L-BFGS from
    the reference."""
    chance = 1 / (1 + np.exp(rewards[None] - rewards[:, None]))  # [winner, loser]
    pairs = np.exp(log_ref[:, None] + log_ref[None]) * chance

    def loss(logits: Array) -> Array:
        margin = beta * d.witness(jax.nn.log_softmax(logits) - log_ref)
        return -jnp.sum(pairs * jax.nn.log_sigmoid(margin[:, None] - margin[None]))

    return np.asarray(jax.nn.log_softmax(exact.best_policy([loss], [log_ref]).params))


def cost(d: Divergence, log_pi: Array, log_ref: np.ndarray) -> Array:
    """D_f(pi||ref), over the last axis."""
    # pyrefly: ignore[bad-argument-type]
    return d.perspective(log_pi, log_ref).sum(-1)


def spend(
    d: Divergence,
    budgets: list[tuple[str, float]],
    family: dict[str, Divergence],
    rewards: np.ndarray,
    log_ref: np.ndarray,
) -> Array:
    """d's optimum at each budget (divergence, amount), by the beta that spends it. [budgets,
    arms]"""
    names = list(family)

    def one(kind: Array, amount: Array) -> Array:
        def law(log_beta: Array) -> Array:
            return optimum(d, rewards, log_ref, jnp.exp(log_beta))

        def over(x: Array) -> Array:
            costs = [cost(family[name], law(-x), log_ref) for name in names]
            return jnp.stack(costs)[kind] - amount

        # pyrefly: ignore[bad-argument-type]
        return law(-bisect(over, -jnp.log(BETAS[1]), -jnp.log(BETAS[0])))

    kinds = jnp.array([names.index(name) for name, _ in budgets])
    return jax.jit(jax.vmap(one))(kinds, jnp.array([amount for _, amount in budgets]))


def _gap(
    d: Divergence, rewards: np.ndarray, log_ref: np.ndarray, beta: float, best: Array
) -> float:
    """The largest difference of probability between f-DPO's minimiser and the optimum."""
    minimiser = preferred(d, rewards, log_ref, beta)
    return float(jnp.abs(jnp.exp(minimiser) - jnp.exp(best)).max())


def _budgets(flags: Flags, family: dict[str, Divergence]) -> list[str]:
    names = [divergences.parse(name).name for name in flags.budgets]
    for name in names:
        if name not in family:
            problem = "no member that the figure trains: f'(0) = -inf, at the default parameter."
            raise UsageError("budgets", name, problem, f"Use some of {', '.join(family)}.")
    distinct("budgets", names)
    return names


def _stationary(
    d: Divergence, rewards: np.ndarray, log_ref: np.ndarray, beta: float, log_pi: Array
) -> Check:
    """E_pi r - beta D is concave in pi: best where its slopes, by automatic differentiation, are
    all the same."""
    slope = jax.grad(lambda pi: cost(d, jnp.log(pi), log_ref))(jnp.exp(log_pi))
    apart = float(np.ptp(rewards - beta * np.asarray(slope)))
    name = f"slopes of the regularised reward under {d.name} differ by"
    return near(name, apart, 0.0, 1e-6 * (1 + np.ptp(rewards)))


def _picture(values: dict, curve: list[Row]) -> Picture:
    """What is lost against the best at the same budget, as a share of the best's gain over the
    reference."""
    style.use()
    shape = {"figsize": (6.8, 3.1), "width_ratios": (1, 1.35), "layout": "constrained"}
    figure, (lines, grid) = plt.subplots(1, 2, **shape)
    plain, table = values["reference_reward"], values["reward_at_budget"]
    names, budget = list(values["minimiser_gap"]), next(iter(table))
    rewards = {k: np.array([row["reward"] for row in curve if row["trained"] == k]) for k in names}
    for k, reward in rewards.items():
        lost = 100 * (1 - (reward - plain) / (rewards[budget] - plain))
        amount = [row["amount"] for row in curve if row["trained"] == k]
        look = {"color": style.colour(k), "linestyle": "--" if ":" in k else "-"}
        lines.plot(amount, lost, label=k, linewidth=1.3, **look)
    lines.set(xlabel=f"{budget} spent (nats)", ylabel="gain lost (%)", xscale="log")
    gains = np.array([[row[k] - plain for k in names] for row in table.values()])
    lost = 100 * (1 - gains / gains.max(1, keepdims=True))
    image = grid.imshow(lost, cmap="Greys", vmin=0, aspect="auto")
    grid.set(xticks=range(len(names)), xlabel="trained", ylabel="budget in")
    grid.set(yticks=range(len(table)), yticklabels=list(table))
    grid.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor")
    for label in (*grid.get_xticklabels(), *grid.get_yticklabels()):
        label.set_color(style.colour(label.get_text()))  # these are the legend of the lines as well
    grid.grid(visible=False)
    figure.colorbar(image, label="gain lost (%)")
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="f-DPO and what a budget buys",
    claim=(
        "f-DPO learns the f-regularised optimum, and each f earns most where the budget is "
        "measured in that same f."
    ),
    source=(
        "Wang et al. 2023 (arXiv 2309.16240), Beyond Reverse KL; Rafailov et al. 2023 "
        "(arXiv 2305.18290) for DPO"
    ),
)
