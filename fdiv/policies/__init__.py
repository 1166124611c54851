"""Policies and scorers by name: an architecture is a name and the sizes that this name has."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from fdiv.policies import tabular
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
    order: int | None = None
    """markov and markov_t: how many tokens back they look (1)."""
    layers: int | None = None
    """transformer: layers (2)."""
    width: int | None = None
    """transformer: width of the residual stream (64)."""
    heads: int | None = None
    """transformer: attention heads (4)."""
    kv_heads: int | None = None
    """transformer: heads of keys and values, shared by groups of heads (2)."""
    window: int | None = None
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
        if self.name not in SIZES:
            raise UsageError(
                "name",
                self.name,
                "is not an architecture.",
                f"Use one of {', '.join(SIZES)}.",
            )
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
        if given.get("order", 0) < 0:
            raise UsageError("order", given["order"], "is negative.", "Give 0 or more.")
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
        return tabular.AUTOMATA[self.name](vocab, length, **self.sizes())

    def _table(self, vocab: int, length: int) -> tabular.Automaton:
        """The automaton of a table that is small enough to be made."""
        automaton = self.automaton(vocab, length)
        try:
            tabular.refuse_large(automaton, vocab)
        except UsageError as error:
            raise UsageError("name", self.name, error.problem, error.fix) from error
        return automaton

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
