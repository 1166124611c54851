"""What a discount of later log-ratios trades: `python -m experiments.figures future_coupling
[--lengths T ... --discounts G ...]`.

The estimator of -grad KL(q||p) of strings, X = sum over t of g_t (sum over t' >= t of G^(t'-t)
s_t'), g_t the score of token t and s_t its log-ratio, for policies and experts that are Markov
chains with the same table at every position. Mean and variance of X are exact: with Z_t = G Z_{t-1}
+ g_t, X_t = X_{t-1} + s_t Z_t, so second moments follow a recursion over the chain's states. The
variance is at most of order T^3 at G = 1 and T^2 at G = 0, for scores are martingale differences:
E|Z_t|^2 adds up like t and not t^2. The bounds of arXiv 2603.25562, T^4 and T^2, leave that out.
The last panel is the bias at one prefix of what compares only K tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common import real_laws, real_students
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.figures.common.drawing import plain_log
from experiments.reporting import style
from fdiv.checks import at_least, between, seeding, share
from fdiv.types import UsageError

SYMBOLS, LONGEST = 4, 4096
VOCAB, PAIRS = 50, 400  # of the laws that K tokens of are compared
TOP = (1, 2, 4, 8, 16, 32)
FORMS: dict[str, tuple[style.LineStyleType, str]] = {
    "with a tail": ("-", "o"),
    "renormalised": ("--", "s"),
    "cut off": (":", "^"),
}
LAWS: dict[str, style.LineStyleType] = {"random": "-", "two regimes": "--"}
BATCHES = (16, 256, 4096)  # strings of a batch, for the best discount


@dataclasses.dataclass(frozen=True)
class Flags:
    """Markov chains and their experts."""

    lengths: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Lengths of strings."""
    discounts: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Weights of later log-ratios, per token."""
    distance: float = 1.0
    """Standard deviation of the policy's logits about the expert's."""
    seed: int = 0
    """Which chains."""
    model: Path | None = None
    """A pretrained model in the Hugging Face layout: K tokens also of its next-token laws, the
    student being the model without an eighth of its layers."""
    plan: int = 0
    """Compiles these laws for so many devices, from the model's config.json alone, and computes
    nothing else; 0: computes."""


class Pair(NamedTuple):
    """A policy's chain q and its log-ratio to the expert, [V, V] each, and the law of the symbol
    before the first, [V]."""

    q: np.ndarray
    s: np.ndarray
    start: np.ndarray


class Moments(NamedTuple):
    """Of the estimator."""

    mean: np.ndarray  # [V * V]
    variance: float  # trace of its covariance


def make(flags: Flags) -> Result:
    """Every length and discount, with and without a baseline; then K tokens."""
    if flags.plan:
        model = real_students.refuse_unnamed(flags.model, flags.plan)
        return real_students.planned_laws(model, 96, flags.plan)
    distinct("lengths", flags.lengths)
    distinct("discounts", flags.discounts)
    for length in flags.lengths:
        at_least("lengths", length, 2)
        if length > LONGEST:
            raise UsageError("lengths", length, "is too long.", f"Give at most {LONGEST}.")
    for discount in flags.discounts:
        share("discounts", discount)
    between("distance", flags.distance, 0.01, 5)
    seeding("seed", flags.seed)
    if len(flags.lengths) < 2:
        raise UsageError("lengths", flags.lengths, "have no slope.", "Give two or more.")
    own = real_laws.laws(flags.model) if flags.model else None
    pairs = {"random": random_pair(flags), "two regimes": two_regimes(flags)}
    rows, values = [], {}
    for name, pair in pairs.items():
        for baseline in (False, True):
            values.setdefault(name, {})["baseline" if baseline else "none"] = table = {}
            for discount in flags.discounts:
                table[f"{discount:g}"] = row = summarise(pair, discount, baseline, flags.lengths)
                about = {"chain": name, "baseline": "exact" if baseline else "none"}
                plain = {k: v for k, v in row.items() if k != "variance"}
                rows.append({**about, "discount": discount, **plain})
    best = {name: best_discounts(pair, max(flags.lengths)) for name, pair in pairs.items()}
    top = {name: bias_of_top(name, *random_laws(flags.seed)) for name in FORMS}
    values |= {"best discount": best, "top": top}
    if own:
        values["top of the model"] = {name: bias_of_top(name, *own) for name in FORMS}
    curve: list[Row] = [*rows]
    for name, found in top.items():
        curve += [{"form": name, "K": int(k), "cosine": x} for k, x in found.items()]
    checks = _checks(flags, pairs, values, top)
    return Result(values, checks, rows, _picture(flags, values, top), curve)


# --- chains ---------------------------------------------------------------------------------------


def random_pair(flags: Flags) -> Pair:
    """A random chain, and a policy some way off."""
    z, step = np.random.default_rng(flags.seed).standard_normal((2, SYMBOLS, SYMBOLS))
    q, p = softmax(z + flags.distance * step), softmax(z)
    return Pair(q, np.log(p / q), np.eye(SYMBOLS)[0])


def two_regimes(flags: Flags) -> Pair:
    """Two halves of the symbols, never left, of which a string is in one from the start: in the
    first the policy is the expert, in the second some way off. What one token says of the regime
    holds for all, so variances add up as much as they can."""
    half = SYMBOLS // 2
    z, step = np.random.default_rng(flags.seed).standard_normal((2, half, half))
    q, s = np.zeros((SYMBOLS, SYMBOLS)), np.zeros((SYMBOLS, SYMBOLS))
    q[:half, :half] = softmax(z)
    q[half:, half:] = softmax(z + flags.distance * step)
    s[half:, half:] = np.log(softmax(z) / q[half:, half:])
    start = np.zeros(SYMBOLS)
    start[[0, half]] = 0.5
    return Pair(q, s, start)


def softmax(z: np.ndarray) -> np.ndarray:
    """Of each row."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scores(q: np.ndarray) -> np.ndarray:
    """grad log q(v | c) in the table's logits. [c, v, V * V]"""
    size = len(q)
    g = np.zeros((size, size, size, size))
    for c in range(size):
        g[c, :, c] = np.eye(size) - q[c]
    return g.reshape(size, size, size * size)


def values_to_go(pair: Pair, discount: float, length: int) -> np.ndarray:
    """What is expected of a token's discounted log-ratios from a symbol on, [length, V]."""
    found, later = [], np.zeros(len(pair.q))
    for _ in range(length):
        later = (pair.q * (pair.s + discount * later)).sum(1)
        found.append(later)
    return np.array(found[::-1])


def moments(pair: Pair, discount: float, length: int, baseline: bool = False) -> Moments:
    """Mean and variance of X by recursion over the last symbol, all of E[. 1{symbol}]. A baseline
    is what is expected of the sum, given the prefix."""
    q, s, g = pair.q, pair.s, scores(pair.q)
    b = values_to_go(pair, discount, length) * baseline
    size = (g**2).sum(-1)  # |g|^2, [c, v]
    mass, z, x = pair.start, np.zeros((len(q), g.shape[-1])), np.zeros((len(q), g.shape[-1]))
    zz, xz, xx = np.zeros((3, len(q)))
    for t in range(length):
        zg, xg = (np.einsum("cd,cvd->cv", m, g) for m in (z, x))
        new_z = discount * z[:, None] + mass[:, None, None] * g
        new_zz = (discount**2 * zz)[:, None] + 2 * discount * zg + mass[:, None] * size
        new_zg = discount * zg + mass[:, None] * size
        new_xz = discount * xz[:, None] + xg  # X as it was with the new Z
        at = b[t][:, None]
        new_xx = xx[:, None] + s**2 * new_zz + at**2 * mass[:, None] * size
        new_xx += 2 * s * new_xz - 2 * at * xg - 2 * s * at * new_zg
        new_x = x[:, None] + s[..., None] * new_z - at[..., None] * mass[:, None, None] * g
        to = lambda m: np.einsum("cv,cv->v", q, m)
        z, x = (np.einsum("cv,cvd->vd", q, m) for m in (new_z, new_x))
        mass, zz, xx = mass @ q, to(new_zz), to(new_xx)
        xz = to(new_xz + s * new_zz - at * new_zg)
    mean = x.sum(0)
    return Moments(mean, float(xx.sum() - mean @ mean))


def summarise(
    pair: Pair, discount: float, baseline: bool, lengths: tuple[int, ...]
) -> dict[str, float | dict[str, float]]:
    """Bias at the greatest length, variance at each, and the slope of its growth over the last two
    lengths."""
    ordered = sorted(lengths)
    found = {length: moments(pair, discount, length, baseline) for length in ordered}
    last, before = ordered[-1], ordered[-2]
    truth = moments(pair, 1.0, last).mean
    mean = found[last].mean
    ratio = found[last].variance / found[before].variance
    return {
        "cosine": float(mean @ truth / np.linalg.norm(mean) / np.linalg.norm(truth)),
        "norm ratio": float(np.linalg.norm(mean) / np.linalg.norm(truth)),
        "slope of variance": float(np.log(ratio) / np.log(last / before)),
        "variance": {str(length): found[length].variance for length in ordered},
    }


def best_discounts(pair: Pair, length: int) -> dict[str, float]:
    """The discount whose mean over a batch is nearest to the gradient in squared error, without a
    baseline."""
    grid = np.linspace(0, 1, 41)
    each = [moments(pair, discount, length) for discount in grid]
    truth = each[-1].mean
    bias = np.array([((m.mean - truth) ** 2).sum() for m in each])
    noise = np.array([m.variance for m in each])
    return {str(n): float(grid[np.argmin(bias + noise / n)]) for n in BATCHES}


# --- K tokens at one prefix -----------------------------------------------------------------------


def climb(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Policy gradient in the logits, [..., V]."""
    return q * (r - (q * r).sum(-1, keepdims=True))


def of_top(form: str, log_p: np.ndarray, log_q: np.ndarray, k: int) -> np.ndarray:
    """-grad of what a form computes of the policy's K likeliest tokens. [..., V]

    With a tail the other tokens are one: r is the log-ratio of the bucket for each of them. Cut
    off, sum over K of q log(q/p): r = s - 1 on K and 0 off it. Renormalised, both laws are those
    given K."""
    q, s = np.exp(log_q), log_p - log_q
    rank = np.argsort(np.argsort(-q, axis=-1), axis=-1)
    among = rank < k
    rest = lambda log: np.log(np.where(among, 0, np.exp(log)).sum(-1, keepdims=True))
    if form == "with a tail":
        return climb(q, np.where(among, s, rest(log_p) - rest(log_q)))
    if form == "cut off":
        return climb(q, np.where(among, s - 1, 0.0))
    inside = np.where(among, q, 0) / np.where(among, q, 0).sum(-1, keepdims=True)
    return climb(inside, np.where(among, s, 0.0))


def random_laws(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """log p and log q of random pairs, [pairs, V]."""
    z, step = np.random.default_rng(seed).standard_normal((2, PAIRS, VOCAB))
    return np.log(softmax(2 * z)), np.log(softmax(2 * z + step))


def bias_of_top(form: str, log_p: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """Mean cosine with the whole vocabulary's gradient, by K."""
    whole = climb(np.exp(log_q), log_p - log_q)
    found = {}
    for k in TOP:
        part = of_top(form, log_p, log_q, k)
        size = np.linalg.norm(part, axis=1) * np.linalg.norm(whole, axis=1)
        cosines = np.divide((part * whole).sum(1), size, out=np.zeros(len(size)), where=size > 0)
        found[str(k)] = float(cosines.mean())
    return found


def _checks(flags: Flags, pairs: dict[str, Pair], values: dict, top: dict) -> list[Check]:
    checks = []
    for name, pair in pairs.items():
        for discount in (0.0, 0.5, 1.0):
            mean, variance = by_enumeration(pair, discount, 4)
            found = moments(pair, discount, 4)
            off = float(np.abs(found.mean - mean).max()) + abs(found.variance - variance)
            about = f"{name}, discount {discount:g}: moments by enumeration at length 4"
            checks.append(near(about, off, 0, 1e-10 * (1 + variance)))
        truth, wanted = (moments(pair, 1.0, 4, b).mean for b in (True, False))
        off = float(np.abs(truth - wanted).max())
        checks.append(near(f"{name}: a baseline changes no mean", off, 0, 1e-12))
        for discount, most in ((1.0, 3.0), (0.0, 2.0)):
            if discount in flags.discounts:
                slope = values[name]["none"][f"{discount:g}"]["slope of variance"]
                holds = slope < most + 0.05
                about = f"{name}, discount {discount:g}: variance grows at most as T^{most:g}"
                checks.append(Check(about, holds, f"slope {slope:.3f}"))
    for k in TOP[:-1]:
        tail, others = top["with a tail"][str(k)], [top[f][str(k)] for f in FORMS]
        detail = " ".join(f"{x:.3f}" for x in others)
        checks.append(Check(f"K = {k}: a tail has the least bias", tail >= max(others), detail))
    return checks


def by_enumeration(pair: Pair, discount: float, length: int) -> tuple[np.ndarray, float]:
    """Mean and variance of X over all strings."""
    g, size = scores(pair.q), len(pair.q)
    mean, square = np.zeros(size * size), 0.0
    for first in np.flatnonzero(pair.start):
        for string in np.ndindex(*[size] * length):
            before = (first, *string[:-1])
            chance = pair.start[first] * np.prod([pair.q[c, v] for c, v in zip(before, string)])
            if chance == 0:
                continue
            s = [pair.s[c, v] for c, v in zip(before, string)]
            x = np.zeros(size * size)
            for t in range(length):
                to_go = sum(discount ** (j - t) * s[j] for j in range(t, length))
                x = x + g[before[t], string[t]] * to_go
            mean, square = mean + chance * x, square + chance * float(x @ x)
    return mean, square - float(mean @ mean)


def _picture(flags: Flags, values: dict, top: dict) -> Picture:
    """Variance against length, the cosine and best discounts, K tokens."""
    style.use()
    shape = {"figsize": (7.6, 3.1), "layout": "constrained"}
    figure, (growth, trade, tokens) = plt.subplots(1, 3, **shape)
    lengths = sorted(flags.lengths)
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(flags.discounts)))
    colours = dict(zip(flags.discounts, shades))
    for name, line in LAWS.items():
        for discount in flags.discounts:
            variance = values[name]["none"][f"{discount:g}"]["variance"]
            y = [variance[str(length)] for length in lengths]
            growth.plot(lengths, y, line, color=colours[discount], linewidth=1.4)
        rows = [values[name]["none"][f"{discount:g}"] for discount in flags.discounts]
        x = [row["norm ratio"] * row["cosine"] for row in rows]
        noise = [row["variance"][str(lengths[-1])] for row in rows]
        trade.plot(noise, x, line, color=style.OTHER, linewidth=1.0, zorder=1)
        trade.scatter(noise, x, c=[colours[discount] for discount in flags.discounts], zorder=2)
    growth.set(xscale="log", yscale="log", xlabel="length T", ylabel="variance (trace)")
    plain_log(growth.xaxis)
    growth.set_xticks(lengths, [str(length) for length in lengths])
    growth.set_xticks([], minor=True)
    slopes = [values["random"]["none"][f"{g:g}"]["slope of variance"] for g in flags.discounts]
    for discount, slope in ((flags.discounts[0], slopes[0]), (flags.discounts[-1], slopes[-1])):
        variance = values["random"]["none"][f"{discount:g}"]["variance"]
        at = (lengths[-1], variance[str(lengths[-1])])
        note = {"textcoords": "offset points", "ha": "right", "fontsize": 7.5}
        offset = (-16, -4) if slope > 2 else (0, -40)
        growth.annotate(f"slope {slope:.1f}", at, offset, color=colours[discount], **note)
    trade.set(xscale="log", xlabel=f"variance at T = {lengths[-1]}")
    trade.set_ylabel("share of the gradient kept")
    for form, (line, marker) in FORMS.items():
        y = list(top[form].values())
        tokens.plot(TOP, y, line, marker=marker, color=style.colour("reverse_kl"), label=form)
        for y in [list(values["top of the model"][form].values())] if flags.model else ():
            tokens.plot(TOP, y, line, marker=marker, color=style.EXPERT, linewidth=1.0)
    if flags.model:
        tokens.annotate("black: the model's laws", (1, 1.0), fontsize=7.5)
    tokens.set(
        xscale="log", xlabel=f"K of {VOCAB} tokens", ylabel="cosine with all tokens' gradient"
    )
    tokens.set_xticks(TOP, [str(k) for k in TOP])
    tokens.set_xticks([], minor=True)
    tokens.legend(loc="lower right")
    handles = [
        plt.Line2D([], [], color=colours[g], marker="o", markersize=5, label=f"discount {g:g}")
        for g in flags.discounts
    ]
    handles += [
        plt.Line2D([], [], color=style.OTHER, linestyle=line, label=f"chain: {name}")
        for name, line in LAWS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="What a discount of later log-ratios trades",
    claim=(
        "A discount takes bias for variance, whose growth with length is at most of the third "
        "power, not of the fourth."
    ),
    source=(
        "Revisiting on-policy distillation (arXiv 2603.25562); Schulman et al. 2016 "
        "(arXiv 1506.02438) for the discount as bias against variance"
    ),
    cluster=Flags(model=Path("models/llama-1b"), lengths=(4, 8, 16, 32, 64, 128, 256)),
)
