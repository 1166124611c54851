"""Folders of runs that were never trained: their policies are as they begin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import recorded

from experiments import assemble
from experiments import config as configs
from experiments.reporting import schema
from experiments.running import trained
from experiments.storage import checkpoints
from experiments.storage.run_folder import RunFolder, final


def made(path, config, sharpness=1.0):
    """The folder of a finished run of this config, and every method's parameters, [seeds, ...]: all
    methods and seeds have their own, times `sharpness`."""
    folder = RunFolder(path, configs.identity(config))
    folder.create("a-test", {})
    sizes = trained.sizes_of(config)
    policy = config.policy.policy(sizes.vocab, sizes.prompt + sizes.horizon)
    params = {}
    for i, name in enumerate(configs.resolve(config)):
        keys = jax.random.split(jax.random.key(i), config.budget.seeds)
        started = jax.jit(jax.vmap(policy.init))(keys)
        params[name] = jax.tree.map(lambda x: sharpness * x, started)
        state = (jnp.zeros(len(keys), jnp.int32), keys, params[name], jnp.zeros(len(keys)))
        checkpoints.save(final(path, name), 1, state, {"update": 1})
        result = recorded.method({"js": [0.1] * len(keys)})
        folder.keep_method(name, schema.method_as_json(result))
    methods = {name: folder.method(name, schema.method) for name in params}
    plain = configs.as_dict(config)
    fields = {"benchmark": plain["benchmark"], "seeds": config.budget.seeds}
    schema.write(path / "results.json", recorded.run(methods, **fields))
    return params


def log_probs(config, params, seed, tokens):
    """Of each token of one string, under one seed's policy, [n]."""
    task = assemble.task(config)
    policy = config.policy.policy(task.mdp.vocab, task.length)
    own = jax.tree.map(lambda x: x[seed], params)
    laws = policy.head(own, policy.trunk(own, jnp.asarray([tokens])))
    return [float(laws[0, i, token]) for i, token in enumerate(tokens)]
