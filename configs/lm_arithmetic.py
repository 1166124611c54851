"""python -m experiments.compare lm-arithmetic [--benchmark.divergence js] [--beta B]

Sums in words of a real language model, behind one that is solved; an answer is right where its
first number is. What leaving the model costs is any f-divergence from it. After 10 updates of 16
answers, one seed, 16 held-out sums (standard errors .1):

    method   right when drawn   pass@8   KL, nats
    ppo      .43                .70      .90
    grpo     .42                .64      .70
    rloo     .41                .64      .68
    (start)  .26                .53

10 CPU-minutes, 4.2 GB.

`python -m experiments.reproduce lm-arithmetic` holds a new run against the recorded one
(docs/recorded.md)."""

from pathlib import Path

from experiments.config import group, make_config
from experiments.paths import SMOLLM2
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm-arithmetic": (
        "Sums whose answers are checked, with a real language model's tokens and adapters.",
        make_config(
            benchmark=Text(
                rows="sums",
                checked="first",
                teacher="none",
                prompt_length=24,
                horizon=4,
                buckets=1,
                validation=0.2,
                beta=0.05,
            ),
            policy=Architecture("hf", path=SMOLLM2, lora=Lora(rank=8)),
            scorer=Architecture("hf"),
            methods=("grpo", "rloo", "ppo"),
            seeds=1,
            updates=10,
            batch_size=16,
            learning_rate=5e-4,
            max_grad_norm=1.0,
            evaluations=1,
            samples=16,
            temperatures=(1.0,),
            exact_limit=0,
            rloo=group("rloo", group=8),
            grpo=group("grpo", group=8),
            ppo=group("ppo", value_learning_rate=1e-2, value_steps=2),
            out=Path("runs/lm-arithmetic"),
        ),
    ),
}
