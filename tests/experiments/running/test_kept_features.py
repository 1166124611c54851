"""The teacher's features at a run's rows: computed once, kept for later runs, made again where the
file is damaged."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from experiments import assemble, devices
from experiments.config import make_config
from experiments.devices import memory
from experiments.running import kept_features, runs
from fdiv import tokens as tk
from fdiv.benchmarks import Text
from fdiv.policies import Architecture
from fdiv.types import Model, UsageError


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}", "completion": f"{i}" * (1 + i % 5)}) for i in range(30)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"demos": 7, "trials": 2, "seeds": 2}, marks=pytest.mark.wide)]
)
def test_features_are_computed_once(fields, rows, tmp_path):
    text = Text(path=rows, teacher_cache=True, validation=0.3, buckets=2)
    config = make_config(
        benchmark=text,
        policy=Architecture("markov"),
        methods=("distill:js",),
        cache=tmp_path,
        **{"seeds": 1, **fields},
    )
    reading = assemble.data(config)
    config = assemble.fitted(config, reading)
    task = assemble.task(config, reading)
    policy = assemble.components(config, task).policy
    expert = Model(policy, policy.init(jax.random.key(1)))
    task = task._replace(mdp=task.mdp._replace(expert=expert))
    layout = devices.lay_out(config.budget.seeds, config.devices)
    keys = assemble.seed_keys(config, config.budget.seeds)
    own = {"demos": runs.fixed_rows(config.budget, task.mdp, keys)}
    said: list[str] = []
    keep = lambda: kept_features.of(config, reading, task, own, layout, said.append)
    made = keep()
    drawn = own["demos"] if fields else task.mdp.demos.rows
    strings = jax.tree.map(lambda x: x.reshape(-1, *x.shape[-1:]) if x.ndim > 2 else x, drawn)
    law = lambda model: tk.log_probs(*model, strings._replace(weight=None), task.mdp.vocab)
    assert (np.asarray(law(made)) == np.asarray(law(expert))).all()
    assert "computed now" in said[0] and "kept from an earlier run" not in said[0]
    keep()
    assert "kept from an earlier run" in said[1]
    (file,) = (tmp_path / "features").iterdir()
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    file.write_bytes(damaged)
    keep()
    assert "computed now" in said[2]


def test_features_beyond_memory_are_refused(rows, tmp_path, monkeypatch):
    config = make_config(
        benchmark=Text(path=rows, teacher_cache=True, validation=0.3),
        policy=Architecture("markov"),
        methods=("distill:js",),
        cache=tmp_path,
    )
    reading = assemble.data(config)
    task = assemble.task(config, reading)
    policy = assemble.components(config, task).policy
    expert = Model(policy, policy.init(jax.random.key(1)))
    task = task._replace(mdp=task.mdp._replace(expert=expert))
    monkeypatch.setattr(memory, "of_devices", lambda devices: 1000)
    layout = devices.lay_out(1, config.devices)
    with pytest.raises(UsageError, match="Drop it, or give fewer rows"):
        kept_features.of(config, reading, task, {}, layout, print)
