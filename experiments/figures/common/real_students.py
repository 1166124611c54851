"""Students of a pretrained model: the model itself without some of its layers, with adapters, which
learn from laws of the next token at fixed places of text.

Whatever tells the students of a study apart is a number (a temperature, a weight, a seed), so all
are trained side by side over one copy of the weights. `planned` compiles the same update from a
config.json alone, for as many devices as are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array

from experiments.devices import MeshLayout, memory
from experiments.devices.seeds import SeedLayout
from experiments.figures.common import real_laws
from experiments.figures.common.base import Check, Result, Row
from experiments.reporting import style
from fdiv.lm.lora import Adapters, Lora
from fdiv.policies import Architecture
from fdiv.types import Params, Policy, UsageError

if TYPE_CHECKING:
    from fdiv.lm.spec import Spec

RANK, RATE = 8, 1e-3
DROPPED = (12, 6)  # first layer that a student lacks and how many, of SmolLM2-135M's 30
MOST = 512  # devices that are made up
# log q and log p [N, V] at the places, a student's number, a key -> a scalar
Objective = Callable[[Array, Array, Array, Array], Array]


class Places(NamedTuple):
    """Where laws of the next token are taken: after `columns[i]` tokens of row `rows[i]`."""

    tokens: np.ndarray  # [B, T] int32, longer than the last place by one
    rows: np.ndarray  # [N]
    columns: np.ndarray  # [N]


class Students(NamedTuple):
    """A teacher, and what its students have in common."""

    spec: Spec  # of a student
    base: Params  # its weights, frozen
    adapters: Adapters
    whole: Spec
    teacher: Params


class Learned(NamedTuple):
    """Students after training."""

    params: Params  # [students, ...]
    losses: np.ndarray  # [updates, students]


def everywhere(texts: Sequence[Sequence[int]]) -> Places:
    """Every place of each text but the one before its first token."""
    longest = max(map(len, texts))
    tokens = np.zeros((len(texts), longest), np.int32)
    for row, ids in zip(tokens, texts):
        row[: len(ids)] = ids
    at = [(i, column) for i, ids in enumerate(texts) for column in range(1, len(ids))]
    rows, columns = np.array(at, np.int32).T
    return Places(tokens, rows, columns)


def ends(prompts: Sequence[Sequence[int]]) -> Places:
    """The place after each prompt."""
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest + 1), np.int32)
    for row, ids in zip(tokens, prompts):
        row[: len(ids)] = ids
    return Places(tokens, np.arange(len(prompts)), np.array([len(ids) for ids in prompts]))


def read(path: Path, rank: int = RANK) -> Students:
    """A model and its students. Raises `UsageError` where it cannot be read, or has too few layers
    for these to be left out."""
    from experiments.models import pretrained

    whole = pretrained.read(path)
    kept = _kept(path, whole.spec.layers)
    own = pretrained.read(path, kept=kept)
    return Students(own.spec, own.params, Lora(rank).adapters(), whole.spec, whole.params)


def _kept(path: Path, layers: int) -> tuple[int, ...]:
    dropped = real_laws.without(layers, DROPPED)
    return Architecture("hf", path=str(path), without_layers=dropped).kept_layers(layers)


def encoded(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Texts as the model's tokens. Raises `UsageError` where its tokenizer cannot be read."""
    from experiments.models import folder, words

    own = words.read(folder.source(path))
    return [list(own.encode(text)) for text in texts]


def policy_of(spec: Spec, base: Params, adapters: Adapters) -> Policy:
    """A student over given weights: they may be arguments of a program, or shapes."""
    from fdiv.lm import lora, model
    from fdiv.lm.block import Compute

    return lora.policy(model.policy(spec, Compute(remat=False)), base, spec, adapters)


def laws(policy: Policy, params: Params, places: Places) -> Array:
    """log-probs of what comes next at each place, [N, V]."""
    features = policy.trunk(params, jnp.asarray(places.tokens))
    return policy.head(params, features[places.rows, places.columns])


def of_teacher(students: Students, places: Places) -> np.ndarray:
    """The teacher's, normalised in double precision, [N, V]."""
    from fdiv.lm import model

    own = model.policy(students.whole)
    log = jax.jit(lambda params: laws(own, params, places))(students.teacher)
    return normalised(log)


def of_students(students: Students, params: Params, places: Places) -> np.ndarray:
    """Theirs, [students, N, V], normalised in double precision."""

    def one(base: Params, params: Params) -> Array:
        return laws(policy_of(students.spec, base, students.adapters), params, places)

    layout = _layout(params)
    program, _ = layout.compile(one, students.base, params, shared=(0,))
    return normalised(program(students.base, params))


def normalised(log: Any) -> np.ndarray:
    """Log-probs that sum to one to rounding in double precision, over the last axis."""
    log = np.asarray(log, np.float64)
    log = log - log.max(-1, keepdims=True)
    return log - np.log(np.exp(log).sum(-1, keepdims=True))


def begun(students: Students, count: int, seed: int) -> Params:
    """So many students that are the model without its layers, and nothing more."""
    init = policy_of(students.spec, students.base, students.adapters).init
    one = init(jax.random.key(seed))
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), one)


def learn(
    students: Students,
    start: Params,
    places: Places,
    log_p: np.ndarray,
    objective: Objective,
    numbers: Sequence[float],
    updates: int,
    seed: int = 0,
    rate: float = RATE,
) -> Learned:
    """Train students [count, ...], of which each has a number, by Adam on all places at once, the
    rate falling to 0 along a half cosine. `log_p` [N, V] are the teacher's laws."""
    tx = optax.adam(optax.cosine_decay_schedule(rate, updates))
    layout = _layout(start)
    state = start, jax.jit(jax.vmap(tx.init))(start)
    keys = jax.random.split(jax.random.key(seed), len(numbers))
    shared = students.base, jnp.asarray(log_p, jnp.float32)
    of_each = jnp.asarray(numbers, jnp.float32)
    one = _update(students.spec, students.adapters, places, objective, tx)
    at = jnp.zeros(len(numbers), jnp.int32)
    program, _ = layout.compile(one, *shared, *state, keys, of_each, at, shared=(0, 1))
    losses = []
    for step in range(updates):
        *state, loss = program(*shared, *state, keys, of_each, at + step)
        losses.append(np.asarray(loss))
    return Learned(state[0], np.array(losses))


def _update(
    spec: Spec, adapters: Adapters, places: Places, objective: Objective, tx: Any
) -> Callable[..., tuple[Params, Any, Array]]:
    """One student's update."""

    def update(base, log_p, params, opt, key, number, step):
        def loss(params: Params) -> Array:
            log_q = laws(policy_of(spec, base, adapters), params, places)
            return objective(log_q, log_p, number, jax.random.fold_in(key, step))

        value, slope = jax.value_and_grad(loss)(params)
        moves, opt = tx.update(slope, opt, params)
        return optax.apply_updates(params, moves), opt, value

    return update


def _layout(params: Params) -> SeedLayout:
    return SeedLayout(jax.tree.leaves(params)[0].shape[0], jax.devices()[:1])


# --- from a config alone --------------------------------------------------------------------------


def planned(path: Path, places: Places, objective: Objective, count: int, devices: int) -> Result:
    """What an update of `count` students takes on each of so many devices, which are made up from
    this machine's processors: weights in the type of their file, laid out over all devices.
    Nothing is read but config.json, and nothing trained. Raises `UsageError` for devices that
    cannot be."""
    layout = _made_up(devices)
    plan, trained, frozen = _plan(path, places, objective, count, layout)
    about = {"devices": devices, "students": count, "trained": trained, "frozen": frozen}
    return _memory(plan, about, f"an update of {count} students")


def planned_laws(path: Path, length: int, devices: int) -> Result:
    """What the laws of a model at the places of a text of so many tokens take, in the same way."""
    from experiments.models import pretrained
    from fdiv.lm import model

    layout, spec = _made_up(devices), pretrained.source(path).spec
    places = everywhere([[0] * length])
    weights = jax.eval_shape(model.policy(spec).init, jax.random.key(0))
    narrow = lambda x: jax.ShapeDtypeStruct(x.shape, spec.dtype)
    base = layout.shaped(jax.tree.map(narrow, weights), runs=0)

    def of(base: Params, row: Array) -> Array:
        return laws(model.policy(spec), base, places) + 0 * row

    row = jax.ShapeDtypeStruct((1,), jnp.float32)  # one run
    program, _ = layout.compile(of, base, row, shared=(0,))
    frozen = sum(x.size for x in jax.tree.leaves(weights))
    about = {"devices": devices, "students": 0, "trained": 0, "frozen": frozen}
    return _memory(program.memory_analysis(), about, f"laws at {length - 1} places")


def _made_up(devices: int) -> MeshLayout:
    """A mesh of so many, over which weights are parted."""
    if not 1 <= devices <= MOST:
        raise UsageError("plan", devices, "devices cannot be made up.", f"Give 1 to {MOST}.")
    others = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} {others}".strip()
    if len(jax.devices()) < devices:
        problem = f"are more devices than the {len(jax.devices())} that jax was begun with."
        raise UsageError("plan", devices, problem, "Begin a new process.")
    return MeshLayout(1, jax.devices()[:devices], {"data": 1, "fsdp": devices, "tensor": 1})


def _memory(plan: Any, about: dict[str, int], what: str) -> Result:
    """A compiled program's memory by parts, as a figure's result."""
    parts = {
        "before an update": plan.argument_size_in_bytes,
        "while it lasts": plan.temp_size_in_bytes,
        "given back": plan.output_size_in_bytes - plan.alias_size_in_bytes,
    }
    rows: list[Row] = [{"on each device": name, "bytes": size} for name, size in parts.items()]
    total = sum(parts.values())
    detail = f"{memory.spelled(total)} on each of {about['devices']}; "
    detail += f"{about['trained']:,} numbers are trained and {about['frozen']:,} are not"
    checks = [Check(f"{what}: compiled from config.json alone", total > 0, detail)]
    return Result({**about, "bytes": parts}, checks, rows, _bars(parts))


def refuse_unnamed(model: Path | None, plan: int) -> Path:
    """The model of a plan. Raises `UsageError` where none is named."""
    if model is None:
        fix = "Give --model FOLDER; of a folder its config.json is enough."
        raise UsageError("plan", plan, "names no model.", fix)
    return model


def _plan(
    path: Path, places: Places, objective: Objective, count: int, layout: MeshLayout
) -> tuple[Any, int, int]:
    """(memory of the compiled update, numbers trained, numbers frozen)"""
    from experiments.models import pretrained
    from fdiv.lm import lora, model

    whole = pretrained.source(path).spec
    spec = whole.only(_kept(path, whole.layers))
    adapters, tx = Lora(RANK).adapters(), optax.adam(RATE)
    weights = jax.eval_shape(model.policy(spec).init, jax.random.key(0))
    narrow = lambda x: jax.ShapeDtypeStruct(x.shape, spec.dtype)
    base = layout.shaped(jax.tree.map(narrow, weights), runs=0)
    one = _update(spec, adapters, places, objective, tx)
    several = jax.vmap(one, in_axes=(None, None, 0, 0, 0, 0, 0))

    def begin(key: Array) -> tuple[Params, Any]:
        params = lora.init(spec, adapters, key)
        return params, tx.init(params)

    # one run of all students
    keys = jax.random.split(jax.random.key(0), count)
    state = jax.eval_shape(jax.vmap(jax.vmap(begin)), keys[None])
    of: Any = jax.ShapeDtypeStruct
    numbers = (of((count,), jnp.float32), of((count,), jnp.int32))
    log_p = of((len(places.rows), spec.vocab), jnp.float32)

    def update(base, log_p, state, keys, number, step):
        return several(base, log_p, *state, keys, number, step)

    shaped = layout.shaped(state, runs=1)
    program, _ = layout.compile(
        update, base, log_p, shaped, keys, *numbers, shared=(0, 1, 3, 4, 5), donate=(2,)
    )
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    return program.memory_analysis(), size(state[0]), size(base)


def _bars(parts: dict[str, int]) -> Any:
    style.use()
    figure, axis = plt.subplots(figsize=(4.2, 1.8), layout="constrained")
    axis.barh(list(parts), [size / 1e9 for size in parts.values()], color=style.OTHER)
    axis.set(xlabel="GB on each device")
    axis.invert_yaxis()
    return figure


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """A mean over places and half its 95% interval, places counted as if they were independent."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)
