"""What a compiled method does at each update: the batch that it learns from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import assemble, cli
from experiments import config as configs
from experiments.devices import devices
from experiments.running import program, runs
from fdiv.types import Objective

UPDATES, ROWS, LENGTH = 5, 32, 6


def remembering() -> Objective:
    """Learns nothing, and keeps the tokens of every batch."""

    def prepare(key, params, aux, batch):
        return jnp.roll(aux, 1, axis=0).at[0].set(batch.tokens), batch, {"tokens": jnp.ones(())}

    kept = jnp.zeros((UPDATES, ROWS, LENGTH), jnp.int32)
    return Objective(lambda key, params: kept, prepare, lambda p, aux, batch: (0.0 * p.sum(), {}))


@pytest.mark.parametrize("fixed", [0, 40])
def test_every_update_has_a_batch_of_its_own(fixed):
    """New rows, or another choice of the fixed ones; the next seed has others again."""
    config = configs.replace(
        cli.presets()["two-template"][1], updates=UPDATES, batch_size=ROWS, demos=fixed, seeds=2
    )
    task, layout = assemble.task(config, None), devices.lay_out(2, config.devices)
    keys = assemble.seed_keys(config, 2)
    rows = runs.fixed_rows(config.budget, task.mdp, keys)
    of = runs.Runs(keys, jnp.zeros((2, 3)), jnp.full(2, 0.1), rows)
    state = layout.put(program.begin(config, remembering(), of))
    compiled = program.build(config, task, remembering(), layout, state)
    state = compiled.advance(state, jnp.int32(UPDATES), jnp.bool_(True))
    seen = np.asarray(layout.get(state).learner.aux)
    assert seen.shape == (2, UPDATES, ROWS, LENGTH)
    assert len({batch.tobytes() for seed in seen for batch in seed}) == 2 * UPDATES
    if fixed:
        for seed, batches in enumerate(seen):
            own = {row.tobytes() for row in np.asarray(rows.tokens[seed])}
            assert {row.tobytes() for batch in batches for row in batch} <= own
    assert jax.tree.leaves(state.learner.step)[0].tolist() == [UPDATES] * 2
