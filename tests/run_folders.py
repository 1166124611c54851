"""Folders of runs that were never trained: their policies are as they begin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import recorded

from experiments import assemble
from experiments import config as configs
from experiments.models import pretrained
from experiments.reporting import schema
from experiments.running import trained
from experiments.storage import checkpoints
from experiments.storage.run_folder import RunFolder, final


def made(path, config, spread: float | None = 0.0):
    """The folder of a finished run of this config, and every method's parameters, [seeds, ...]:
    as each begins, plus normal numbers of this `spread`, which set methods and seeds apart. None:
    no parameters at all, for what is refused before they are read."""
    folder = RunFolder(path, configs.identity(config) | pretrained.identity(config.policy))
    folder.create("a-test", {})
    sizes = trained.sizes_of(config)
    length = sizes.prompt + sizes.horizon
    policy = assemble.make_policy(config.policy, sizes.vocab, length, sizes.horizon)
    params = {}
    for i, name in enumerate(configs.resolve(config)):
        result = recorded.method({"js": [0.1] * config.budget.seeds})
        folder.keep_method(name, schema.method_as_json(result))
        params[name] = None
        if spread is None:
            continue
        keys = jax.random.split(jax.random.key(i), config.budget.seeds)
        one = lambda key: _spread(key, policy.init(key), spread)
        params[name] = jax.jit(jax.vmap(one))(keys)
        state = (jnp.zeros(len(keys), jnp.int32), keys, params[name], jnp.zeros(len(keys)))
        checkpoints.save(final(path, name), 1, state, {"update": 1})
    methods = {name: folder.method(name, schema.method) for name in params}
    plain = configs.as_dict(config)
    fields = {"benchmark": plain["benchmark"], "seeds": config.budget.seeds}
    schema.write(path / "results.json", recorded.run(methods, **fields))
    return params


def _spread(key, params, spread):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [x + spread * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(structure, moved)


def log_probs(config, params, seed, tokens):
    """Of each token of one string, under one seed's policy, [n]."""
    task = assemble.task(config)
    policy = config.policy.policy(task.mdp.vocab, task.length)
    own = jax.tree.map(lambda x: x[seed], params)
    laws = policy.head(own, policy.trunk(own, jnp.asarray([tokens])))
    return [float(laws[0, i, token]) for i, token in enumerate(tokens)]
