"""Results of runs that were never trained, for tests of what is made of a result."""

from __future__ import annotations

import dataclasses
import re

from experiments.evaluation.frontier import FrontierPoint
from experiments.reporting import results, schema
from experiments.reporting.schema import MethodResult, RunResult
from fdiv.types import Look


def method(scores: dict[str, list[float]], **fields) -> MethodResult:
    """A method with these metrics of its seeds, the rest of no matter but for `fields`."""
    plain = MethodResult(
        minimises="js",
        level="sequence",
        target="A sentence.",
        group="any",
        published=False,
        look=Look(),
        status="ok",
        reason="",
        seconds=1.0,
        compile_seconds=1.0,
        tokens=1.0,
        learning_rate=0.1,
        metrics={name: results.summary(seeds) for name, seeds in scores.items()},
    )
    return dataclasses.replace(plain, **fields)


def run(methods: dict[str, MethodResult], **fields) -> RunResult:
    """A result of these methods: an exact one of two seeds but for `fields`."""
    plain = RunResult(
        complete=True,
        kind="exact",
        benchmark={"name": "markov"},
        policy={"name": "full"},
        seeds=2,
        updates=1,
        batch_size=2,
        demos=0,
        trials=1,
        frontier=[],
        class_optimum={},
        expert={},
        start={},
        methods=methods,
        notes=[],
    )
    return dataclasses.replace(plain, **fields)


def words(page: str) -> str:
    """What a report says, without its scripts, styles, pictures and definitions."""
    page = re.sub(r"<(svg|script|style).*?</\1>", "", page, flags=re.S)
    page = re.sub(r'<span class="term"[^>]*>(.*?)</span>', r"\1", page)
    return re.sub(r' title="[^"]*"', "", page.partition('<section id="terms"')[0])


ENVIRONMENT = {
    "command": "/home/me/fdiv/experiments/compare.py two-template --out /home/me/runs/x",
    "commit": "abc",
    "python": "3",
    "packages": {"jax": "1"},
    "devices": ["cpu"],
    "cores": 2,
}


def shown(names: list[str], far: str) -> RunResult:
    """A run with something for every part of a report; the method `far` is far from the others."""
    methods = {}
    for i, name in enumerate(names):
        level = 30.0 if name == far else 0.1 + 0.02 * i
        js = [min(level, 0.69), min(level + 0.01, 0.692)]
        scores = {
            "js": js,
            "forward_kl": [4 * level, 4.1 * level],
            "reverse_kl": [3 * level, 3.2 * level],
            "tv": [0.2, 0.21],
            "valid": [0.7, 0.8],
            "entropy": [2.0 + i, 2.1 + i],
            "d_accuracy": [0.6, 0.7],
            "accuracy": [0.3, 0.4],
            "pass_8": [0.5, 0.6],
            "divergence_to_reference": [level, 1.1 * level],
            "reward": [0.5, 0.6],
        }
        gap = results.summary([level, level])
        methods[name] = method(
            scores,
            minimises=("forward_kl", "js", "alpha:0.5", "reverse_kl")[i % 4],
            gap=schema.Gap(**vars(gap), ended_in=[0, 0], local_optima=[0.1]),
            best=0.1,
            tokens=100.0 * (1 + i),
            seconds=2.0 + i,
            temperatures=[{"temperature": t, "entropy": 2 + t, "valid": 0.7} for t in (0.5, 1.0)],
            look=Look(marker="os^D"[i % 4]),
        )
    whole = run(
        methods,
        benchmark={"name": "two_template", "vocab": 2},
        frontier=[FrontierPoint(b, d, r) for b, d, r in ((1, 0.1, 0.5), (0.1, 0.5, 0.9))],
        class_optimum={"js": {"entropy": 2.2, "valid": 0.75, "forward_kl": 0.4, "reverse_kl": 0.3}},
        expert={"js": 0.0, "valid": 0.9, "entropy": 2.5, "forward_kl": 0.0, "reverse_kl": 0.0},
        start={"js": 0.3, "valid": 0.1, "entropy": 4.0},
        notes=["The data is /home/me/rows.jsonl."],
    )
    return results.compared(whole, names[0])


def history(result: RunResult, points: int = 6) -> list[schema.HistoryLine]:
    """Lines of its training, towards where its methods ended."""
    return [
        {
            "method": name,
            "seed": seed,
            "update": 10 * i,
            "tokens": 1000.0 * i,
            "seconds": 0.5 * i,
            "own": 0.2 + 1.0 / (1 + i),
            "gradient_norm": 1.0 / (1 + i),
            "proxy": 0.2 * i,
        }
        | {metric: x.seeds[seed] * (1 + 1 / (1 + i)) for metric, x in m.metrics.items()}
        | {"divergence_to_reference": 0.1 * i, "reward": 0.1 * i}
        for name, m in result.methods.items()
        for seed in range(2)
        for i in range(points)
    ]
