"""Results of runs that were never trained, for tests of what is made of a result."""

from __future__ import annotations

import dataclasses
import re

from experiments.reporting import results
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
