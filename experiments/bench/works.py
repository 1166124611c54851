"""Our side of the language model works: one update each, as a user's run computes it, of a policy
with random weights or of a pretrained one with adapters. Strings have no end, so that every update
is of as many tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from experiments.models import counts
from experiments.models.counts import Counted, Dimensions

if TYPE_CHECKING:
    from experiments.devices.programs import Program
    from fdiv.policies import Architecture
    from fdiv.types import Components, Method, Params, Policy, Sequences, TokenMDP

Size = Literal["w64", "w256", "smollm2", "m144"]
Precision = Literal["float32", "bfloat16"]
RANK = 8  # of adapters on all seven kernels
GROUP = 8  # answers to one prompt
BETA = {"grpo": 0.04, "dpo": 0.1}  # what leaving the reference costs
RATE, LONGEST_NORM = 1e-4, 1.0
BY_CORE = ("sampling", "grpo")  # works that are parted over a CPU's cores, as it was faster
AT_ONCE = 8  # rows whose gradient a processor takes at a time: more do not stay in its cache


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model and of what it reads."""

    title: str
    vocab: int
    width: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    batch: int  # strings of an update
    prompt: int  # tokens before those that are written
    new: int
    pretrained: bool = False
    precision: Precision = "float32"  # of products
    devices: int = 1  # of ours, over which rows are parted

    @property
    def weight(self) -> int:
        """Bytes of a weight that is read for a product."""
        return {"float32": 4, "bfloat16": 2}[self.precision]

    @property
    def dimensions(self) -> Dimensions:
        """For the counts."""
        size = self.width // self.heads
        return Dimensions(
            self.vocab, self.width, self.hidden, self.layers, self.heads, self.kv_heads, size
        )

    def asked(self) -> dict[str, Any]:
        """What a peer is told."""
        names = ("vocab", "width", "layers", "hidden", "heads", "kv_heads")
        shape = {name: getattr(self, name) for name in names}
        own = {name: getattr(self, name) for name in ("batch", "prompt", "new", "precision")}
        return {"shape": shape, **own}


SHAPES: dict[str, Shape] = {
    "w64": Shape("width 64, 2 layers", 257, 64, 2, 192, 4, 2, 32, 32, 96),
    "w256": Shape("width 256, 4 layers", 257, 256, 4, 768, 4, 2, 32, 32, 96),
    "smollm2": Shape(
        "SmolLM2-135M, adapters of rank 8", 49_152, 576, 30, 1536, 9, 3, 4, 32, 32, pretrained=True
    ),
    "m144": Shape("width 576, 30 layers, 144M", 49_152, 576, 30, 1728, 9, 3, 32, 64, 192),
}


class Ours(NamedTuple):
    """Our side, ready to be compiled by its first call."""

    step: Callable[[int], float]  # updates -> tokens
    counted: Counted  # of an update
    settings: dict[str, Any]
    text: Callable[[], str] = str  # of the compiled program


class Work(NamedTuple):
    """A work of language models."""

    title: str
    build: Callable[[Shape, Path], Ours]
    asked: Callable[[Shape], dict[str, Any]]  # of the peer, beside the shape


def asked(name: str, shape: Shape, model: Path) -> dict[str, Any]:
    """All that a peer is told of a work."""
    own = {"work": name, **shape.asked(), **WORKS[name].asked(shape)}
    return {**own, "model": str(model), "rank": RANK} if shape.pretrained else own


def devices(work: str, size: str) -> int:
    """Over how many devices rows of a work are parted, where nobody says."""
    import jax

    several = work in BY_CORE and not SHAPES[size].pretrained and jax.default_backend() == "cpu"
    rows = SHAPES[size].batch
    return max(n for n in range(1, len(jax.devices()) + 1) if rows % n == 0) if several else 1


def shape_of(work: str, size: str, precision: Precision = "float32", over: int = 0) -> Shape:
    """A work's at a size, its rows parted over so many devices (0: as where nobody says)."""
    return dataclasses.replace(
        SHAPES[size], precision=precision, devices=over or devices(work, size)
    )


# --- parts ----------------------------------------------------------------------------------------


def architecture(shape: Shape, model: Path) -> Architecture:
    """The policy's; layers are kept rather than computed again for the gradient."""
    from fdiv.lm.lora import Lora
    from fdiv.policies import Architecture

    if shape.pretrained:
        own = Lora(rank=RANK)
        return Architecture("hf", path=str(model), lora=own, remat=False, precision=shape.precision)
    names = ("layers", "width", "heads", "kv_heads", "precision")
    sizes = {name: getattr(shape, name) for name in names}
    return Architecture("transformer", **sizes)


def strings(shape: Shape, rows: int, prompt: int, seed: int = 0) -> Sequences:
    """Random strings, of which all columns after the prompt were written."""
    import jax.numpy as jnp

    from fdiv.types import Sequences

    length = shape.prompt + shape.new
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, shape.vocab, (rows, length), np.int32)
    mask = np.broadcast_to(np.arange(length) >= prompt, tokens.shape)
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask), jnp.ones(rows))


def prompts(shape: Shape, rows: int, seed: int = 0) -> Sequences:
    """Random prompts."""
    import jax.numpy as jnp

    whole = strings(shape, rows, shape.prompt, seed)
    tokens = whole.tokens[:, : shape.prompt]
    return whole._replace(tokens=tokens, mask=jnp.zeros_like(tokens, bool))


def task(shape: Shape, horizon: int, teacher: Any = None, beta: float = 0.0) -> TokenMDP:
    """Strings over the model's symbols; what is earned is the share of symbols in the lower
    half."""
    import jax.numpy as jnp

    from fdiv.types import Regulariser, TokenMDP

    rows = lambda key, n: strings(shape, n, shape.prompt)

    def score(x: Sequences):
        low = x.mask & (x.tokens < shape.vocab // 2)
        return low.sum(1) / jnp.maximum(x.mask.sum(1), 1)

    return TokenMDP(
        vocab=shape.vocab,
        horizon=horizon,
        eos=None,
        prompts=lambda key, n: prompts(shape, n),
        demos=rows,
        held_out=rows,
        expert=teacher,
        score=score,
        regulariser=Regulariser("reverse_kl", beta) if beta else None,
    )


def components(shape: Shape, model: Path, mdp: TokenMDP) -> Components:
    """Policy and sampler."""
    from fdiv.rollout import sampler_of
    from fdiv.types import Components

    return Components(policy(shape, model), mdp, sampler_of(mdp))


def policy(shape: Shape, model: Path) -> Policy:
    """Of random weights, or a pretrained one with adapters."""
    from experiments.models import pretrained

    own = architecture(shape, model)
    if shape.pretrained:
        return pretrained.policy(own)
    return own.policy(shape.vocab, shape.prompt + shape.new)


def spread(
    shape: Shape, function: Callable, *arguments: Any, donate: tuple[int, ...] = ()
) -> tuple[Program, tuple[Any, ...]]:
    """The function compiled for such arguments on the shape's devices, as a run of one seed
    compiles it, and the arguments there; the last one's rows are parted over them."""
    import jax

    from experiments.devices import MeshLayout, SeedLayout

    devices = jax.devices()[: shape.devices]
    several = {"data": shape.devices, "fsdp": 1, "tensor": 1}
    layout = MeshLayout(1, devices, several) if shape.devices > 1 else SeedLayout(1, devices)
    parted = lambda *x: function(*x[:-1], layout.rows(x[-1]))
    placed = tuple(layout.put(jax.tree.map(lambda y: y[None], x)) for x in arguments)
    return layout.compile(parted, *placed, donate=donate)[0], placed


def updates(
    shape: Shape, method: Method, parts: Components, batch: Any, tokens: float
) -> tuple[Callable[[int], float], dict[str, Any], Callable[[], str]]:
    """Updates of a method on one batch as a function of their number, their settings, and the
    compiled program's text. On a CPU the batch's gradient is added up from parts of few rows, as
    runs do with `--accumulate`."""
    import jax

    from experiments.optimiser import Optimiser
    from fdiv.learner import learner

    optimiser = Optimiser(learning_rate=RATE, schedule="constant", max_grad_norm=LONGEST_NORM)
    rows = jax.tree.leaves(batch)[0].shape[0]
    at_once = AT_ONCE * shape.devices
    parted = jax.default_backend() == "cpu" and rows % at_once == 0
    accumulate = rows // at_once if parted else 1
    transformation = optimiser.policy(RATE, 1000, 1000)
    own = learner(method.build(parts), transformation, accumulate=accumulate)
    begun = jax.jit(lambda key: own.init(key, parts.policy.init(key)))(jax.random.key(0))
    update, (begun, batch) = spread(shape, own.update, begun, batch, donate=(0,))
    state = {"now": begun}

    def step(count: int) -> float:
        metrics: Params = {}
        for _ in range(count):
            state["now"], metrics = update(state["now"], batch)
        jax.block_until_ready((state["now"], metrics))
        return count * tokens

    settings = {"update": "fdiv.learner", "optimiser": "adam", "max_grad_norm": LONGEST_NORM}
    settings |= {"remat": False, "accumulate": accumulate, "devices.data": shape.devices}
    return step, settings, update.as_text


# --- works ----------------------------------------------------------------------------------------


def sft(shape: Shape, model: Path) -> Ours:
    """Maximum likelihood of whole rows."""
    from fdiv.objectives.max_likelihood import MaxLikelihood

    d, length = shape.dimensions, shape.prompt + shape.new
    prompt = 1 if shape.pretrained else 0  # a pretrained model has no law of the first token
    parts = components(shape, model, task(shape, length - prompt))
    tokens = shape.batch * length
    step, settings, text = updates(
        shape, MaxLikelihood(), parts, strings(shape, shape.batch, prompt), tokens
    )
    rank, predicted = (RANK, length - 1) if shape.pretrained else (None, length)
    work = counts.training(d, shape.batch, length, predicted, rank, shape.weight)
    return Ours(step, counts.together(work), settings, text)


def sampling(shape: Shape, model: Path) -> Ours:
    """Strings behind prompts, with a cache."""
    import jax

    from fdiv.rollout import sampler

    own, rollout = policy(shape, model), sampler(shape.new, None)
    params = own.init(jax.random.key(0))
    drawing = lambda key, params, before: rollout(key, own, params, before)
    given = jax.random.key(0), params, prompts(shape, shape.batch)
    draw, (key, params, before) = spread(shape, drawing, *given)

    def step(count: int) -> float:
        drawn = [draw(key, params, before) for _ in range(count)]
        jax.block_until_ready(drawn)
        return count * shape.batch * shape.new

    work = counts.sampling(
        shape.dimensions, shape.batch, shape.prompt, shape.new, weight=shape.weight
    )
    settings = {"call": "fdiv.rollout.sampler", "draws from": "all symbols"}
    settings |= {"devices.data": shape.devices}
    return Ours(step, counts.together(work), settings, draw.as_text)


def distill(shape: Shape, model: Path) -> Ours:
    """Exact JS to a teacher of the same size, at the prefixes of the policy's own strings."""
    import jax

    from fdiv.objectives.distill import Distill
    from fdiv.types import Model

    d, length = shape.dimensions, shape.prompt + shape.new
    teacher = policy(shape, model)
    expert = Model(teacher, teacher.init(jax.random.key(1)))
    parts = components(shape, model, task(shape, shape.new, expert))
    batch = strings(shape, shape.batch, shape.prompt)
    method = Distill(divergence="js", policy_prefixes=1.0)
    step, settings, text = updates(shape, method, parts, batch, shape.batch * shape.new)
    work = counts.together(
        counts.sampling(d, shape.batch, shape.prompt, shape.new, weight=shape.weight),
        counts.forward(d, shape.batch, length, shape.new, shape.weight),
        counts.training(d, shape.batch, length, shape.new),
    )
    return Ours(step, work, {**settings, "method": "distill:js, policy_prefixes 1"}, text)


def grpo(shape: Shape, model: Path) -> Ours:
    """Groups of answers, advantages over the group's deviation, the k3 penalty in the loss: the
    published formulas, which are the peer's."""
    from fdiv import objectives

    d, length, rows = shape.dimensions, shape.prompt + shape.new, answers(shape)
    parts = components(shape, model, task(shape, shape.new, beta=BETA["grpo"]))
    method = objectives.resolve("grpo_std:k3-loss", group=GROUP)
    batch = strings(shape, rows, shape.prompt)
    step, settings, text = updates(shape, method, parts, batch, rows * shape.new)
    work = counts.together(
        counts.sampling(
            d, rows, shape.prompt, shape.new, prompts=rows // GROUP, weight=shape.weight
        ),
        counts.forward(d, rows, length, shape.new, shape.weight),
        counts.training(d, rows, length, shape.new),
    )
    settings["method"] = f"grpo_std:k3-loss, beta {BETA['grpo']:g}"
    return Ours(step, work, settings, text)


def answers(shape: Shape) -> int:
    """Strings of an update of GRPO: 16 prompts of a batch of 32."""
    return shape.batch // 2 * GROUP


def dpo(shape: Shape, model: Path) -> Ours:
    """Comparisons; the reference is the policy's start."""
    import jax

    from fdiv.objectives.dpo import Dpo
    from fdiv.types import Pairs

    d, length, pairs = shape.dimensions, shape.prompt + shape.new, shape.batch // 2
    parts = components(shape, model, task(shape, shape.new, beta=BETA["dpo"]))
    chosen, rejected = (strings(shape, pairs, shape.prompt, seed) for seed in (0, 1))
    batch = jax.tree.map(lambda x: x, Pairs(chosen, rejected))
    step, settings, text = updates(shape, Dpo(), parts, batch, shape.batch * shape.new)
    work = counts.together(
        counts.forward(d, shape.batch, length, shape.new, shape.weight),
        counts.training(d, shape.batch, length, shape.new),
    )
    settings["method"] = f"dpo, beta {BETA['dpo']:g}"
    return Ours(step, work, settings, text)


nothing = lambda shape: {}
WORKS: dict[str, Work] = {
    "sft": Work("SFT step", sft, nothing),
    "sampling": Work("Sampling with a cache", sampling, nothing),
    "distill": Work("On-policy distillation, exact JS over all symbols", distill, nothing),
    "grpo": Work(
        "GRPO update, 16 prompts x 8",
        grpo,
        lambda shape: {"batch": answers(shape), "group": GROUP, "beta": BETA["grpo"]},
    ),
    "dpo": Work("DPO step", dpo, lambda shape: {"beta": BETA["dpo"]}),
}
