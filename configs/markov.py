"""python -m experiments.compare markov

A random second-order chain with an EOS, learned by first-order policies: variable lengths, every value exact.
"""

from pathlib import Path

from experiments.config import Config
from fdiv.benchmarks import Markov

PRESETS = {
    "markov": ("A random Markov chain with an EOS; strings enumerated.", Config(benchmark=Markov(), out=Path("runs/markov")))
}
