"""How published numbers are looked up among the values."""

from __future__ import annotations

import math

from experiments.figures import (
    gallery,
)
from experiments.figures.common.published import Published


def test_a_path_may_hold_dots_in_its_keys():
    tree = {"a": {"0.001": {"x": 1}, "0": {"y": 2}}, "b": "inf", "c": None}
    paths = ("a.0.001.x", "a.0.y", "b", "c", "a.0", "a.z")
    values = [gallery.look_up(tree, path) for path in paths]
    assert values == [1, 2, "inf", None, None, None]
    agreed = gallery.compare(tree, [Published("b", math.inf, 0, ""), Published("a.z", 0, 9, "")])
    assert [c.agrees for c in agreed] == [True, False]
