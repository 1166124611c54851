"""python -m experiments.compare rlhf [--beta B]

The two-template language with its share of valid strings as the reward, and the best Markov fit as
the reference: the optimum of reward minus beta KL is known, and so is all that a method leaves on
the table.

Recorded numbers: `python -m experiments.reproduce rlhf`, and `python -m experiments.reproduce
rlhf-markov`."""

from pathlib import Path

from experiments.config import make_config
from fdiv.benchmarks import Markov, Rewarded
from fdiv.policies import Architecture

COMMON = {
    "policy": Architecture("full"),
    "methods": (
        "reinforce",
        "rloo",
        "grpo",
        "ppo",
        "grpo_std",
        "grpo_std:k3-loss",
        "rloo:k2-loss",
        "rloo:k3-loss",
        "rloo:k3-reward",
        "fdpg:reverse_kl",
        "distill:reverse_kl",
        "dpo",
        "ipo",
        "kto",
        "simpo",
        "bt_rloo",
    ),
    "updates": 1500,
    "optimum_starts": 6,
}
PRESETS = {
    "rlhf": (
        "Reward minus beta times a divergence from a reference, on the two-template language.",
        make_config(benchmark=Rewarded(), out=Path("runs/rlhf"), **COMMON),
    ),
    "rlhf-markov": (
        "The same on a random Markov chain with an EOS, a table of rewards.",
        make_config(
            benchmark=Rewarded(base=Markov(), reward="table"),
            out=Path("runs/rlhf-markov"),
            **COMMON,
        ),
    ),
}
