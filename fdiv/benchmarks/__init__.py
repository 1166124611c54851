"""The shared benchmarks: one file each, a frozen dataclass whose fields are flags and whose `build`
gives a `TokenMDP`."""

from __future__ import annotations

from fdiv.benchmarks.arithmetic import Arithmetic
from fdiv.benchmarks.markov import Markov
from fdiv.benchmarks.rewarded import Rewarded
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.two_template import TwoTemplate

BENCHMARKS: dict[str, type] = {
    "two_template": TwoTemplate,
    "markov": Markov,
    "text": Text,
    "rewarded": Rewarded,
    "arithmetic": Arithmetic,
}
