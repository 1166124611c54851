"""python -m experiments.compare preferences [--benchmark.divergence F --methods f_dpo:F]

The task of rlhf learned from comparisons alone, each seen both ways round by its probability. In
total variation DPO comes within .0002 of ref exp(r / beta), and f_dpo:F within .013 of the optimum
of a task whose penalty is F (.0014 forward_kl, .0017 hellinger2, .0127 js). IPO ends .048 away,
where its own closed form is, and SimPO .6; KTO .007, since rewards of 0 and 1 are told apart by
which wins more often. js makes the flattest loss: hence the batches and updates beyond those of
rlhf.

`python -m experiments.reproduce preferences` holds a new run against the recorded one
(docs/recorded.md)."""

from pathlib import Path

from experiments.config import make_config
from fdiv.benchmarks import Rewarded
from fdiv.policies import Architecture

PRESETS = {
    "preferences": (
        "Comparisons on the two-template language, without a reward model.",
        make_config(
            benchmark=Rewarded(labels="exact"),
            policy=Architecture("full"),
            methods=("dpo", "ipo", "kto", "simpo"),
            updates=5000,
            batch_size=1024,
            optimum_starts=6,
            out=Path("runs/preferences"),
        ),
    ),
}
