"""Which range an axis shows: what one method among several would stretch it to is cut, and marked
with an arrow at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

FAR, FAR_OF_TWO = 4.0, 10.0  # times the others' range that one method alone may not stretch it to
LEAST, LEAST_DECADES = 0.35, 0.3  # range of others that hardly differ: of their size, in decades
BAND = 0.5  # of the range that intervals may add on either side
ROOM = 0.05
NEAR = 0.3  # share of an axis that a label takes


class Curve(NamedTuple):
    """Values of a method with the ends of their intervals."""

    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Frame(NamedTuple):
    """What an axis shows, from where to where, and for each method that leaves it the place of its
    furthest point."""

    low: float
    high: float
    beyond: dict[str, int]

    def edge(self, value: float) -> float:
        """The end of the axis past which a value lies."""
        return self.high if value > self.high else self.low


def frame(curves: Mapping[str, Curve], log: bool, also: Sequence[float] = ()) -> Frame | None:
    """The range that holds all methods but those that would stretch it far, `also` some values, and
    intervals as far as these are not much longer; None where nothing can be shown."""
    scale = np.log10 if log else np.asarray
    sound = {name: _finite(curve.middle, log) for name, curve in curves.items()}
    ranges = {n: (scale(v).min(), scale(v).max()) for n, v in sound.items() if v.size}
    if not ranges:
        return None
    inside = _without_the_far(ranges, log)
    extra = scale(_finite(also, log)).tolist()
    low = min([ranges[name][0] for name in inside] + extra)
    high = max([ranges[name][1] for name in inside] + extra)
    # all may be one value, or 0
    span = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-12) if high or low else 1.0
    ends = [scale(_finite([*curves[name].low, *curves[name].high], log)) for name in inside]
    ends = np.concatenate(ends)
    if ends.size:
        low = max(min(low, ends.min()), low - BAND * span)
        high = min(max(high, ends.max()), high + BAND * span)
    low, high = low - ROOM * span, high + ROOM * span
    low, high = (10**low, 10**high) if log else (low, high)
    beyond = {}
    for name, curve in curves.items():
        off = [
            max(value - high, low - value) if np.isfinite(value) else 0 for value in curve.middle
        ]
        if off and max(off) > 0:
            beyond[name] = int(np.argmax(off))
    return Frame(float(low), float(high), beyond)


def rows(places: Sequence[tuple[str, float, float]]) -> list[int]:
    """The row of each label beside its arrow, so that those of arrows at one place (side, and
    shares of both axes) stand under each other."""
    near = lambda a, b: a[0] == b[0] and abs(a[1] - b[1]) < NEAR and abs(a[2] - b[2]) < NEAR / 3
    return [sum(near(place, other) for other in places[:i]) for i, place in enumerate(places)]


def _finite(values: Sequence[float], log: bool) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array) & (array > 0)] if log else array[np.isfinite(array)]


def _without_the_far(ranges: Mapping[str, tuple[float, float]], log: bool) -> list[str]:
    """Names in whose common range no single one has more than its part."""
    inside = list(ranges)
    while len(inside) > 1:
        spans = {name: _span([ranges[n] for n in inside if n != name]) for name in inside}
        far = min(spans, key=spans.__getitem__)
        whole = _span([ranges[name] for name in inside])
        size = max(abs(x) for name in inside if name != far for x in ranges[name])
        rest = max(spans[far], LEAST_DECADES if log else LEAST * size)
        # where all others stand still at 0 there is nothing to see but the one
        if not rest or whole <= (FAR if len(inside) > 2 else FAR_OF_TWO) * rest:
            break
        inside.remove(far)
    return inside


def _span(ranges: Sequence[tuple[float, float]]) -> float:
    return max(high for _, high in ranges) - min(low for low, _ in ranges)
