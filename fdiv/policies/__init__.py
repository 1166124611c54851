"""Policies and scorers by name: an architecture is a name and the sizes that this name has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from fdiv.policies import tabular
from fdiv.ranges import LONGEST, MOST_LAYERS, check_ranges, ranged
from fdiv.types import Policy, Scorer, UsageError

Name = Literal["independent", "markov", "markov_t", "full", "transformer"]
SIZES = {
    "independent": (),
    "markov": ("order",),
    "markov_t": ("order",),
    "full": (),
    "transformer": (
        "layers",
        "width",
        "heads",
        "kv_heads",
        "window",
        "precision",
        "remat",
        "attention",
    ),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A class of policies (or of scorers)."""

    name: Name = "markov"
    """independent, markov (last tokens), markov_t (and the position), full (whole prefix) or
    transformer."""
    order: int | None = ranged(None, least=0, most=LONGEST)
    """markov and markov_t: how many tokens back they look (1)."""
    layers: int | None = ranged(None, least=1, most=MOST_LAYERS)
    """transformer: layers (2)."""
    width: int | None = ranged(None, least=1)
    """transformer: width of the residual stream (64)."""
    heads: int | None = ranged(None, least=1)
    """transformer: attention heads (4)."""
    kv_heads: int | None = ranged(None, least=1)
    """transformer: heads of keys and values, shared by groups of heads (2)."""
    window: int | None = ranged(None, least=1)
    """transformer: how many tokens back attention reaches (all)."""
    precision: Literal["float32", "bfloat16"] | None = None
    """transformer: bfloat16 multiplies in half the width, and keeps parameters and sums in float32
    (float32)."""
    remat: bool | None = None
    """transformer: compute layers again for the gradient rather than keep them in memory (no)."""
    attention: Literal["auto", "xla", "cudnn"] | None = None
    """transformer: what computes it; auto is cuDNN's fused kernel in bfloat16 on an NVIDIA GPU,
    XLA's elsewhere (auto)."""

    def sizes(self) -> dict[str, Any]:
        """The sizes given. Raises `UsageError` for one that this architecture does not have."""
        check_ranges(self)
        given = {k: v for k, v in dataclasses.asdict(self).items() if k != "name" and v is not None}
        for key, value in given.items():
            if key not in SIZES[self.name]:
                owners = " or ".join(name for name, sizes in SIZES.items() if key in sizes)
                raise UsageError(
                    key,
                    value,
                    f"{self.name} has no such size.",
                    f"Drop it, or use {owners}.",
                )
        return given

    @property
    def kernel(self) -> str | None:
        """What computes attention on the present devices; nothing for a table."""
        if self.name != "transformer":
            return None
        from fdiv.policies import transformer

        return transformer.Shape(**self.sizes()).kernel

    def policy(self, vocab: int, length: int) -> Policy:
        """For strings over `vocab` symbols of at most `length` tokens, prompt included."""
        sizes = self.sizes()
        if self.name == "transformer":
            from fdiv.policies import (
                transformer,  # flax is the slowest import of all, and tables do not need it
            )

            return transformer.policy(transformer.Shape(**sizes), vocab)
        automaton = self._table(vocab, length)
        return tabular.policy(automaton, vocab)

    def automaton(self, vocab: int, length: int) -> tabular.Automaton:
        """What a table of this class reads of the prefix."""
        sizes = self.sizes()
        with self._blamed():
            return tabular.AUTOMATA[self.name](vocab, length, **sizes)

    def _table(self, vocab: int, length: int) -> tabular.Automaton:
        """The automaton of a table that is small enough to be made."""
        automaton = self.automaton(vocab, length)
        with self._blamed():
            tabular.refuse_large(automaton, vocab)
        return automaton

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """A table that is too large is laid to the order, where one is given, else to the name."""
        try:
            yield
        except UsageError as error:
            field = "name" if self.order is None else "order"
            raise UsageError(field, getattr(self, field), error.problem, error.fix) from error

    def scorer(
        self,
        vocab: int,
        length: int,
        policy: Architecture | None = None,
        outputs: int | None = None,
    ) -> Scorer:
        """The same architecture giving one number per (prefix, token); it begins from a policy's
        trunk if that is alike.

        With `outputs` so many numbers per prefix instead: one for a value function.
        """
        sizes = self.sizes()
        if self.name == "transformer":
            from fdiv.policies import transformer

            return transformer.scorer(transformer.Shape(**sizes), vocab, self == policy, outputs)
        return tabular.scorer(self._table(vocab, length), vocab, outputs)
