"""python -m experiments.compare lm-context [--benchmark.teacher-system "TEXT"]

Context distillation: adapters learn to answer as the same model does behind a system message that
they never see. On 8 held-out questions about Python, one seed, nats a token at the policy's own
prefixes, from the model without the message to the end of 8 updates, +- two standard errors:

    method              what it minimises      forward KL, teacher's prefixes
    distill:forward_kl  .139 -> .071 +- .034   .100
    distill:js          .028 -> .016 +- .008   .096
    distill:reverse_kl  .118 -> .078 +- .039   .099
    (start)                                    .212

9 CPU-minutes, 3.7 GB.

`python -m experiments.reproduce lm-context` holds a new run against the recorded one
(docs/recorded.md)."""

from pathlib import Path

from experiments.config import group, make_config
from experiments.paths import SMOLLM2
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm-context": (
        "A real language model learns what its system message made it say, without the message.",
        make_config(
            benchmark=Text(
                rows="questions",
                teacher="base",
                teacher_system="You are a pirate. Answer as a pirate would, in one sentence.",
                prompt_length=64,
                horizon=24,
                buckets=1,
            ),
            policy=Architecture("hf", path=SMOLLM2, lora=Lora(rank=8)),
            scorer=Architecture("hf"),
            methods=("distill:forward_kl", "distill:js", "distill:reverse_kl"),
            seeds=1,
            updates=8,
            batch_size=4,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            evaluations=1,
            samples=8,
            temperatures=(1.0,),
            exact_limit=0,
            distill=group("distill", policy_prefixes=1.0),
            out=Path("runs/lm-context"),
        ),
    ),
}
