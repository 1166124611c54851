"""make compare-lm, or where the model is there (python -m experiments.smollm2):
python -m experiments.compare lm [--benchmark.path rows.jsonl] [--policy.path FOLDER]
"""

from pathlib import Path

from experiments.config import group, make_config
from experiments.paths import SMOLLM2
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm": (
        (
            "A real language model without six of its layers, taught by the whole: the "
            "divergences on tokens of text."
        ),
        make_config(
            benchmark=Text(teacher="whole", prompt_length=16, horizon=24, buckets=1),
            policy=Architecture("hf", path=SMOLLM2, without_layers=("12-17",), lora=Lora(rank=8)),
            scorer=Architecture("hf"),
            methods=(
                "sft",
                "distill:forward_kl",
                "distill:js",
                "distill:reverse_kl",
                "policy_gradient:reverse_kl",
                "gail",
            ),
            seeds=3,
            updates=16,
            batch_size=4,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            evaluations=1,
            samples=12,
            temperatures=(0.7,),
            exact_limit=0,
            distill=group("distill", policy_prefixes=1.0),
            policy_gradient=group("policy_gradient", level="token", discount=0.0),
            adversarial=group(
                "adversarial", level="token", discriminator_learning_rate=1e-2, warmup=4
            ),
            out=Path("runs/lm"),
        ),
    ),
}
