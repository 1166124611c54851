"""Passes over fixed rows: each row once a pass, in another order each time, from wherever a run
stands."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from likelihood_runs import prepared

from experiments import assemble
from experiments import config as configs
from experiments.config import make_config
from experiments.running import runs, train
from experiments.running.stopping import Interrupted
from fdiv.benchmarks import Text
from fdiv.policies import Architecture
from fdiv.types import UsageError

chosen = jax.jit(runs.in_passes, static_argnums=(2, 3))


@pytest.mark.parametrize(("count", "size"), [(4, 12), (4, 10), (5, 3), (3, 3), (1, 4), (7, 1)])
def test_each_row_is_seen_once_a_pass(count, size):
    key, steps = jax.random.key(0), -(-3 * size // count)
    seen = np.concatenate([chosen(key, step, count, size) for step in range(steps)])
    passes = seen[: 3 * size].reshape(3, size)
    assert (np.sort(passes, axis=1) == np.arange(size)).all()
    if size > 3:
        assert len({tuple(order) for order in passes.tolist()}) > 1
    # a run that goes on from a save sees what it would have seen
    assert chosen(key, steps - 1, count, size).tolist() == seen[-count:].tolist()
    if size == 12:
        assert chosen(jax.random.key(1), 0, count, size).tolist() != seen[:count].tolist()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("passes") / "rows.jsonl"
    rows = [
        {"prompt": f"{i}", "completion": f"{i}" * (1 + i % 5), "label": i % 4 != 0}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Text(path=path, validation=0.3)


def fitted(config):
    return assemble.fitted(config, assemble.data(config))


@pytest.mark.parametrize(("passes", "demos"), [(1, 0), (3, 0), (2, 7)])
def test_updates_are_those_of_so_many_passes(passes, demos, text):
    config = make_config(
        benchmark=text,
        policy=Architecture("transformer"),
        methods=("sft",),
        batch_size=4,
        demos=demos,
        epochs_over_data=passes,
    )
    own = fitted(config)
    rows = demos or len(assemble.task(own, assemble.data(own)).mdp.demos.rows.tokens)
    assert own.budget.updates == -(-passes * rows // 4)
    assert fitted(dataclasses.replace(own, budget=config.budget)) == own


def test_a_batch_is_the_next_rows(text):
    config = make_config(benchmark=text, methods=("sft",), batch_size=5, epochs_over_data=1)
    demos = assemble.task(config, assemble.data(config)).mdp.demos
    key, rows = jax.random.key(3), np.asarray(demos.rows.tokens)
    drawn = lambda step: runs.batch(config.budget, demos, (), key, step).tokens
    steps = -(-len(rows) // 5)
    seen = np.concatenate([jax.device_get(drawn(step)) for step in range(steps)])[: len(rows)]
    assert sorted(map(tuple, seen)) == sorted(map(tuple, rows))


def test_new_rows_at_every_update_have_no_passes():
    with pytest.raises(UsageError, match="Give --demos"):
        fitted(make_config(epochs_over_data=2))
    assert fitted(make_config(epochs_over_data=2, demos=100, batch_size=10)).budget.updates == 20


def passed_over(text, widths, folder, stop_at=None):
    """The end of two passes of likelihood training, or where it was stopped; and the rows seen."""
    config = fitted(
        make_config(
            benchmark=dataclasses.replace(text, buckets=widths),
            policy=Architecture("markov"),
            methods=("sft",),
            seeds=2,
            batch_size=6,
            epochs_over_data=2,
            learning_rate=0.1,
        )
    )
    task = assemble.task(config, assemble.data(config))
    (method,) = configs.resolve(config).values()
    training, stop = prepared(config, task, folder, assemble.widths_of(task, method))
    assert (training.compiled.layout is not None) and (training.widths is None) == (widths == 1)
    with contextlib.suppress(Interrupted):
        for progress in train.fit(training, stops=[stop_at] if stop_at else []):
            stop.asked = progress.update == stop_at
    return progress


def test_widths_change_nothing_and_a_stopped_run_goes_on_to_the_same_bits(text, tmp_path):
    """Stopped in the middle of the first of two passes."""
    whole, one = (passed_over(text, n, tmp_path / str(n)) for n in (3, 1))
    stopped = passed_over(text, 3, tmp_path / "stopped", stop_at=2)
    assert stopped.update == 2 and whole.update > 4
    again = passed_over(text, 3, tmp_path / "stopped")
    assert (again.update, again.tokens.tolist()) == (whole.update, whole.tokens.tolist())
    params = [jax.tree.leaves(x.train_state.learner.params) for x in (whole, again, one)]
    for a, b, c in zip(*params):
        assert (a == b).all()
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
