"""The numbers of each divergence's students in `beyond_three`: sample efficiency, modes,
temperature, stability."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.figures.beyond_three.students import Plan, Students, string_log_probs
from fdiv import exact, statistics
from fdiv.checks import present

NEAR = 0.05  # the gap down to which demonstrations are counted
FAR = 0.05  # a student with the most demonstrations and a larger gap is stuck
LOST = 0.1  # mode B is lost below this share of its true share
MEASURES = ("gap", "js", "forward_kl", "reverse_kl", "valid", "mode_share", "entropy")
CURVE = 60  # temperatures at which SFT is followed


def expert(plan: Plan) -> dict[str, float]:
    """The expert's statistics and entropy."""
    p = exact.law(plan.space, *present(plan.components.mdp.expert, "expert"))
    values = {
        name: exact.expectation(p, f(plan.space.sequences))
        for name, f in plan.components.mdp.statistics.items()
    }
    return {name: float(x) for name, x in values.items()} | {"entropy": float(exact.entropy(p))}


def numbers(
    students: Students, sft: Students, truth: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """For each divergence, everything that the picture and the table show."""
    plan, measures = students.plan, dict(students.measures)
    measures["gap"] = students.gap
    for where in ("", "tempered/"):
        valid, mode_b = measures[f"{where}valid"], measures[f"{where}mode_b"]
        measures[f"{where}mode_share"] = mode_share(valid, mode_b, truth)
    # [divergences, numbers of demonstrations, seeds] and [divergences, seeds, temperatures]
    by_demos = {m: students.by_demos(measures[m])[..., -1] for m in MEASURES}
    tempered = {m: students.by_demos(measures[f"tempered/{m}"])[:, -1] for m in MEASURES[4:]}
    follow = _followed(sft, truth)
    for m in ("valid", "mode_share"):
        tempered[f"{m}_over_sft"] = tempered[m] - follow(m, tempered["entropy"])
    trained = {m: by_demos[m][:, -1, :, None] for m in MEASURES[4:]}
    gains = {
        m: (trained[m] - follow(m, trained["entropy"]))[..., 0] for m in ("valid", "mode_share")
    }
    by_name = {}
    for k, name in enumerate(students.names):
        gaps = [statistics.iqm(x) for x in by_demos["gap"][k]]
        by_name[name] = {
            "optimum": _optimum(plan, students.best[k], truth),
            "demos": {
                str(n): {m: summary(by_demos[m][k, i]) for m in MEASURES}
                for i, n in enumerate(plan.demos)
            },
            "demos_needed": needed(plan.demos, gaps),
            "temperature": {
                f"{t:g}": {m: statistics.iqm(x[k, :, i]) for m, x in tempered.items()}
                for i, t in enumerate(plan.temperatures)
            },
            "over_sft_at_equal_entropy": {m: summary(x[k]) for m, x in gains.items()},
            "stability": {
                f"{rate:g}": _stability({m: students.by_rate(x)[k, i] for m, x in measures.items()})
                for i, rate in enumerate(plan.rates)
            },
        }
    return by_name


def mode_share(valid: np.ndarray, mode_b: np.ndarray, truth: dict[str, float]) -> np.ndarray:
    """Mode B's share of the valid strings over the expert's: 1 is as often as it should be."""
    return mode_b / np.maximum(valid, 1e-30) / (truth["mode_b"] / truth["valid"])


def summary(x: np.ndarray) -> dict[str, Any]:
    """Over seeds; a quarter of them may be infinite before the middle is."""
    with np.errstate(invalid="ignore"):
        return statistics.summarise(x)._asdict()


def needed(demos: tuple[int, ...], gaps: list[float]) -> float:
    """Demonstrations until the gap is NEAR, on straight lines between logarithms; the fewest there
    were, or inf if never."""
    for i, gap in enumerate(gaps):
        if gap <= NEAR:
            if i == 0 or gap <= 0 or math.isinf(gaps[i - 1]):
                return float(demos[i])
            way = math.log(gaps[i - 1] / NEAR) / math.log(gaps[i - 1] / gap)
            return float(demos[i - 1] * (demos[i] / demos[i - 1]) ** way)
    return math.inf


def _optimum(plan: Plan, best: exact.Optimum, truth: dict[str, float]) -> dict[str, Any]:
    q = np.exp(string_log_probs(plan, best.params))
    values = statistics_of(plan, q)
    return {
        "value": best.value,
        "mode_share": float(mode_share(values["valid"], values["mode_b"], truth)),
        **_plain(values),
    }


def statistics_of(plan: Plan, q: np.ndarray) -> dict[str, np.ndarray]:
    """The task's statistics and entropy of laws [..., strings] in double precision."""
    values = {
        name: q @ np.asarray(f(plan.space.sequences), float)
        for name, f in plan.components.mdp.statistics.items()
    }
    return values | {"entropy": -(q * np.log(np.maximum(q, 1e-300))).sum(-1)}


def _plain(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(x) for name, x in values.items()}


def _followed(sft: Students, truth: dict[str, float]) -> Callable[[str, np.ndarray], np.ndarray]:
    """(measure, entropies [divergences, seeds, ...]) -> the measure of each seed's SFT at the
    temperature of that entropy.

    SFT with the most demonstrations; NaN where no temperature in the range gives it that entropy.
    """
    plan = sft.plan
    tables = sft.by_demos(sft.measures["params"])[0, -1]  # [seeds, states, V]
    heat = np.geomspace(min(plan.temperatures), max(plan.temperatures), CURVE)
    # [seeds, CURVE]
    curves = statistics_of(
        plan, np.exp(string_log_probs(plan, tables[:, None] / heat[:, None, None]))
    )
    curves["mode_share"] = mode_share(curves["valid"], curves["mode_b"], truth)
    order = np.argsort(curves["entropy"], axis=1)

    def follow(measure: str, entropy: np.ndarray) -> np.ndarray:
        lines = [(curves["entropy"][i, o], curves[measure][i, o]) for i, o in enumerate(order)]
        return np.stack(
            [np.interp(entropy[:, i], *line, np.nan, np.nan) for i, line in enumerate(lines)],
            axis=1,
        )

    return follow


def _stability(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of the seeds of one divergence and rate, [seeds, ...] each."""
    gap, js = x["gap"][:, -1], x["js"]
    norms = np.nan_to_num(x["gradient_norm"], nan=np.inf, posinf=np.inf)
    late = js[:, -max(2, js.shape[1] // 4) :]
    # A norm of 0: a discriminator warms up.
    typical = [np.median(row[row > 0]) if np.any(row > 0) else math.nan for row in norms]
    with np.errstate(invalid="ignore"):
        peak = float(np.median(norms.max(1) / typical))
    return {
        "stuck": float(np.mean(gap > FAR)),
        "not_finite": float(np.mean(~np.isfinite(x["params"]).all((1, 2)))),
        "mode_b_lost": float(np.mean(~(x["mode_share"][:, -1] >= LOST))),
        "gap": summary(gap),
        "spread": float(gap.max() - gap.min()) if np.isfinite(gap).all() else math.inf,
        "largest_gradient": float(norms.max()),
        "peak_over_median": peak,
        "wobble": float(np.mean(late.std(1))),
    }
