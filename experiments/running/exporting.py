"""What a run has trained as a folder in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fdiv
from experiments import assemble
from experiments import config as configs
from experiments.models import byte_tokenizer, folder, ready
from experiments.models.libraries import library
from experiments.reporting import model_card
from experiments.reporting.model_card import Made
from experiments.running import as_model, trained
from experiments.running.trained import TrainedRun
from experiments.storage import whole
from fdiv.benchmarks import Text
from fdiv.lm.spec import FAMILIES, Spec
from fdiv.policies import as_spec
from fdiv.policies.transformer import Shape
from fdiv.types import Params, UsageError

VERSIONS = ("fdiv", "safetensors")
NEAR = 1e-4  # nats: log-probs of the folder against the run's, where rounding alone sets them apart
TRIED = (
    "The quick brown fox jumps over the lazy dog; 0123456789 \N{LATIN SMALL LETTER E WITH ACUTE}"
)


class Exported(NamedTuple):
    """A folder that was written."""

    spec: Spec
    numbers: int  # parameters
    apart: float  # nats: largest difference of a log-prob from the run's policy, read again


def export(run: TrainedRun, method: str, seed: int, to: Path) -> Exported:
    """Write one seed's policy of a finished method: weights, tokenizer and a README.md, there whole
    or not at all. Raises `UsageError` for a policy that is no language model."""
    folder.refuse_there(to)
    name = run.name(method)
    _refuse(run)
    shape = Shape(**run.config.policy.sizes())
    _, prompt, horizon, _ = run.sizes
    spec = as_spec.spec_of(shape, run.sizes.vocab, 1 + prompt + horizon)
    params = as_spec.params_of(shape, run.of(name, seed))
    apart: list[float] = []

    def more(draft: Path) -> None:
        byte_tokenizer.write(draft)
        apart.append(_read_again(draft, params, run, name, seed))
        whole.write_text(draft / "README.md", model_card.page(_made(run, name, seed, spec)))

    folder.write(to, spec, params, byte_tokenizer.ids(), more)
    return Exported(spec, sum(x.size for x in jax.tree.leaves(params)), apart[0])


def _refuse(run: TrainedRun) -> None:
    """Raise `UsageError` for what no language model's folder can hold."""
    policy, bench = run.config.policy, run.config.benchmark
    if policy.name != "transformer":
        problem = f"is what the run trained ({policy.name}), a table and no language model."
        fix = "Export a run with --policy.name transformer; generate and score read this one."
        raise UsageError("policy", policy.name, problem, fix)
    if not isinstance(bench, Text):
        name = configs.benchmark_name(run.config)
        problem = "has symbols of its own, which no tokenizer makes of text."
        fix = "Export a run of the benchmark text; generate and score read this one."
        raise UsageError("benchmark", name, problem, fix)
    if assemble.tokenizer_path(bench) is not None:
        problem = "has no token for what the policy reads before the start of a text."
        fix = "Export a run on bytes, or of a pretrained policy; generate and score read this one."
        raise UsageError("benchmark.tokenizer", str(bench.tokenizer), problem, fix)


def _read_again(draft: Path, params: Params, run: TrainedRun, name: str, seed: int) -> float:
    """The folder read as any other: the same parameters bit for bit, and log-probs as near to the
    run's as rounding allows, which are computed by another program. Their largest difference."""
    again = folder.read(draft).params
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, again)
    if not all(jax.tree.leaves(same)) and all(
        np.isfinite(x).all() for x in jax.tree.leaves(params)
    ):
        raise RuntimeError("what was written is not what was read again")
    models = as_model.of_run(run, name, seed), ready.read(draft)
    lists = [model.words.encode(TRIED) for model in models]
    if lists[0] != lists[1]:
        raise RuntimeError("the tokenizer that was written reads other tokens")
    scores = [ready.score(model, ids) for model, ids in zip(models, lists)]
    apart = max(float(np.abs(a - b).max()) for a, b in zip(*scores))
    if run.config.policy.precision != "bfloat16" and not apart <= NEAR:
        problem = f"would be {apart:.1e} nats away from the run's policy."
        raise UsageError("to", str(draft), problem, "Report this: the folder is not written.")
    return apart


def _made(run: TrainedRun, name: str, seed: int, spec: Spec) -> Made:
    architecture = (
        f"A byte-level transformer, trained from nothing: {spec.layers} layers, width "
        f"{spec.width}, {spec.heads} heads of {spec.head_dim}, {spec.kv_heads} of keys and values"
        + ("." if spec.window is None else f", attention over {spec.window} tokens.")
        + f" Here it is a {FAMILIES[spec.family].architecture}, the same function: log-probs are "
        "the run's to rounding. Token b is byte b; "
        f"`{byte_tokenizer.END}` ({byte_tokenizer.BYTES}) ends a text and stands before it."
    )
    if run.config.policy.precision == "bfloat16":
        architecture += " It was trained with products in bfloat16; the weights are float32."
    return Made(
        name,
        configs.resolve(run.config)[name],
        seed,
        run.method_result(name),
        run.result(),
        run.identity,
        trained.environment(run.path),
        {"fdiv": fdiv.__version__, "safetensors": library("safetensors").__version__},
        architecture,
        use(),
    )


def use(base: str | None = None) -> str:
    """How the folder is loaded, in Markdown."""
    lines: list[Any] = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="float32")',
        "```",
        "",
        "In fdiv: `python -m experiments.generate FOLDER --prompt TEXT`, `experiments.score`,",
        "`experiments.check_model FOLDER` against a live transformers.",
    ]
    return "\n".join(lines)
