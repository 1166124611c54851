"""Policies and scorers by name: an architecture is a name and the sizes that this name has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from fdiv.lm.lora import Lora
from fdiv.policies import tabular
from fdiv.policies.function import from_function
from fdiv.ranges import LONGEST, MOST_LAYERS, check_ranges, ranged
from fdiv.types import Policy, Scorer, UsageError

__all__ = ["NETWORKS", "SIZES", "Architecture", "from_function"]

Name = Literal["independent", "markov", "markov_t", "full", "transformer", "hf"]
NETWORKS = ("transformer", "hf")  # whose parameters are no table
COMPUTED = ("precision", "remat", "remat_policy", "attention")  # how a network is computed
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
        *COMPUTED,
    ),
    "hf": ("path", "without_layers", "init", "stored", "lora", *COMPUTED),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A class of policies (or of scorers)."""

    name: Name = "markov"
    """independent, markov (last tokens), markov_t (and the position), full (whole prefix),
    transformer, or hf (a pretrained language model)."""
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
    """transformer and hf: bfloat16 multiplies in half the width, and keeps parameters and sums in
    float32 (float32)."""
    remat: bool | None = None
    """transformer and hf: compute layers again for the gradient rather than keep them in memory
    (transformer: no, hf: yes)."""
    remat_policy: (
        Literal["nothing_saveable", "dots_with_no_batch_dims_saveable", "dots_saveable"] | None
    ) = None
    """transformer and hf: what a layer that is computed again keeps all the same, by JAX's names:
    nothing, the products with weights, or attention's too (nothing_saveable)."""
    attention: Literal["auto", "xla", "cudnn"] | None = None
    """transformer and hf: what computes it; auto is cuDNN's fused kernel in bfloat16 on an NVIDIA
    GPU, XLA's elsewhere (auto)."""
    path: str | None = None
    """hf: a folder in the Hugging Face layout, a GGUF file, or hf://ORGANISATION/NAME."""
    without_layers: tuple[str, ...] | None = None
    """hf: layers to leave out, counted from 0, as numbers and ranges: 12-17 20 (none)."""
    init: Literal["weights", "random"] | None = None
    """hf: start from the model's weights, or its architecture alone from random ones (weights)."""
    stored: Literal["file", "float32"] | None = None
    """hf: the type that frozen weights are kept in; bfloat16 and float16 hold the same numbers in
    half the memory, and take a conversion at each use (file)."""
    lora: Lora = dataclasses.field(default_factory=Lora)
    """hf: adapters to train in place of the weights."""

    def sizes(self) -> dict[str, Any]:
        """The sizes given. Raises `UsageError` for one that this architecture does not have."""
        check_ranges(self)
        given = {
            name: getattr(self, name)
            for name, usual in _UNSET.items()
            if getattr(self, name) != usual
        }
        for key, value in given.items():
            if key not in SIZES[self.name]:
                owners = " or ".join(name for name, sizes in SIZES.items() if key in sizes)
                if isinstance(value, Lora):
                    inner, value = next(iter(value.given().items()))
                    key = f"{key}.{inner}"
                raise UsageError(
                    key,
                    value,
                    f"{self.name} has no such size.",
                    f"Drop it, or use {owners}.",
                )
        if self.remat_policy is not None and self.remat is False:
            problem = "says what is kept of layers that are computed again, and none is."
            raise UsageError("remat_policy", self.remat_policy, problem, "Drop it, or remat False.")
        return given

    @property
    def kernel(self) -> str | None:
        """What computes attention on the present devices; nothing for a table, nor for a model
        whose file has to say what it is."""
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
        self.refuse_pretrained()
        automaton = self._table(vocab, length)
        return tabular.policy(automaton, vocab)

    def automaton(self, vocab: int, length: int) -> tabular.Automaton:
        """What a table of this class reads of the prefix."""
        sizes = self.sizes()
        self.refuse_pretrained()
        with self._blamed():
            return tabular.AUTOMATA[self.name](vocab, length, **sizes)

    def _table(self, vocab: int, length: int) -> tabular.Automaton:
        """The automaton of a table that is small enough to be made."""
        automaton = self.automaton(vocab, length)
        with self._blamed():
            tabular.refuse_large(automaton, vocab)
        return automaton

    def refuse_pretrained(self) -> None:
        """Raise `UsageError` for what is made of files, which are read above the core."""
        if self.name == "hf":
            others = "markov, full or transformer"
            problem = "is a pretrained language model, which serves as a policy alone."
            raise UsageError("name", self.name, problem, f"Use {others} here.")

    def kept_layers(self, layers: int) -> tuple[int, ...]:
        """Those of so many layers that are not left out. Raises `UsageError` for one that is not
        there."""
        left_out = {layer for text in self.without_layers or () for layer in _layers(text)}
        if beyond := sorted(left_out - set(range(layers))):
            problem = f"names layer {beyond[0]}, and the model has {layers}, counted from 0."
            fix = f"Name layers up to {layers - 1}."
            raise UsageError("without_layers", self.without_layers, problem, fix)
        kept = tuple(layer for layer in range(layers) if layer not in left_out)
        if not kept:
            fix = "Leave at least one."
            raise UsageError("without_layers", self.without_layers, "leaves no layer.", fix)
        return kept

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


_UNSET = {  # what a field holds where it is not given
    field.name: field.default if field.default is not dataclasses.MISSING else Lora()
    for field in dataclasses.fields(Architecture)
    if field.name != "name"
}


def _layers(text: str) -> range:
    """`12-17` or `20`. Raises `UsageError` for other text."""
    first, _, last = text.strip().partition("-")
    numbers = [first, last or first]
    if not all(number.isdecimal() and len(number) < 6 for number in numbers):
        fix = "Give numbers and ranges, such as 12-17 20."
        raise UsageError("without_layers", text, "is no layer and no range of layers.", fix)
    begin, end = map(int, numbers)
    if end < begin:
        fix = f"Give {end}-{begin}."
        raise UsageError("without_layers", text, "ends before it begins.", fix)
    return range(begin, end + 1)
