"""What each update of a run leaves beside the state: sums of what is logged, and where it stopped
being finite.

All of it is part of the compiled update and of every save, so it depends neither on the clock nor
on how often a run was stopped. Updates count from 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.devices import offload
from fdiv.types import LearnerState

MEANS = ("loss", "gradient_norm")
# also means since the last evaluation, of runs that have them: of steps whose gradient was longer
# than its bound, and of actions that a clip stopped
SHARES = ("bounded_share", "clip_share")


class Log(NamedTuple):
    """Since the last evaluation: sums [2], their number, tokens, sums of shares. Since the start:
    updates left out, and the first bad one."""

    sums: Array
    used: Array
    tokens: Array
    skipped: Array
    broke: Array  # the first update that was not finite, 0 for none
    what: Array  # index into the names of `watched`
    # the last leaf of a save, so that one from before there were shares lacks its end alone
    shares: Any = ()  # [shares], () where a run has none


def empty(shares: tuple[str, ...] = ()) -> Log:
    """Before the first update of a run with these of `SHARES`."""
    zero = jnp.int32(0)
    own = jnp.zeros(len(shares)) if shares else ()
    return Log(jnp.zeros(len(MEANS)), zero, jnp.uint32(0), zero, zero, zero, own)


def since_evaluation(log: Log, fresh: Array) -> Log:
    """The log with its sums started anew where `fresh`."""
    zero_or = lambda x: jnp.where(fresh, jnp.zeros_like(x), x)
    own = {name: zero_or(getattr(log, name)) for name in ("sums", "used", "tokens")}
    return log._replace(**own, shares=jax.tree.map(zero_or, log.shares))


def watched(old: LearnerState, new: LearnerState, metrics: Mapping[str, Array]) -> dict[str, Array]:
    """Name -> whether it is finite, in the order in which an update computes things. What never was
    finite is no news."""
    after = lambda a, b: [
        jnp.all(jnp.isfinite(y) | ~jnp.isfinite(x)) for x, y in zip(_floats(a), _floats(b))
    ]
    logged = (*MEANS, *SHARES)
    own = {name: jnp.all(jnp.isfinite(x)) for name, x in metrics.items() if name not in logged}
    means = {name: jnp.isfinite(metrics[name]) for name in MEANS}
    return {
        **own,
        "auxiliary state": _all(after(old.aux, new.aux)),
        **means,
        "optimiser state": _all(after(old.opt, new.opt)),
        "parameters": _all(after(old.params, new.params)),
    }


def record(
    log: Log,
    old: LearnerState,
    new: LearnerState,
    metrics: Mapping[str, Array],
    skip: bool,
    shares: tuple[str, ...] = (),
) -> tuple[LearnerState, Log, tuple[str, ...]]:
    """(state to go on with, log, names of what was watched). With `skip` an update that is not
    finite changes nothing. `shares` are those that the log was begun with; one that the method does
    not report is not a number."""
    finite = watched(old, new, metrics)
    stands = jnp.stack(list(finite.values()))
    # what follows the metrics: one of those may be infinite while the update is sound
    good = jnp.all(stands[-5:])
    first = ~good & (log.broke == 0)
    means = jnp.stack([metrics[name].astype(jnp.float32) for name in MEANS])
    counts = good if skip else jnp.bool_(True)
    log = Log(
        log.sums + jnp.where(counts, means, 0.0),
        log.used + counts,
        log.tokens + metrics["tokens"].astype(jnp.uint32),
        log.skipped + (~counts).astype(jnp.int32),
        jnp.where(first, new.step, log.broke),
        jnp.where(first, jnp.argmin(stands).astype(jnp.int32), log.what),
        _with_shares(log.shares, metrics, shares, counts),
    )
    if skip:
        new = offload.chosen(good, new, old._replace(step=new.step))
    return new, log, tuple(finite)


def _with_shares(
    before: Any, metrics: Mapping[str, Array], shares: tuple[str, ...], counts: Array
) -> Any:
    if not shares:
        return before
    own = [jnp.asarray(metrics.get(name, jnp.nan), jnp.float32) for name in shares]
    return before + jnp.where(counts, jnp.stack(own), 0.0)


def means(log: Log, shares: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Name -> [count], of what the log of the host has summed since the last evaluation; shares
    that no run reports are left out."""
    over = lambda sums: np.where(log.used > 0, sums.T / np.maximum(log.used, 1), np.nan)
    own = dict(zip(MEANS, over(log.sums)))
    if shares:
        each = zip(shares, over(log.shares))
        own |= {name: values for name, values in each if not np.all(np.isnan(values))}
    return own


def described(log: Log, names: tuple[str, ...], skip: bool) -> str:
    """Which seeds were not finite, since when, and what first; nothing where all were. `log` is of
    the host, [count]."""
    broken = np.flatnonzero(log.broke)
    each = [
        f"seed {i}: {names[log.what[i]]} was not finite at update {log.broke[i]}" for i in broken
    ]
    if skip:
        each = [f"{text} (the first of {log.skipped[i]} left out)" for text, i in zip(each, broken)]
    return "; ".join(each)


def _floats(tree: Any) -> list[Array]:
    # what lies in the host's memory says by itself, with a number, whether it is
    return [x for x in offload.unmarked_leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]


def _all(conditions: list[Array]) -> Array:
    return jnp.all(jnp.stack(conditions)) if conditions else jnp.bool_(True)
