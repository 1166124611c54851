"""Memory and time of a divergence over a large vocabulary, plain, checkpointed and fused: `python
-m experiments.speed head [flags]`.

Each way gives a divergence's value and its gradients on the policy's features [N, D] and weights
[V, D]. Memory is the compiler's plan for N tokens (temporaries and results, the arguments left
out), so nothing of that size is run. Time is taken for fewer tokens, the ways in turn within each
repetition, and compared as ratios to the plain way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import cli
from fdiv.checks import present
from fdiv.ranges import MOST_SYMBOLS, check_ranges, ranged

if TYPE_CHECKING:  # loaded once the command line has been answered
    import jax

CHECKPOINTED = 256  # tokens of a chunk that is computed again
LESS = 15  # times less memory than the plain way is wanted


@dataclasses.dataclass(frozen=True)
class Options:
    """Memory and time of the head: plain, checkpointed and fused."""

    vocabularies: tuple[int, ...] = ranged((49_152, 151_936), least=2, most=MOST_SYMBOLS)
    """Symbols V."""
    tokens: int = ranged(4096, least=1)
    """Tokens N that memory is planned for."""
    timed_tokens: int = ranged(512, least=1)
    """Tokens that are computed, to be timed."""
    width: int = ranged(576, least=1)
    """Features D."""
    divergence: str = "js"
    """Any member of the family."""
    repetitions: int = ranged(5, least=1)
    """How often each way is timed."""
    chunk: int | None = ranged(None, least=1)
    """Tokens in a chunk of the fused way; none: the package's own choice."""


class Measured(NamedTuple):
    """One way at one vocabulary."""

    way: str
    vocab: int
    mebibytes: float
    seconds: list[float]  # of each repetition
    processor_seconds: list[float]  # of all threads


def main(argv: list[str]) -> int:
    """Print the table; 1 where the fused way takes more than a fifteenth of the plain one's
    memory."""
    return cli.script("python -m experiments.speed head", Options, __doc__, _measure_all, argv)


def _measure_all(options: Options) -> int:
    check_ranges(options)
    known = ways(options)
    measured = [row for vocab in options.vocabularies for row in measure(options, known, vocab)]
    _print(options, measured)
    return int(any(_memory_ratio(measured, x) * LESS > 1 for x in measured if x.way == "fused"))


def ways(options: Options) -> dict[str, Callable]:
    """name -> (features, weights, the target's features, the target's weights) -> the mean
    divergence."""
    import jax

    from fdiv import divergences, head

    d = divergences.parse(options.divergence)

    def each(h: jax.Array, w: jax.Array, other: jax.Array, other_w: jax.Array) -> jax.Array:
        log_p, log_q = (jax.nn.log_softmax(x @ y.T) for x, y in ((other, other_w), (h, w)))
        return d.perspective(log_p, log_q).sum(-1)

    def checkpointed(h: jax.Array, w: jax.Array, other: jax.Array, other_w: jax.Array) -> jax.Array:
        size = min(CHECKPOINTED, len(h))
        split = lambda x: x[: len(h) // size * size].reshape(-1, size, x.shape[-1])
        one = jax.checkpoint(lambda xs: each(xs[0], w, xs[1], other_w))
        return jax.lax.map(one, (split(h), split(other))).mean()

    def fused(h: jax.Array, w: jax.Array, other: jax.Array, other_w: jax.Array) -> jax.Array:
        own, target = (head.Head(x, head.Readout(y)) for x, y in ((h, w), (other, other_w)))
        weights = jax.numpy.full(len(h), 1 / len(h))
        return head.divergence(d, own, target, weights, options.chunk)

    return {
        "plain": lambda *arrays: each(*arrays).mean(),
        "checkpointed": checkpointed,
        "fused": fused,
    }


def measure(options: Options, ways: dict[str, Callable], vocab: int) -> list[Measured]:
    """Every way at one vocabulary: memory for all tokens, time for fewer."""
    import jax

    programs = {name: jax.jit(jax.value_and_grad(way, (0, 1))) for name, way in ways.items()}
    planned = {
        name: _mebibytes(program.lower(*_sizes(options.tokens, vocab, options.width)).compile())
        for name, program in programs.items()
    }
    draw = np.random.default_rng(0)
    arrays = [
        jax.numpy.asarray(draw.standard_normal(x.shape, np.float32) / options.width**0.25)
        for x in _sizes(options.timed_tokens, vocab, options.width)
    ]
    compiled = {name: program.lower(*arrays).compile() for name, program in programs.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repetition in range(options.repetitions + 1):
        for name, program in compiled.items():
            taken = _time(program, arrays)
            if repetition:  # the first one touches new memory
                times[name].append(taken)
    return [Measured(name, vocab, planned[name], *map(list, zip(*times[name]))) for name in ways]


def _sizes(tokens: int, vocab: int, width: int) -> list[jax.ShapeDtypeStruct]:
    import jax

    return [jax.ShapeDtypeStruct((n, width), np.float32) for n in (tokens, vocab) * 2]


def _mebibytes(compiled: jax.stages.Compiled) -> float:
    """Of temporaries and results, as the compiler plans them."""
    plan = present(compiled.memory_analysis(), "memory plan")
    return (plan.temp_size_in_bytes + plan.output_size_in_bytes) / 2**20


def _time(program: Callable, arrays: list) -> tuple[float, float]:
    """Seconds, and seconds of all threads."""
    import jax

    began = time.perf_counter(), time.process_time()
    jax.block_until_ready(program(*arrays))
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _plain(measured: list[Measured], row: Measured) -> Measured:
    return next(x for x in measured if (x.way, x.vocab) == ("plain", row.vocab))


def _memory_ratio(measured: list[Measured], row: Measured) -> float:
    return row.mebibytes / _plain(measured, row).mebibytes


def _time_ratio(mine: list[float], plain: list[float]) -> float:
    """Median over repetitions of the ratio within each: what else the machine does, both bear."""
    return float(np.median(np.array(mine) / np.array(plain)))


def _print(options: Options, measured: list[Measured]) -> None:
    import jax

    from experiments.running.console import print_table

    titles = ["V", "way", "MiB", "/plain", "CPU-s", "/plain", "s/plain"]
    rows = []
    for row in measured:
        plain = _plain(measured, row)
        rows.append(
            [
                f"{row.vocab:,}",
                row.way,
                f"{row.mebibytes:,.0f}",
                f"1/{1 / _memory_ratio(measured, row):.1f}",
                f"{np.median(row.processor_seconds):.2f}",
                f"{_time_ratio(row.processor_seconds, plain.processor_seconds):.2f}",
                f"{_time_ratio(row.seconds, plain.seconds):.2f}",
            ]
        )
    device = jax.devices()[0].device_kind
    caption = (
        f"{options.divergence}, D = {options.width}, float32, {device}. Memory: the compiler's "
        f"plan for {options.tokens:,} tokens, temporaries and results. Time: "
        f"{options.timed_tokens:,} tokens, median of {options.repetitions} repetitions, the ways "
        "in turn; ratios are medians of those within a repetition, of all threads' seconds and of "
        "the clock's."
    )
    print_table(titles, rows, caption)
