"""Everything that touches the world: flags, files, clocks, devices, pictures. The mathematics is in
`fdiv`.

From Python, `experiments.load("runs/compare")` is a run that was made, with its results and its
policies; `experiments.add_metric` gives every run one more metric."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.reporting.own_metric import add_metric
    from experiments.running.loading import load

__all__ = ["add_metric", "load"]
_PLACES = {  # loaded when they are asked for, as every command begins here
    "add_metric": "experiments.reporting.own_metric",
    "load": "experiments.running.loading",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
