"""The choice of a method's learning rate: several are tried at once, on a seed of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble, devices
from experiments import config as configs
from experiments.evaluation.evaluator import Evaluator, Own, judging_keys
from experiments.reporting.schema import Trial
from experiments.running import runs, train
from experiments.running.context import RunContext
from experiments.running.runs import Runs
from fdiv.types import Method, Objective

SEED_OF_TRIALS = 1_000_000  # the run that trials train, which no seed of the run itself is


def choose(
    context: RunContext, name: str, method: Method, objective: Objective, own: Own | None
) -> tuple[float, list[Trial]]:
    """(the best of `budget.trials` learning rates around the method's own, how each of them did);
    where only one is asked for, the method's own, and no trial."""
    config, task = context.config, context.task
    own_rate = method.learning_rate or config.optimiser.learning_rate
    count = config.budget.trials
    if count == 1:
        return own_rate, []
    layout = devices.lay_out(count, config.devices)
    key = assemble.seed_keys(config, 1, offset=SEED_OF_TRIALS)
    rates = own_rate * jnp.array(configs.RATES[:count])
    rows = runs.fixed_rows(config.budget, task.mdp, key, method.reads)
    same = jax.tree.map(lambda x: jnp.repeat(x[:1], count, axis=0), (key, context.start, rows))
    key, start, rows = same
    training = train.prepare(
        config,
        task,
        objective,
        layout,
        Runs(key, start, rates, rows),
        method.reads,
        context.saves(f"{name}-trials", end=True),
        assemble.widths_of(task, method),
    )
    params = train.to_end(training).learner.params
    family = [divergence.name for divergence in context.evaluator.family]
    # all on the same strings, which no seed of the run is judged on
    judging = jnp.repeat(judging_keys(config.budget.seed, 1, offset=SEED_OF_TRIALS), count)
    claims = context.evaluator.claims
    evaluator = Evaluator(
        config.evaluation, judging, task, context.components, layout, params, family, claims
    )
    measured = evaluator.measure(params)
    scores = own(measured) if own and evaluator.exact else context.scoreboard.loss(measured)
    scores = np.where(np.isfinite(scores), scores, np.inf)
    trials = [Trial(float(rate), float(score)) for rate, score in zip(rates, scores)]
    return float(rates[int(np.argmin(scores))]), trials
