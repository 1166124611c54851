"""The teacher's features at the rows that a run trains on: computed once, and kept for other runs
with the same teacher and rows (`fdiv.kept`)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble
from experiments.assemble import Task
from experiments.config import Config
from experiments.data.files import Reading
from experiments.devices import Layout, cache_folder, memory, processes
from experiments.running import runs, teacher
from experiments.running.trials import SEED_OF_TRIALS
from experiments.storage import whole
from fdiv import buckets, kept
from fdiv.benchmarks import Text
from fdiv.benchmarks.text_rows import Row
from fdiv.types import Model, Sequences, UsageError

BATCH = 16  # rows that are computed together
FIELD = "benchmark.teacher_cache"


def of(
    config: Config,
    reading: Reading,
    task: Task,
    rows: Mapping[str, Any],
    layout: Layout,
    say: Callable[[str], None],
) -> Model | None:
    """The teacher with its features kept at all rows that a method may draw; None where they are
    not asked for. Raises `UsageError` where they are more than memory holds."""
    text, expert = config.benchmark, task.mdp.expert
    if not isinstance(text, Text) or not text.teacher_cache or expert is None:
        return None
    strings = kept.distinct(_drawn(config, task, rows))
    trunk = lambda params, tokens: expert.policy.trunk(params, tokens)
    shape = jax.eval_shape(trunk, expert.params, strings.tokens[:1])
    actions = int(strings.mask.sum())
    size = actions * shape.shape[-1] * 4
    if size > memory.of_devices(layout.devices) // len(layout.devices):
        problem = f"keeps {memory.spelled(size)} of features on each device, more than it holds."
        raise UsageError(FIELD, True, problem, "Drop it, or give fewer rows with --demos.")
    place = _place(config, reading, strings)
    features = _read(place, (actions, shape.shape[-1]))
    origin = "kept from an earlier run"
    if processes.any_of(features is None) or features is None:
        features, origin = _computed(expert, strings, task), "computed now"
        if jax.process_index() == 0:
            _write(place, features)
    say(
        f"Teacher's features at {actions:,} actions of {len(strings.tokens):,} rows: {origin}, "
        f"{memory.spelled(size)}."
    )
    made = kept.keep(expert, strings, features)
    own = made.params
    shared = layout.share(own._asdict() | {"own": ()})
    return Model(made.policy, own._replace(**shared | {"own": own.own}))


def _drawn(config: Config, task: Task, rows: Mapping[str, Any]) -> Sequences:
    """All rows that may be in a batch, [N, T] in numpy: each seed's fixed ones and those of trials,
    or the task's."""
    if not config.budget.demos:
        return task.mdp.demos.rows  # pyrefly: ignore[missing-attribute]: text's are all there
    own = [rows["demos"]]
    if config.budget.trials > 1:
        keys = assemble.seed_keys(config, 1, offset=SEED_OF_TRIALS)
        own.append(runs.fixed_rows(config.budget, task.mdp, keys))
    flat = [jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), x) for x in own]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *flat)


def _computed(expert: Model, strings: Sequences, task: Task) -> np.ndarray:
    """Features [A, D] of the actions of all strings, row after row."""
    trunk = jax.jit(expert.policy.trunk)
    size = np.asarray(jax.vmap(buckets.columns)(strings.tokens[:, None])[:, 0])
    whole = strings.tokens.shape[1]
    widths = task.buckets.widths if task.buckets is not None else (whole,)
    order = np.argsort(size, kind="stable")
    made: list[np.ndarray] = [np.zeros(0)] * len(order)
    for begin in range(0, len(order), BATCH):
        own = order[begin : begin + BATCH]
        width = widths[int(np.searchsorted(widths, size[own].max()))]
        lacking = [(0, BATCH - len(own)), (0, 0)]
        tokens = jnp.pad(strings.tokens[own, :width], lacking, mode="edge")
        features = np.asarray(trunk(expert.params, tokens), np.float32)
        for i, row in enumerate(own):
            made[row] = features[i][np.asarray(strings.mask[row, :width])]
    return np.concatenate(made)


def _place(config: Config, reading: Reading, strings: Sequences) -> Path:
    """Where the features of these rows under this teacher lie."""
    rows = [Row(np.asarray(x).tobytes(), b"") for x in (strings.tokens, strings.mask)]
    digest = Reading("", rows, []).digest()[:16]
    name = f"{teacher.key(config, reading)}-{digest}.npz"
    return cache_folder(config.output.cache) / "features" / name


def _read(place: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Features that were kept; None where there are none of this shape."""
    try:
        with np.load(place) as kept_file:  # an archive, whose parts are held against checksums
            features = kept_file["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def _write(place: Path, features: np.ndarray) -> None:
    """Whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with whole.draft(place) as draft:
        np.savez(draft, features=features)
