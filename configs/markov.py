"""python -m experiments.compare markov

A random second-order chain with an EOS, learned by first-order policies: variable lengths, every
value exact. Every method but fairl ends within .005 nats of the best that the class can do for its
own divergence (airl .0031, alpha_irl .0009, the others at most .0002). Recorded numbers: python -m
experiments.reproduce markov."""

from pathlib import Path

from experiments.config import make_config
from fdiv.benchmarks import Markov

PRESETS = {
    "markov": (
        "A random Markov chain with an EOS; strings enumerated.",
        make_config(benchmark=Markov(), out=Path("runs/markov")),
    )
}
