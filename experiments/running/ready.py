"""Whether a run can begin: everything that a method can be refused for, found out from config and
data alone, before a folder is claimed and a teacher trained."""

from __future__ import annotations

from typing import Any

import jax

from experiments import assemble
from experiments import config as configs
from experiments.assemble import Task
from experiments.config import Config
from experiments.devices import Layout, offload
from experiments.running import method as methods
from experiments.running import runs, teacher
from fdiv import divergences
from fdiv.types import Components, Method


def check(
    config: Config,
    task: Task,
    components: Components,
    started: bool = False,
    layout: Layout | None = None,
) -> None:
    """Raise `UsageError` for a method that cannot be built here, has nothing to learn from, or
    refuses its first update. That is only traced, and left out of a run that has `started`."""
    if layout is not None and config.optimiser.offload:
        offload.refuse(layout.devices, config.devices.meshed)
    # what is refused does not depend on its parameters, which a trace alone reads
    expert = teacher.untrained(config, task, layout, weights=not started)
    if expert is not None:
        task = task._replace(mdp=task.mdp._replace(expert=expert))
        components = components._replace(mdp=task.mdp)
    for name, each in configs.resolve(config).items():
        divergences.over_vocabulary(methods.claim_on(each, task.mdp).minimises)
        objective = assemble.build(config, each, components)
        runs.batches(task.mdp, each.reads, name)
        if not started:
            _trace(config, each, components, objective)


def _trace(config: Config, method: Method, components: Components, objective: Any) -> None:
    """The first update without its gradient, as shapes."""
    new_rows = runs.batches(components.mdp, method.reads)

    def first_update(key: jax.Array) -> Any:
        params = components.policy.init(key)
        batch = new_rows(key, config.budget.batch_size)
        aux = objective.init(key, params)
        aux, batch, _ = objective.prepare(key, params, aux, batch)
        return objective.loss(params, aux, batch)

    with assemble.blamed(config, method):
        jax.eval_shape(first_update, jax.random.key(config.budget.seed))
