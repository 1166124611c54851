"""A language model's features as a discriminator, a reward model or a value function.

The trunk is a frozen model's, with adapters of its own where they are asked for. What is read out
of its features h [D] is, for a number per next token,

    score(prefix, v) = w_v . (M h) / D,

w_v the model's own head: the matrix M [D, D] is all that is learned beside the adapters, so what
the model knows of tokens that are alike serves, and V x D numbers are not learned from a few
strings. For a number (or several) per prefix it is M h, M [outputs, D]. M is zero at first: nothing
is told apart before anything was learned. The division by D lets a learning rate of about 1e-2
move a score by about one an update."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv.lm import lora
from fdiv.lm.lora import Adapters
from fdiv.lm.spec import Spec
from fdiv.types import Params, Policy, Scorer

READ_OUT = "read_out"


class Base(NamedTuple):
    """A frozen model: its policy over `params`, and what it is."""

    policy: Policy
    params: Params
    spec: Spec


def scorer(base: Base, adapters: Adapters | None = None, outputs: int | None = None) -> Scorer:
    """Over the base's vocabulary, or with so many `outputs` a prefix. Its parameters are float32;
    the base is closed over, as by `lora.policy`."""
    policy, frozen, spec = base

    def init(key: Array, start: Params) -> Params:
        shape = (spec.width, outputs or spec.width)
        learned = {READ_OUT: jnp.zeros(shape, jnp.float32)}
        return learned if adapters is None else learned | lora.init(spec, adapters, key)

    def trunk(params: Params, tokens: Array) -> Array:
        if adapters is None:
            return jax.lax.stop_gradient(policy.trunk(frozen, tokens))
        own = {lora.COLLECTION: params[lora.COLLECTION]}
        return policy.trunk(lora.adapted(frozen, adapters, own), tokens)

    def head(params: Params, features: Array) -> Array:
        read = features @ params[READ_OUT]
        if outputs is not None:
            return read
        assert policy.readout is not None
        words = policy.readout(frozen).weights
        return jnp.einsum("...d,vd->...v", read / spec.width, words.astype(read.dtype))

    return Scorer(init, trunk, head)
