"""python -m experiments.compare demos-vs-preferences [--noise E] [--spread S] [--demos N]

The rlhf task from 4,096 labels a run: demonstrations of the optimum (each divergence), or
comparisons (a reward model with RLOO, GRPO or PPO behind it, and the DPO family). --noise E makes a
share E of both wrong: demonstrations are the reference's instead, comparisons are turned round.
--spread S makes people disagree e^S times more about strings that begin differently and e^S times
less about the others, so that one Bradley-Terry temperature fits neither. At --noise .2 --spread
1.5, in 104 seconds on two cores: reward .9334 for .2275 nats (sft), .9537 for .5590 (bt_rloo,
bt_grpo), .9479 for .5406 (bt_ppo), .9465 for .5871 (bt_var_rloo), .9402 for .4978 (dpo); the
optimum has 1.0 for .41. Whole curves over noise are a figure: python -m experiments.figures
demos_vs_preferences.

`python -m experiments.reproduce demos-vs-preferences` holds a new run against the recorded one
(docs/recorded.md)."""

from pathlib import Path

from experiments.config import group, make_config
from fdiv.benchmarks import Rewarded
from fdiv.policies import Architecture

PRESETS = {
    "demos-vs-preferences": (
        "As many labels as demonstrations or as comparisons, some of them wrong.",
        make_config(
            benchmark=Rewarded(),
            policy=Architecture("full"),
            scorer=Architecture("markov"),
            methods=(
                "sft",
                "gail",
                "airl",
                "alpha_irl",
                "bt_rloo",
                "bt_grpo",
                "bt_ppo",
                "bt_var_rloo",
                "dpo",
                "ipo",
                "kto",
                "simpo",
            ),
            demos=4096,
            updates=400,
            batch_size=256,
            learning_rate=0.02,
            evaluations=16,
            optimum_starts=6,
            reward_model=group("reward_model", reward_updates=100),
            out=Path("runs/demos-vs-preferences"),
        ),
    ),
}
