"""Commands of a page of the docs, run as written, only shortened."""

from __future__ import annotations

import contextlib
import re
import sys
from unittest import mock

from fdiv import divergences, metrics
from fdiv.benchmarks import BENCHMARKS
from fdiv.benchmarks.own_reward import REWARDS
from fdiv.objectives import METHODS

OURS = re.compile(r"(experiments|configs|imported_\w+)(\.|$)")
SHORT = [
    *("--updates", "6", "--seeds", "2", "--batch-size", "32", "--evaluations", "1"),
    *("--policy.name", "full", "--samples", "8", "--report", "False"),
    *("--benchmark.vocab", "2", "--benchmark.horizon", "3"),
]


@contextlib.contextmanager
def fresh_scripts():
    """The scripts as a new interpreter would load them, and what an imported file adds undone
    afterwards: a config's flags are made once, when its module is loaded."""
    scripts = lambda: {name: sys.modules[name] for name in sys.modules if OURS.match(name)}
    before = scripts()
    for name in before:
        del sys.modules[name]
    try:
        with contextlib.ExitStack() as undone:
            tables = (divergences.FAMILY, BENCHMARKS, METHODS, metrics.STATISTICS, REWARDS)
            for table in tables:
                undone.enter_context(mock.patch.dict(table))
            yield
    finally:
        for name in scripts():
            del sys.modules[name]
        sys.modules.update(before)
