"""f-DPO's population minimiser, and what a budget buys: `python -m experiments.figures f_dpo
[--arms N --budgets B ...]`.

Here u = pi/ref and D_f(pi||ref) = E_ref[f(u)]: forward_kl is KL(pi||ref), DPO's own, and reverse_kl
is KL(ref||pi).

    f-DPO        least E[-log sigmoid(beta (f'(u_w) - f'(u_l)))], preferences Bradley-Terry in the true reward r
    regularised  most E_pi r - beta D_f(pi||ref): beta f'(u_i) = r_i + c, no arm at 0 wherever f'(0) = -inf

The two laws agree within 1e-5, and where every f may spend the same amount of one divergence, the
one of that divergence earns most. Equal betas prove nothing: what they buy changes with the scale
of f."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Check, Figure, Result, near
from experiments.figures.f_dpo.laws import cost, interior, optimum, preferred, spend
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import at_least, between
from fdiv.types import Divergence, UsageError

SHARES = np.geomspace(0.02, 1, 15)  # of the first budget, along the curve


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
    at_least("seed", flags.seed, 0)
    between("beta", flags.beta, 0.099, 100)
    draw = np.random.default_rng(flags.seed)
    rewards, log_ref = draw.standard_normal(flags.arms), np.log(draw.dirichlet(np.ones(flags.arms)))
    with jax.enable_x64(True):
        family = interior()
        names = _budgets(flags, family)
        best = jax.jit(
            lambda: {name: optimum(d, rewards, log_ref, flags.beta) for name, d in family.items()}
        )()
        gap = {
            k: float(
                jnp.abs(
                    jnp.exp(preferred(d, rewards, log_ref, flags.beta)) - jnp.exp(best[k])
                ).max()
            )
            for k, d in family.items()
        }
        amount = {name: float(cost(family[name], best[name], log_ref)) for name in names}
        asked = [*amount.items(), *((names[0], x * amount[names[0]]) for x in SHARES)]
        laws = {
            k: np.asarray(spend(d, asked, family, rewards, log_ref)) for k, d in family.items()
        }  # [asked, arms]
        checks = [
            near(f"f-DPO's minimiser under {k} is the optimum", x, 0.0, 1e-5)
            for k, x in gap.items()
        ]
        checks += [_stationary(d, rewards, log_ref, flags.beta, best[k]) for k, d in family.items()]
        off = {
            k: max(
                abs(float(cost(family[k], law[i], log_ref)) - amount[k]) for law in laws.values()
            )
            for i, k in enumerate(names)
        }
    earned = {k: np.exp(law) @ rewards for k, law in laws.items()}
    table = {name: {k: float(earned[k][i]) for k in family} for i, name in enumerate(names)}
    checks += [
        near(f"all spend the same {k}", x, 0.0, 1e-7 * (1 + amount[k])) for k, x in off.items()
    ]
    checks += [
        near(f"{k} earns most on its own budget", row[k], max(row.values()), 1e-7)
        for k, row in table.items()
    ]
    values = {
        "minimiser_gap": gap, "reward_at_budget": table, "budget": amount,
        "reward_at_equal_beta": {k: float(np.exp(log_pi) @ rewards) for k, log_pi in best.items()},
        "reference_reward": float(np.exp(log_ref) @ rewards),
    }  # fmt: skip
    rows = [
        {"trained": k, "minimiser_gap": gap[k]}
        | {f"reward at {name}": table[name][k] for name in names}
        for k in family
    ]
    curve = [
        {"trained": k, "budget": name, "amount": x, "reward": float(reward)}
        for k in family for (name, x), reward in zip(asked[len(names) :], earned[k][len(names) :])
    ]  # fmt: skip
    return Result(values, checks, rows, _picture(values, curve), [*rows, *curve])


def _budgets(flags: Flags, family: dict[str, Divergence]) -> list[str]:
    names = [divergences.parse(name).name for name in flags.budgets]
    for name in names:
        if name not in family:
            fix = f"Use some of {', '.join(family)}."
            raise UsageError(
                "budgets",
                name,
                "no member that the figure trains: f'(0) = -inf, at the default parameter.",
                fix,
            )
    if not names or len(set(names)) < len(names):
        raise UsageError(
            "budgets", flags.budgets, "is empty or names one twice.", "Name each divergence once."
        )
    return names


def _stationary(d: Divergence, rewards, log_ref, beta: float, log_pi) -> Check:
    """E_pi r - beta D is concave in pi: best where its slopes, by automatic differentiation, are
    all the same."""
    slopes = rewards - beta * np.asarray(
        jax.grad(lambda pi: cost(d, jnp.log(pi), log_ref))(jnp.exp(log_pi))
    )
    return near(
        f"slopes of the regularised reward under {d.name} differ by",
        float(np.ptp(slopes)),
        0.0,
        1e-6 * (1 + np.ptp(rewards)),
    )


def _picture(values: dict, curve: list[dict]):
    """What is lost against the best at the same budget, as a share of the best's gain over the
    reference."""
    style.use()
    figure, (lines, grid) = plt.subplots(
        1, 2, figsize=(6.8, 3.1), width_ratios=(1, 1.35), layout="constrained"
    )
    plain, table, names = (
        values["reference_reward"],
        values["reward_at_budget"],
        list(values["minimiser_gap"]),
    )
    budget = next(iter(table))
    rewards = {k: np.array([row["reward"] for row in curve if row["trained"] == k]) for k in names}
    for k, reward in rewards.items():
        lost = 100 * (1 - (reward - plain) / (rewards[budget] - plain))
        amount = [row["amount"] for row in curve if row["trained"] == k]
        lines.plot(
            amount,
            lost,
            color=style.colour(k),
            linestyle="--" if ":" in k else "-",
            label=k,
            linewidth=1.3,
        )
    lines.set(xlabel=f"{budget} spent (nats)", ylabel="gain lost (%)", xscale="log")
    gains = np.array([[row[k] - plain for k in names] for row in table.values()])
    lost = 100 * (1 - gains / gains.max(1, keepdims=True))
    shown = grid.imshow(lost, cmap="Greys", vmin=0, aspect="auto")
    grid.set(
        xticks=range(len(names)),
        yticks=range(len(table)),
        yticklabels=list(table),
        ylabel="budget in",
        xlabel="trained",
    )
    grid.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor")
    for label in (*grid.get_xticklabels(), *grid.get_yticklabels()):
        label.set_color(style.colour(label.get_text()))  # these are the legend of the lines as well
    grid.grid(visible=False)
    figure.colorbar(shown, label="gain lost (%)")
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
