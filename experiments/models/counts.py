"""Floating point operations that a language model's work needs, and bytes that have to be moved for
it, counted by hand.

A product of [m, k] and [k, n] is 2 m k n operations. Counted are products alone: norms, softmaxes,
rotations and the optimiser are small beside them. Causal attention is counted as half a square, a
gradient as two products for each of the forward pass, nothing twice. Bytes are those of weights,
gradients, moments and caches, each moved once where it is used; what a pass keeps of its batch is
left out, as a cache of the processor may hold it. So both are less than any program takes, and the
time that they give at the machine's own pace is a bound from below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fdiv.lm.spec import Spec

REAL = 4  # bytes of a number
ADAM = 10  # numbers moved for each that is trained: read twice, gradient, moments and itself twice


class Dimensions(NamedTuple):
    """Of a transformer with a gated MLP."""

    vocab: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, spec: Spec) -> Dimensions:
        """Those of a model."""
        return cls(**{name: getattr(spec, name) for name in cls._fields})

    @property
    def kernels(self) -> int:
        """Numbers in the kernels of all layers."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.width * self.hidden)

    @property
    def head(self) -> int:
        """Numbers in the head's weights."""
        return self.vocab * self.width

    def adapters(self, rank: int) -> int:
        """Numbers in adapters of a rank on all seven kernels of each layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = 2 * (self.width + queries) + 2 * (self.width + keys)
        return self.layers * rank * (sides + 3 * (self.width + self.hidden))


class Phase(NamedTuple):
    """A part of a work that the next one waits for."""

    what: str
    flops: float
    bytes: float  # moved
    kept: float  # bytes of the arrays that are moved, each counted once


class Counted(NamedTuple):
    """All of an update's work."""

    phases: tuple[Phase, ...]

    @property
    def flops(self) -> float:
        """Of all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def bytes(self) -> float:
        """Of all phases."""
        return sum(phase.bytes for phase in self.phases)

    def seconds(self, flops_a_second: float, bytes_a_second: float, cache: float = 0) -> float:
        """The least time: each phase at the pace of what holds it up more. What fits into a cache
        of so many bytes need not come from memory."""
        return sum(
            max(
                phase.flops / flops_a_second,
                phase.bytes / bytes_a_second if phase.kept > cache else 0.0,
            )
            for phase in self.phases
        )


def product(rows: int, inner: int, columns: int) -> float:
    """FLOPs of [rows, inner] times [inner, columns]."""
    return 2.0 * rows * inner * columns


def attention(d: Dimensions, strings: int, length: int, after: int = 0) -> float:
    """FLOPs of attention's two products over the columns `after` .. `length` of strings, each of
    which sees itself and those before it."""
    seen = (length * (length + 1) - after * (after + 1)) / 2
    return strings * d.layers * 4.0 * d.heads * d.head_dim * seen


def forward(d: Dimensions, strings: int, length: int, predicted: int, weight: int = REAL) -> Phase:
    """One pass over whole strings, of which so many columns are predicted; `weight` is the bytes of
    a stored weight."""
    columns = strings * length
    flops = 2.0 * (columns * d.kernels + strings * predicted * d.head)
    flops += attention(d, strings, length)
    moved = weight * (d.kernels + d.head)
    return Phase("forward", flops, moved, moved)


def training(
    d: Dimensions,
    strings: int,
    length: int,
    predicted: int,
    rank: int | None = None,
    weight: int = REAL,
) -> Phase:
    """A pass forward and back and the optimiser's step, of all weights or of adapters of a rank. A
    frozen kernel passes the gradient on and has none of its own."""
    core = attention(d, strings, length)
    products = forward(d, strings, length, predicted).flops - core
    if rank is None:
        numbers = REAL * (d.kernels + d.head)
        return Phase("training", 3 * (products + core), ADAM * numbers, 4 * numbers)
    own = d.adapters(rank)
    flops = 2 * products + 3 * core + 6.0 * strings * length * own
    frozen = weight * (d.kernels + d.head)
    moved, held = 2 * frozen + REAL * ADAM * own, frozen + REAL * 4 * own
    return Phase("training", flops, moved, held)


def sampling(
    d: Dimensions,
    strings: int,
    prompt: int,
    new: int,
    prompts: int | None = None,
    weight: int = REAL,
) -> list[Phase]:
    """So many new tokens of each string behind a cache: prompts once each (`prompts` of them, where
    strings share them), then a step a token, each of which reads all weights and its strings'
    cache."""
    first = max(prompt - 1, 0)  # the prompt's last token is read by the first step
    kept = d.layers * 2 * d.kv_heads * d.head_dim * REAL  # bytes of a token in the cache
    read = 2.0 * (prompts or strings) * first * d.kernels
    read += attention(d, prompts or strings, first)
    steps = 2.0 * strings * new * (d.kernels + d.head)
    steps += attention(d, strings, first + new, first)
    seen = sum(first + i + 1 for i in range(new))
    weights = weight * (d.kernels + d.head)
    moved = new * weights + strings * kept * seen
    held = weights + strings * kept * (first + new)
    before = weight * d.kernels if first else 0
    return [Phase("prompts", read, before, before), Phase("steps", steps, moved, held)]


def head(tokens: int, vocab: int, width: int) -> Phase:
    """A divergence of two heads over a vocabulary with its gradients on one's features and weights:
    two products forward, two back."""
    flops = 4 * product(tokens, width, vocab)
    moved = REAL * (3 * vocab * width + 3 * tokens * width)
    return Phase("head", flops, moved, moved)


def together(*phases: Phase | Sequence[Phase]) -> Counted:
    """One after the other."""
    flat: list[Phase] = []
    for phase in phases:
        flat += [phase] if isinstance(phase, Phase) else phase
    return Counted(tuple(flat))
