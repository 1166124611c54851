"""Low-rank adapters: each chosen kernel W of a frozen model becomes W + alpha / rank A B, and A and
B alone are trained. Hu et al. 2021 (arXiv 2106.09685).

A kernel [*inputs, *outputs] has A [*inputs, rank], normal with variance 1 / inputs, and B
[rank, *outputs], zero: at first the adapted model is the frozen one bit for bit, so a reference
that is "the policy as training began" is the frozen model and costs a copy of the adapters alone.

The frozen weights are no parameters: they are arrays that the policy's functions close over. So
they are neither mapped over seeds, nor differentiated, donated or saved.

With dropout (Srivastava et al. 2014) an adapter multiplies d in the place of its inputs x: a random
share of them is zero, and the others are divided by one less that share, so that the mean of d over
draws is x. It is there where parameters come with a key, which `in_training` gives them. A learner
does that inside the loss that it differentiates and nowhere else, so what writes, what is measured,
what a ratio is taken to and what a penalty refers to are the adapted model itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import groups
from fdiv.lm.spec import Spec
from fdiv.ranges import ranged
from fdiv.types import Params, Policy, Readout, Sequences, UsageError

Target = Literal["query", "key", "value", "out", "gate", "up", "down"]
MODULES: dict[Target, str] = {  # kernel -> the module of a layer that holds it
    "query": "attention",
    "key": "attention",
    "value": "attention",
    "out": "attention",
    "gate": "mlp",
    "up": "mlp",
    "down": "mlp",
}
COLLECTION = "lora"  # of Flax variables, beside "params"
DROPOUT = "dropout"  # the key beside adapters, in a loss that is differentiated


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters to train in place of a model's weights; none where neither a rank nor a path is
    given."""

    rank: int | None = ranged(None, least=1, most=1 << 14)
    """Rank of each adapter; none: train all weights."""
    alpha: float | None = ranged(None, above=0)
    """What adapters are multiplied by, divided by their rank (twice the rank)."""
    targets: tuple[Target, ...] | None = None
    """Kernels that have one (all seven)."""
    dropout: float | None = ranged(None, least=0, below=1)
    """Share of an adapter's inputs left out at random in the loss of an update, and nowhere else
    (0)."""
    path: str | None = None
    """A folder in PEFT's layout to go on from, which says all of the above; its dropout can be
    given anew."""

    @property
    def wanted(self) -> bool:
        """Whether there are adapters at all."""
        return self.rank is not None or self.path is not None

    def given(self) -> dict[str, Any]:
        """The fields that are not at their default."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        usual = Lora()
        return {name: x for name, x in named.items() if x != getattr(usual, name)}

    def check(self) -> None:
        """Raise `UsageError` naming the field that cannot be."""
        for name in ("rank", "alpha", "targets", "dropout"):
            value = getattr(self, name)
            if value is None or (name == "dropout" and self.path is not None):
                continue
            if self.path is not None:
                problem = "is said by the adapters that are gone on from."
                raise UsageError(name, value, problem, f"Drop it, or path = {self.path!r}.")
            if self.rank is None:
                problem = "belongs to adapters, and none are asked for."
                raise UsageError(name, value, problem, "Drop it, or give a rank.")
        if self.targets == ():
            raise UsageError("targets", (), "names no kernel.", "Name one, or leave it out.")
        for name in self.targets or ():
            if (self.targets or ()).count(name) > 1:
                raise UsageError("targets", name, "is named twice.", "Name each kernel once.")

    def adapters(self) -> Adapters:
        """Of a rank that is given, the others at their usual values."""
        if self.rank is None:
            raise ValueError("no rank is given")
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        targets = tuple(name for name in MODULES if name in (self.targets or MODULES))
        return Adapters(self.rank, alpha / self.rank, targets, self.dropout or 0.0)


class Adapters(NamedTuple):
    """What adapters there are, the same in each layer."""

    rank: int
    scale: float  # alpha / rank
    targets: tuple[Target, ...]
    dropout: float = 0.0  # share of inputs left out in training

    def size(self, spec: Spec) -> int:
        """How many numbers they are."""
        shapes = kernel_shapes(spec)
        each = sum(math.prod(side) for name in self.targets for side in shapes[name])
        return spec.layers * self.rank * each


def kernel_shapes(spec: Spec) -> dict[Target, tuple[tuple[int, ...], tuple[int, ...]]]:
    """(inputs, outputs) of each kernel of a layer."""
    heads, groups = (spec.heads, spec.head_dim), (spec.kv_heads, spec.head_dim)
    width, hidden = (spec.width,), (spec.hidden,)
    return {
        "query": (width, heads),
        "key": (width, groups),
        "value": (width, groups),
        "out": (heads, width),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
    }


def init(spec: Spec, adapters: Adapters, key: Array) -> Params:
    """Adapters that change nothing, in float32: layers stacked, as the model's are."""
    shapes = kernel_shapes(spec)
    layers: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(adapters.targets):
        inputs, outputs = shapes[name]
        a = jax.random.normal(
            jax.random.fold_in(key, i), (spec.layers, *inputs, adapters.rank), jnp.float32
        )
        b = jnp.zeros((spec.layers, adapters.rank, *outputs), jnp.float32)
        layers.setdefault(MODULES[name], {})[name] = {"a": a / math.prod(inputs) ** 0.5, "b": b}
    return {COLLECTION: {"layers": layers}}


def each(params: Params) -> Iterator[tuple[Target, Array, Array]]:
    """(kernel, A, B) of adapters, layers stacked."""
    layers = params[COLLECTION]["layers"]
    for name, module in MODULES.items():
        if (pair := layers.get(module, {}).get(name)) is not None:
            yield name, pair["a"], pair["b"]


def in_training(params: Params, key: Array) -> Params:
    """Adapters with dropout drawn from a key: parameters for a loss that is differentiated."""
    return {**params, DROPOUT: key}


def adapted(base: Params, adapters: Adapters, params: Params) -> Params:
    """Variables of the frozen model with its adapters, the scale in B; where parameters come with
    dropout's key, with one of its own for each kernel of each layer, and the share of inputs that
    stays."""

    def scaled(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: scaled(x) if isinstance(x, Mapping) else x * adapters.scale if name == "b" else x
            for name, x in tree.items()
        }

    own = scaled(params[COLLECTION])
    for i, (name, a, _) in enumerate(each(params) if DROPOUT in params else ()):
        keys = jax.random.split(jax.random.fold_in(params[DROPOUT], i), len(a))
        stays = jnp.full(len(a), 1 - adapters.dropout, jnp.float32)
        own["layers"][MODULES[name]][name] |= {"key": keys, "stays": stays}
    return {"params": base["params"], COLLECTION: own}


def policy(model: Policy, base: Params, spec: Spec, adapters: Adapters) -> Policy:
    """A model's policy (`fdiv.lm.model.policy`) over frozen weights, whose params are adapters."""

    def joined(params: Params) -> Params:
        return adapted(base, adapters, params)

    def readout(params: Params) -> Readout:
        # adapters leave the head alone, which so depends on nothing that is trained
        assert model.readout is not None
        return model.readout(base)

    def start(params: Params, prompts: Sequences, horizon: int) -> Any:
        return model.start(joined(params), prompts, horizon)

    return Policy(
        init=lambda key: init(spec, adapters, key),
        trunk=lambda params, tokens: model.trunk(joined(params), tokens),
        head=lambda params, features: model.head(base, features),
        start=start,
        step=lambda params, cache, token: model.step(joined(params), cache, token),
        readout=readout,
        answers=groups.with_params(model.answers, joined),
        fewer=groups.rows_with_params(model.fewer, joined),
    )


def merged(base: Params, adapters: Adapters, params: Params) -> Params:
    """The model's own parameters with W + alpha / rank A B in the place of each adapted W, in
    float32."""
    layers = dict(base["params"]["layers"])
    for name, a, b in each(params):
        module = MODULES[name]
        kernel = jnp.asarray(layers[module][name]["kernel"], jnp.float32)
        # [layers, *inputs, rank] by [layers, rank, *outputs]
        product = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(a, b)
        layers[module] = {
            **layers[module],
            name: {**layers[module][name], "kernel": kernel + adapters.scale * product},
        }
    return {"params": {**base["params"], "layers": layers}}


def perturbed(key: Array, params: Params) -> Params:
    """Adapters whose B is not zero, so that they take part: for tests of what computes them."""

    def moved(path: tuple, x: Array) -> Array:
        if path[-1].key != "b":
            return x
        name = "/".join(str(part.key) for part in path)
        own = jax.random.fold_in(key, sum(map(ord, name)))
        return x + 0.02 * jax.random.normal(own, x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(moved, params)
