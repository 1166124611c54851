"""The flags of `context_window`."""

from __future__ import annotations

import dataclasses

from experiments.figures.common.base import distinct
from fdiv import divergences
from fdiv.checks import at_least

LEAST = {"order": 1, "vocab": 2, "horizon": 2, "chains": 1, "starts": 1}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A chain expert of known range, and students with windows."""

    windows: tuple[int, ...] = (1, 2, 3, 4)
    """How many tokens back the students see."""
    order: int = 3
    """How many tokens back the expert looks: the range."""
    vocab: int = 2
    """Number of tokens beside EOS."""
    horizon: int = 8
    """Most actions in a string, EOS included."""
    concentration: float = 0.5
    """Dirichlet concentration of the expert's rows."""
    mean_length: float = 5.0
    """Mean number of tokens before EOS, were there no horizon."""
    table_seed: int = 0
    """Which chain is the expert."""
    chains: int = 20
    """Experts, from that one on, for what needs no search."""
    divergences: tuple[str, ...] = ("forward_kl", "reverse_kl", "js")
    """What is minimised, at every level."""
    starts: int = 4
    """Random tables from which each search starts."""
    methods: tuple[str, ...] = ("sft", "reverse_kl", "js", "gail")
    """How students are trained; a discriminator reads the whole prefix."""
    window_critics: tuple[str, ...] = ("gail", "adversarial:reverse_kl")
    """Adversarial methods trained once more with a discriminator that reads no more than the
    student's window."""
    transformers: tuple[int, ...] = (2,)
    """Windows at which one-layer transformers are trained as well."""
    seeds: int = 5
    """Students of each method."""
    updates: int = 1000
    """Updates of each student."""
    batch_size: int = 256
    """Strings per update."""


def checked(flags: Flags) -> Flags:
    """Windows in order, divergences by their own names. Raises `UsageError` for what cannot be."""
    for field, least in LEAST.items():
        at_least(field, getattr(flags, field), least)
    for field in ("windows", "transformers"):
        for window in getattr(flags, field):
            at_least(field, window, 1)
    names = tuple(divergences.parse(name).name for name in flags.divergences)
    distinct("divergences", names)
    distinct("windows", flags.windows)
    if flags.transformers:
        distinct("transformers", flags.transformers)
    windows, transformers = (tuple(sorted(x)) for x in (flags.windows, flags.transformers))
    return dataclasses.replace(flags, divergences=names, windows=windows, transformers=transformers)
