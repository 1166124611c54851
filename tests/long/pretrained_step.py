"""Two updates of adapters with dropout, and of all weights, on each layout of eight devices; prints
how far each is from one device's, as JSON. A process of its own, that has eight devices."""

import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from language_models import CASES, random_tensors

from experiments.devices import MeshLayout, SeedLayout, programs
from fdiv.learner import learner
from fdiv.lm import lora, model, weights
from fdiv.lm import spec as specs
from fdiv.lm.block import Compute
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.types import Sequences

SIZES = {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 48}
SPEC = specs.from_config({**CASES["llama"], **SIZES})
WEIGHTS = weights.load(SPEC, weights.Arrays(random_tensors(SPEC)))
MESHES = ((8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8))
COUNT = 3  # runs side by side


def strings():
    tokens = jnp.asarray(np.random.RandomState(0).randint(0, SPEC.vocab, (8, 10)), jnp.int32)
    return Sequences(tokens, jnp.ones(tokens.shape, bool).at[:, :3].set(False), jnp.ones(8))


def learning(base, adapted):
    """(policy, its learner) of all weights, or of adapters of frozen ones."""
    own = model.policy(SPEC, Compute(remat=True))
    adapters = lora.Lora(rank=2, dropout=0.2).adapters()
    policy = lora.policy(own, base, SPEC, adapters) if adapted else own
    in_training = lora.in_training if adapted else None
    objective = max_likelihood(policy, SPEC.vocab)
    return policy, learner(objective, optax.sgd(1e-2), in_training=in_training)


@functools.cache
def beginning(adapted):
    """What makes the common state before the first update, [COUNT, ...]; layouts give it away."""
    policy, train = learning(WEIGHTS, adapted)

    def begin():
        start = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), COUNT))
        start = lora.perturbed(jax.random.key(1), start) if adapted else start
        return jax.vmap(train.init)(jax.random.split(jax.random.key(2), COUNT), start)

    return jax.jit(begin)


def ends(layout, adapted):
    """Parameters after two updates, [COUNT, ...]."""
    _, train = learning(layout.share(WEIGHTS), adapted)
    state = layout.put(beginning(adapted)())

    def update(state, batch):
        return train.update(state, layout.rows(batch))[0]

    program, _ = layout.compile(update, state, strings(), shared=(1,), donate=(0,))
    assert program.closed_over or not adapted
    for _ in range(2):
        state = program(state, strings())
    return layout.host(state.params)


def main():
    programs.LARGE = 1
    here = jax.devices()
    layouts = {
        f"{mesh}": MeshLayout(COUNT, here, dict(zip(("data", "fsdp", "tensor"), mesh)))
        for mesh in MESHES
    }
    layouts["seeds"] = SeedLayout(COUNT, here[:2])
    apart = {}
    for adapted in (True, False):
        one = ends(SeedLayout(COUNT, here[:1]), adapted)
        for name, layout in layouts.items():
            other = ends(layout, adapted)
            each = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, other)
            apart[f"{name} {'adapters' if adapted else 'weights'}"] = max(jax.tree.leaves(each))
    print(json.dumps(apart))


if __name__ == "__main__":
    main()
