"""A divergence of two arrays, for whoever has probabilities and no policy.

    fdiv.divergence("js", [0.7, 0.2, 0.1], [0.5, 0.3, 0.2])  # 0.0219 nats

The last axis is that of the outcomes; all axes before it are a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.divergences import over_vocabulary
from fdiv.types import Divergence, UsageError

NEAR, NEAR_OF_HALF = 1e-4, 2e-2  # how far from 1 a sum may be, of numbers of two bytes too
ROUNDING = 1e-6  # above 0 of a log-prob


def divergence(
    d: str | Divergence, p: Any, q: Any, *, log: bool = False, logits: bool = False
) -> Any:
    """`D_f(p||q) = sum over the last axis of q f(p / q)`, in nats: [..., V], [..., V] -> [...].

    `d` is a member or its name (`"js"`, `"alpha:0.5"`). `p` and `q` are probabilities, with `log`
    log-probs, with `logits` any numbers, which are normalised here. Batch axes are broadcast.

    Lists and numpy arrays are computed in double precision and give numpy; JAX arrays keep their
    type, and may be traced or differentiated. Raises `UsageError` for arrays that do not fit each
    other, and for what is not normalised, which is not looked for in what is being traced."""
    measure = over_vocabulary(d) if isinstance(d, str) else d
    if not hasattr(measure, "perspective"):
        raise UsageError("d", d, "is no divergence.", 'Give its name, such as "js".')
    if log and logits:
        problem = "says that the numbers are normalised, and logits=True that they are not."
        raise UsageError("log", log, problem, "Give one of the two.")
    traced = isinstance(p, Array) or isinstance(q, Array)
    if traced:
        laws = [_jax(name, x) for name, x in (("p", p), ("q", q))]
        _check(laws, [_near(x) for x in (p, q)], log, logits)
        return _summed(measure, *(_log(x, log, logits) for x in laws))
    with jax.enable_x64(True):
        laws = [_numpy(name, x) for name, x in (("p", p), ("q", q))]
        _check(laws, [_near(x) for x in (p, q)], log, logits)
        total = _summed(measure, *(_log(jnp.asarray(x), log, logits) for x in laws))
        return np.asarray(total)[()]


def _summed(measure: Divergence, log_p: Array, log_q: Array) -> Array:
    log_p, log_q = jnp.broadcast_arrays(log_p, log_q)
    return measure.perspective(log_p, log_q).sum(-1)


def _log(x: Array, log: bool, logits: bool) -> Array:
    if logits:
        return jax.nn.log_softmax(x, axis=-1)
    if log:
        return x
    # where a probability is 0 its log has no slope, which must not become 0 times infinity
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


# --- what they must be ----------------------------------------------------------------------------


def _jax(name: str, x: Any) -> Array:
    if not isinstance(x, Array):
        x = _numpy(name, x)
    whole = jnp.asarray(x)
    if jnp.issubdtype(whole.dtype, jnp.complexfloating):
        raise _no_numbers(name, x)
    if whole.dtype.itemsize == 1:  # 8-bit floats, which JAX computes nothing with
        return whole.astype(jnp.float32)
    return whole if jnp.issubdtype(whole.dtype, jnp.floating) else whole.astype(float)


def _numpy(name: str, x: Any) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        fix = "Leave them out, or fill them: x.filled(0)."
        raise UsageError(name, x, "has masked numbers, of which the mask would be lost.", fix)
    try:
        whole = np.asarray(x)
        if whole.dtype.kind not in "biuf":  # another library's, or a list that is ragged
            if any(each is None for each in whole.astype(object).flat):
                raise TypeError("None is no number")
            whole = whole.astype(object).astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_numbers(name, x) from error
    return whole.astype(np.float64)


def _near(x: Any) -> float:
    """How far from 1 a sum may be: float16, bfloat16 and shorter ones are forgiven their
    rounding."""
    kind = getattr(x, "dtype", None)
    short = isinstance(kind, np.dtype) and kind.itemsize <= 2 and kind.kind not in "biu"
    return NEAR_OF_HALF if short else NEAR


def _no_numbers(name: str, x: Any) -> UsageError:
    fix = "Give real numbers, as many in each row: lists, numpy or JAX arrays."
    return UsageError(name, x, "is no array of real numbers.", fix)


def _check(laws: list[Any], near: list[float], log: bool, logits: bool) -> None:
    """Raise `UsageError` for shapes that do not fit, and for numbers that are no law."""
    for name, x in zip("pq", laws):
        if x.ndim == 0 or x.shape[-1] == 0:
            problem = "has no axis of outcomes."
            raise UsageError(name, x.tolist() if _known(x) else x, problem, "Give [..., V].")
    p, q = laws
    try:
        shape = np.broadcast_shapes(p.shape, q.shape)
    except ValueError:
        shape = ()
    if not shape or p.shape[-1] != q.shape[-1]:
        problem = f"does not fit p, whose shape is {p.shape}: outcomes are the last axis."
        fix = "Give as many outcomes, and batch axes that can be broadcast."
        raise UsageError("q.shape", q.shape, problem, fix)
    for name, x, own in zip("pq", laws, near):
        if _known(x):
            _check_law(name, np.asarray(x, np.float64), log, logits, own)


def _known(x: Any) -> bool:
    """Whether an array has numbers, and not only a shape, as inside `jax.jit`."""
    return not isinstance(x, jax.core.Tracer)


def _check_law(name: str, x: np.ndarray, log: bool, logits: bool, near: float) -> None:
    if np.isnan(x).any() or np.isposinf(x).any():
        worst = float(x[np.isnan(x) | np.isposinf(x)][0])
        raise UsageError(name, worst, "is among its numbers.", "Give finite numbers.")
    if logits:
        if np.isneginf(x).all(-1).any():
            problem = "is every number of a row, which leaves nothing to normalise."
            raise UsageError(name, -np.inf, problem, "Give at least one that is finite.")
        return
    rows = np.reshape(x, (-1, x.shape[-1]))
    if not len(rows):
        return
    low = rows.min()
    if not log and low < 0:
        fix = _advice(rows, near)
        raise UsageError(name, float(low), "is no probability: it is below 0.", fix)
    if not log and np.isneginf(low):
        raise UsageError(name, float(low), "is no probability.", "Give log=True for log-probs.")
    if log and rows.max() > ROUNDING + near:
        fix = "Give log=False for probabilities, logits=True for what is not normalised."
        raise UsageError(name, float(rows.max()), "is no log-prob: it is above 0.", fix)
    sums = np.exp(rows).sum(-1) if log else rows.sum(-1)
    worst = sums[np.argmax(np.abs(sums - 1))]
    if abs(worst) > 1 + near or abs(worst) < 1 - near:
        what = "the exponentials of a row" if log else "a row"
        problem = f"is what {what} sum{'' if log else 's'} to, and it has to be 1."
        fix = "Give logits=True to have log-probs normalised." if log else _advice(rows, near)
        raise UsageError(f"{name}.sum(-1)", float(worst), problem, fix)


def _advice(rows: np.ndarray, near: float) -> str:
    """What to pass for numbers that are no probabilities, by what they look like."""
    if rows.max() <= ROUNDING and np.all(np.abs(np.exp(rows).sum(-1) - 1) <= near):
        return "They are log-probs: give log=True."
    if rows.min() < 0:
        return "Give logits=True for scores, which are normalised, or log=True for log-probs."
    return "Divide each row by its sum; give logits=True for scores, log=True for log-probs."
