"""python -m experiments.compare text --benchmark.path rows.jsonl \\
    --benchmark.prompt-field question --benchmark.completion-field answer

Real text, byte by byte, with a small transformer against a larger one's law: divergences are
estimated from both sides.

Recorded numbers: `python -m experiments.reproduce text`."""

from pathlib import Path

from experiments.config import group, make_config
from fdiv.benchmarks import Text
from fdiv.policies import Architecture

PRESETS = {
    "text": (
        "Your own text, or the standard library's docstrings; a teacher is the known expert.",
        make_config(
            benchmark=Text(),
            policy=Architecture("transformer"),
            scorer=Architecture("transformer"),
            methods=("sft", "distill:js", "reverse_kl", "gail"),
            seeds=2,
            updates=400,
            batch_size=32,
            warm_start=200,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            evaluations=8,
            samples=64,
            temperatures=(0.5, 0.7, 0.85, 1.0, 1.2),
            exact_limit=0,
            policy_gradient=group("policy_gradient", discount=0.0),
            adversarial=group(
                "adversarial", level="token", learning_rate=3e-4, discriminator_learning_rate=3e-3
            ),
            out=Path("runs/text"),
        ),
    )
}
