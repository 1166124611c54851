"""What a run starts from where --start-from names an earlier one: the policies that a method of it
has trained, seed by seed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.running import trained
from fdiv.benchmarks import Text
from fdiv.types import Params, Policy, UsageError

# options of text that decide which rows are held out
DECIDE = ("prompt_length", "horizon", "store", "tokenizer", "validation")
FLAGS = {"run": "start_from", "method": "start_method"}  # what an error names -> the option


def start(config: Config, policy: Policy) -> Params | None:
    """Every seed's parameters, [seeds, ...]; None where no run is named. Raises `UsageError` for a
    run with fewer seeds, or of other policies."""
    if config.budget.start_from is None:
        return None
    whole = _read(config)
    seeds = config.budget.seeds
    shapes = lambda tree: jax.tree.map(lambda x: tuple(x.shape), tree)
    wanted = shapes(jax.eval_shape(policy.init, jax.random.key(0)))
    each = jax.tree.map(lambda x: x[0], whole)
    if shapes(each) != wanted:
        problem = "has policies of another class or another task than this run."
        fix = "Give the same --policy and --benchmark as that run had."
        raise UsageError("start_from", str(config.budget.start_from), problem, fix)
    return jax.tree.map(lambda x: jnp.asarray(x[:seeds]), whole)


def leak(config: Config) -> str:
    """What to know where that run was trained on rows of the same file that this one may hold out;
    else nothing. The side of a row is decided by a hash of its prompt as it is cut, which rows in
    memory and rows on the host have each of their own."""
    if config.budget.start_from is None or not isinstance(now := config.benchmark, Text):
        return ""
    with _under_flags():
        before = trained.read(config.budget.start_from).config.benchmark
    if not isinstance(before, Text) or before.path != now.path:
        return ""
    by_default = {"store": "memory"}
    of = lambda text: {name: getattr(text, name) or by_default.get(name) for name in DECIDE}
    other = [name for name, value in of(now).items() if value != of(before)[name]]
    fewer = other == ["validation"] and now.validation < before.validation  # of the same rows
    if not other or fewer:
        return ""
    named = " and ".join(f"--benchmark.{name.replace('_', '-')}" for name in other)
    return (
        f"--start-from: that run had another {named}, so it may have been trained on rows that are "
        "held out here, and what is measured at these is too good then."
    )


def identity(config: Config) -> dict[str, str]:
    """A digest of those parameters, which decide a run's numbers as its config does."""
    if config.budget.start_from is None:
        return {}
    state = hashlib.sha256()
    for leaf in jax.tree.leaves(_read(config)):
        state.update(f"{leaf.dtype} {leaf.shape} ".encode() + np.ascontiguousarray(leaf).tobytes())
    return {"start_model": state.hexdigest()[:16]}


def _read(config: Config) -> Params:
    path, name = config.budget.start_from, config.budget.start_method
    assert path is not None, "a run is named"
    with _under_flags():
        run = trained.read(path)
        own = run.name(name)
        before, seeds = run.config.budget.seeds, config.budget.seeds
        if before < seeds:
            problem = f"are more than the {before} that {path} has trained."
            raise UsageError("seeds", seeds, problem, f"Give at most {before}.")
        return run.params(own)


@contextlib.contextmanager
def _under_flags() -> Iterator[None]:
    """What is wrong with the earlier run is said of the option that names it."""
    try:
        yield
    except UsageError as error:
        field = FLAGS.get(error.field, error.field)
        fix = error.fix.replace("--method:", "--start-method:")
        raise UsageError(field, error.value, error.problem, fix) from error
