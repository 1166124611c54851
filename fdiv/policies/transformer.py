"""The transformer that runs train from nothing: a `Spec` of the one block that every language model
here has (`fdiv.lm`).

It is a Llama (RMSNorm, rotary positions, a gated MLP, grouped-query attention) with its embedding
scaled by sqrt(width), tied to the head, and a row of its own for what stands before a text. An
optional window bounds how far back attention reaches. Its layers are few: they are unrolled, each
with parameters of its own by the names that saves have, `attention_0/query/kernel` and so on."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import core
from jax import Array

from fdiv import groups
from fdiv.checks import present
from fdiv.lm import model
from fdiv.lm.block import Compute, Kernel, Precision, RematPolicy
from fdiv.lm.lora import MODULES, kernel_shapes
from fdiv.lm.spec import Rope, Spec
from fdiv.types import Params, Policy, Scorer, UsageError

HIDDEN = 3  # units of the MLP for each of the residual stream
# what saves call the parts of a layer
PARTS = {
    "attention": "attention_{}",
    "mlp": "mlp_{}",
    "norm_attention": "norm_a{}",
    "norm_mlp": "norm_b{}",
}
NORM = "norm_out"  # after the last layer


@dataclasses.dataclass(frozen=True)
class Shape:
    """Size of the network, and how it is computed."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    window: int | None = (
        None  # how many tokens back attention reaches, itself included; None: all of them
    )
    precision: Precision = "float32"  # of products
    remat: bool = False  # compute a layer again on the way back rather than keep what it computed
    attention: Kernel = "auto"  # over whole strings; auto: cuDNN's where it can serve
    remat_policy: RematPolicy | None = None  # what is kept all the same; given, it means `remat`

    def spec(self, vocab: int) -> Spec:
        """The architecture over `vocab` symbols."""
        size = self.width // self.heads
        return Spec(
            family="fdiv",
            vocab=vocab,
            width=self.width,
            hidden=HIDDEN * self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=size,
            eps=1e-6,
            tied=True,
            ropes=(Rope(10_000.0),),
            rope_of=(0,) * self.layers,
            windows=(self.window,) * self.layers,
            attention_scale=size**-0.5,
            scale_embedding=True,
            start_row=True,
        )

    @property
    def compute(self) -> Compute:
        """How it is computed."""
        again = self.remat or self.remat_policy is not None
        policy = self.remat_policy or "nothing_saveable"
        return Compute(self.precision, again, self.attention, policy)

    @property
    def kernel(self) -> Kernel:
        """What computes attention over whole strings on the present devices."""
        return self.compute.kernel(self.spec(1))

    def check(self) -> None:
        """Raise `UsageError` naming the field that does not fit."""
        for field in ("layers", "width", "heads", "kv_heads"):
            if getattr(self, field) < 1:
                raise UsageError(field, getattr(self, field), "is too small.", "Give at least 1.")
        if self.width % (2 * self.heads):
            problem = f"does not split into {self.heads} heads of even size."
            raise UsageError("width", self.width, problem, f"Give a multiple of {2 * self.heads}.")
        if self.heads % self.kv_heads:
            raise UsageError(
                "kv_heads",
                self.kv_heads,
                f"does not divide {self.heads} heads.",
                "Give a divisor.",
            )
        self.compute.check(self.spec(1))
        if self.window is not None and self.window < 1:
            raise UsageError(
                "window",
                self.window,
                "is too small.",
                "Give at least 1, or leave it out for no window.",
            )


def initial(spec: Spec, key: Array) -> Params:
    """Kernels of variance 1 / inputs (LeCun et al. 1998), a normal embedding, norms of 1. What is
    drawn for a parameter depends on the key and on its name."""
    kernel = jax.nn.initializers.lecun_normal()

    def draw(scope: core.Scope) -> None:
        rows = jax.nn.initializers.normal(0.5 * spec.width**-0.5)
        scope.param("embedding", rows, (spec.rows, spec.width))
        ones = lambda name: scope.push(name).param("scale", jax.nn.initializers.ones, (spec.width,))
        for layer in range(spec.layers):
            modules = {name: scope.push(PARTS[name].format(layer)) for name in ("attention", "mlp")}
            for name, (inputs, outputs) in kernel_shapes(spec).items():
                flat = math.prod(inputs), math.prod(outputs)
                drawn = lambda key, flat=flat, shape=(*inputs, *outputs): kernel(
                    key, flat, jnp.float32
                ).reshape(shape)
                modules[MODULES[name]].push(name).param("kernel", drawn)
            for name in ("norm_attention", "norm_mlp"):
                ones(PARTS[name].format(layer))
        ones(NORM)

    return core.init(draw)(key)[1]


def as_blocks(spec: Spec, params: Params) -> Params:
    """The same arrays by the names that `fdiv.lm.model` has for them, one tree a layer."""
    own = params["params"]
    layers = tuple(
        {name: own[saved.format(layer)] for name, saved in PARTS.items()}
        for layer in range(spec.layers)
    )
    return {"params": {"embedding": own["embedding"], "norm": own[NORM], "layers": layers}}


def policy(shape: Shape, vocab: int) -> Policy:
    """The transformer as a policy; features are [B, T, width], the head is the transposed embedding
    table."""
    shape.check()
    spec = shape.spec(vocab)
    own = model.policy(spec, shape.compute)
    readout = present(own.readout, "readout")
    blocks = lambda params: as_blocks(spec, params)
    return Policy(
        init=lambda key: initial(spec, key),
        trunk=lambda params, tokens: own.trunk(blocks(params), tokens),
        head=lambda params, features: own.head(blocks(params), features),
        start=lambda params, prompts, horizon: own.start(blocks(params), prompts, horizon),
        step=lambda params, cache, token: own.step(blocks(params), cache, token),
        readout=lambda params: readout(blocks(params)),
        answers=groups.with_params(own.answers, blocks),
        fewer=groups.rows_with_params(own.fewer, blocks),
    )


def scorer(
    shape: Shape, vocab: int, from_policy: bool = False, outputs: int | None = None
) -> Scorer:
    """A linear read-out of the trunk's features, one number per next token (or so many `outputs`),
    zero at first.

    With `from_policy` (the policy is of the same shape) the trunk begins as the policy's: what it
    knows of the text serves."""
    own = policy(shape, vocab)

    def init(key: Array, start: Params) -> Params:
        return {
            "trunk": start if from_policy else own.init(key),
            "read_out": jnp.zeros((shape.width, outputs or vocab)),
        }

    return Scorer(
        init,
        lambda params, tokens: own.trunk(params["trunk"], tokens),
        lambda params, x: x @ params["read_out"],
    )
