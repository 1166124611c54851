"""What a run will hold in memory at least, counted before anything is made: one that cannot fit is
refused by the flag that asked for it.

Counted are the arrays that are there at once whatever the compiler does: parameters with their
gradient and the optimiser's moments, fixed rows, a batch and what a policy makes of it, the strings
of an evaluation, enumerated strings. What really is taken is more; `compare` prints it once a
method is compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import fields
from experiments.assemble import Task
from experiments.config import Config, prefixed, replace, resolve
from experiments.devices import memory
from experiments.devices.devices import chosen
from experiments.models import pretrained
from fdiv.policies import Architecture
from fdiv.types import UsageError

REAL, TOKEN = 4, 5  # bytes of a number; of a token in a string, with its place in the mask
# options that the size of an architecture comes from
SIZES = ("layers", "width", "heads", "kv_heads", "order", "path", "lora.rank")
TASK = ("benchmark.horizon", "benchmark.vocab", "benchmark.base.horizon", "benchmark.base.vocab")
LENGTHS = (*TASK, "benchmark.prompt_length")
LINEAR = ("seeds", "batch_size", "demos", "samples")  # what a need grows in proportion to


class Sizes(NamedTuple):
    """Of a task."""

    vocab: int
    length: int  # most tokens of a string, prompt included
    strings: int = 0  # how many are enumerated


class Need(NamedTuple):
    """Arrays that are there at once, and the options that their size comes from."""

    what: str
    bytes: float
    fields: tuple[str, ...]


def parameters(architecture: Architecture, sizes: Sizes) -> int:
    """How many numbers a policy, or a table or transformer as a scorer, has to train."""
    if architecture.name == "hf":
        return pretrained.parameters(architecture)[0]
    if architecture.name != "transformer":
        return architecture.automaton(sizes.vocab, sizes.length).states * sizes.vocab
    given = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2} | architecture.sizes()
    layers, width, heads, groups = (
        given[name] for name in ("layers", "width", "heads", "kv_heads")
    )
    head = width // heads
    attention = 2 * width * heads * head + 2 * width * groups * head
    return layers * (attention + 9 * width**2 + 2 * width) + (sizes.vocab + 2) * width


def features(architecture: Architecture, sizes: Sizes) -> int:
    """Numbers that a policy makes of one token: a table's row, or a network's residual stream."""
    if architecture.name == "hf":
        return pretrained.check(architecture).width
    if architecture.name != "transformer":
        return sizes.vocab
    return architecture.width or 64


def moments(config: Config) -> float:
    """Numbers that the optimiser keeps for each parameter."""
    probe = jax.ShapeDtypeStruct((1000,), jnp.float32)
    plain = dataclasses.replace(config.optimiser, schedule="constant", warm_up=0)
    kept = jax.eval_shape(plain.policy(1.0, 1, 1).init, probe)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(kept)) // 1000


def needs(config: Config, sizes: Sizes) -> list[Need]:
    """All that is counted."""
    budget, seeds = config.budget, config.budget.seeds
    copies = 2 + moments(config)  # themselves, their gradient, and what the optimiser keeps
    # what is offloaded is made on the devices all the same, before there is a gradient
    most = max(2, copies - 1) if config.optimiser.offload else copies
    named = lambda owner: tuple(f"{owner}.{size}" for size in SIZES)
    with prefixed(policy=config.policy):
        own = parameters(config.policy, sizes)
    counted = [
        Need("the policies' parameters", seeds * own * most * REAL, ("seeds", *named("policy"))),
        Need(
            "the fixed rows",
            seeds * budget.demos * sizes.length * TOKEN,
            ("seeds", "demos", *LENGTHS),
        ),
        _strings(config, sizes),
        Need(
            "the enumerated strings",
            sizes.strings * sizes.length * (TOKEN + (1 + seeds) * REAL),
            ("seeds", "exact_limit", *TASK),
        ),
    ]
    if config.policy.name == "hf":
        with prefixed(policy=config.policy):
            frozen = pretrained.parameters(config.policy)[1]
        counted.append(Need("the frozen weights", frozen, ("policy.path",)))
    scored = [what for method in resolve(config).values() for what in method.needs]
    if scored:
        with prefixed(scorer=config.scorer):
            judge = pretrained.of_scorer(config.scorer, config.policy)
            hf = judge.name == "hf"
            trained = pretrained.scorer_parameters(judge) if hf else parameters(judge, sizes)
            other = trained * seeds * copies * REAL
        counted.append(Need("the scorers' parameters", other, ("seeds", *named("scorer"))))
    return counted


def _strings(config: Config, sizes: Sizes) -> Need:
    """A batch and an evaluation take turns; the larger counts."""
    budget, row = config.budget, REAL * features(config.policy, sizes)
    parts = budget.minibatches * budget.accumulate
    batch = budget.seeds * sizes.length * budget.batch_size * (TOKEN + row / parts)
    drawn = budget.seeds * sizes.length * config.evaluation.samples * (TOKEN + row)
    wide = ("policy.width",) if config.policy.name == "transformer" else ()
    if batch >= drawn:
        return Need("a batch", batch, ("seeds", "batch_size", *LENGTHS, *wide))
    return Need("the strings of an evaluation", drawn, ("seeds", "samples", *LENGTHS, *wide))


def refuse(config: Config, preset: Config, task: Task) -> None:
    """Raise `UsageError` where a run would take more than the memory of its devices."""
    strings = 0 if task.space is None else len(task.space.sequences.tokens)
    sizes = Sizes(task.mdp.vocab, task.length, strings)
    refuse_beyond(memory.of_devices(chosen(config.devices)), config, preset, sizes)


def refuse_beyond(available: int, config: Config, preset: Config, sizes: Sizes) -> None:
    """Raise `UsageError` where all that is counted is more than there is, by the option of the
    largest need that is furthest above the preset's."""
    counted = needs(config, sizes)
    total = sum(need.bytes for need in counted)
    if total <= available:
        return
    worst = max(counted, key=lambda need: need.bytes)
    name, value = _blamed(config, preset, worst)
    problem = (
        f"{worst.what} would take {memory.spelled(worst.bytes)} of memory (all in all "
        f"{memory.spelled(total)}), and there is {memory.spelled(available)}."
    )
    if isinstance(value, str):
        raise UsageError(name, value, problem, "Give a smaller model, or adapters (lora.rank).")
    fits = _most(available, config, sizes, name, value, total) if name in LINEAR else 0
    fix = f"Give at most {fits:,}." if 2 <= fits < value else "Give less."
    raise UsageError(name, value, problem, fix)


def _most(available: int, config: Config, sizes: Sizes, name: str, value: int, total: float) -> int:
    """The largest value of an option that fits: all grows with it in a straight line."""
    low = sum(need.bytes for need in needs(replace(config, **{name: 1}), sizes))
    return int(1 + (available - low) * (value - 1) / max(total - low, 1))


def _blamed(config: Config, preset: Config, need: Need) -> tuple[str, int | str]:
    """The option whose value is most times the preset's, and its value; a model's path counts as
    once the preset's."""
    own, usual = fields.table(config), fields.table(preset)
    given: Callable[[str], int | str] = lambda name: own[name].value

    def growth(name: str) -> float:
        value = given(name)
        if isinstance(value, str):
            return 1.0
        before = usual[name].value if name in usual else None
        return value / max(before or 1, 1)

    named = [name for name in need.fields if name in own and given(name)]
    name = max(named, key=growth)
    return name, given(name)
