"""What a run has trained as a folder in the Hugging Face layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fdiv
from experiments import assemble
from experiments import config as configs
from experiments.models import adapters as adapter_files
from experiments.models import byte_tokenizer, folder, pretrained, ready, word_files
from experiments.models.libraries import library
from experiments.reporting import model_card
from experiments.reporting.model_card import Made
from experiments.running import as_model, trained
from experiments.running.trained import TrainedRun
from experiments.storage import whole
from fdiv.benchmarks import Text
from fdiv.lm import lora, weights
from fdiv.lm.lora import Adapters
from fdiv.lm.parity import MAX_DIFFERENCE
from fdiv.lm.spec import FAMILIES, Spec
from fdiv.policies import as_spec
from fdiv.policies.transformer import Shape
from fdiv.types import Params, UsageError

TRIED = "the quick brown fox jumps over the lazy dog. 0123456789 na\u00efve\n"
MOST_TRIED = 48  # tokens of it


class Model(NamedTuple):
    """A policy as it is written."""

    spec: Spec
    params: Params  # numpy; adapters, where these alone are written
    config: dict[str, Any]  # whose tokens that begin and end text are carried on
    beside: Callable[[Path], None]  # puts the tokenizer's files into a folder
    sentence: str  # what it is
    start: tuple[int, ...] = ()  # tokens that its tokenizer does not put before a text
    adapters: Adapters | None = None
    base: str | None = None
    licence: str | None = None


class Exported(NamedTuple):
    """A folder that was written."""

    spec: Spec
    numbers: int  # of what is in it
    apart: float | None  # nats: largest difference of a log-prob from the run's policy, read again


def export(run: TrainedRun, method: str, seed: int, to: Path, adapter: bool = False) -> Exported:
    """Write one seed's policy of a finished method: weights, tokenizer and a README.md, there whole
    or not at all. `adapter`: the low-rank adapters alone, in PEFT's layout. Raises `UsageError` for
    a policy that is no language model."""
    folder.refuse_there(to)
    name = run.name(method)
    _refuse(run, adapter)
    model = (_own if run.config.policy.name == "transformer" else _pretrained)(
        run, run.of(name, seed), adapter
    )
    apart: list[float] = []

    def more(draft: Path) -> None:
        model.beside(draft)
        if model.adapters is None:
            apart.append(_read_again(draft, model, run, name, seed))
        whole.write_text(draft / "README.md", model_card.page(_made(run, name, seed, model)))

    if model.adapters is None:
        folder.write(to, model.spec, model.params, model.config, more)
    else:
        with folder.draft(to) as place:
            _write_adapters(place, model, run)
            more(place)
    numbers = sum(x.size for x in jax.tree.leaves(model.params))
    return Exported(model.spec, numbers, apart[0] if apart else None)


def _refuse(run: TrainedRun, adapter: bool) -> None:
    """Raise `UsageError` for what no language model's folder can hold."""
    policy, bench = run.config.policy, run.config.benchmark
    if policy.name not in ("transformer", "hf"):
        problem = "is a table and no language model."
        fix = "Export a run with --policy.name transformer; generate and score read this one."
        raise UsageError("policy.name", policy.name, problem, fix)
    if not isinstance(bench, Text):
        name = configs.benchmark_name(run.config)
        problem = "has symbols of its own, which no tokenizer makes of text."
        fix = "Export a run of the benchmark text; generate and score read this one."
        raise UsageError("benchmark", name, problem, fix)
    path = assemble.tokenizer_path(bench, policy)
    if (path is None) != (policy.name == "transformer"):
        problem = (
            "has no token for what a policy trained from nothing reads before the start of a text."
            if path is not None
            else "says bytes, and a pretrained policy has tokens of its own."
        )
        fix = "Export a run on bytes, or of a pretrained policy; generate and score read this one."
        raise UsageError("benchmark.tokenizer", str(bench.tokenizer), problem, fix)
    if not adapter:
        return
    if not policy.lora.wanted:
        problem = "asks for adapters, and this run trained all weights."
        raise UsageError("adapter", True, problem, "Leave it out.")
    if policy.without_layers:
        problem = "would belong to a model without some of its layers, which nobody else has."
        raise UsageError("adapter", True, problem, "Leave it out: the merged model is whole.")


# --- the policies ---------------------------------------------------------------------------------


def _own(run: TrainedRun, params: Params, adapter: bool) -> Model:
    """A byte-level transformer that was trained from nothing."""
    shape = Shape(**run.config.policy.sizes())
    _, prompt, horizon, _ = run.sizes
    spec = as_spec.spec_of(shape, run.sizes.vocab, 1 + prompt + horizon)
    sentence = (
        f"A byte-level transformer, trained from nothing: {spec.layers} layers, width "
        f"{spec.width}, {spec.heads} heads of {spec.head_dim}, {spec.kv_heads} of keys and values"
        + ("." if spec.window is None else f", attention over {spec.window} tokens.")
        + f" Here it is a {FAMILIES[spec.family].architecture}, the same function: log-probs are "
        "the run's to rounding. Token b is byte b; "
        f"`{byte_tokenizer.END}` ({byte_tokenizer.BYTES}) ends a text and stands before it."
    )
    own = as_spec.params_of(shape, params)
    return Model(spec, own, byte_tokenizer.ids(), byte_tokenizer.write, sentence)


def _pretrained(run: TrainedRun, params: Params, adapter: bool) -> Model:
    """A pretrained policy, whole: adapters are merged into the frozen weights, in float32."""
    policy = run.config.policy
    given = pretrained.given_path(policy)
    source, spec = pretrained.source(given), pretrained.check(policy)
    adapters = pretrained.adapters(policy)
    text = run.config.benchmark
    assert isinstance(text, Text)
    tokenizer = assemble.tokenizer_path(text, policy)
    assert tokenizer is not None

    def beside(draft: Path) -> None:
        word_files.copy(pretrained.local(tokenizer), draft)
        word_files.copy_licences(source.path, draft)

    start: tuple[int, ...] = ()
    if not run.sizes.prompt:
        start = (source.config["bos_token_id"],)
    base = given.removeprefix("hf://") if given.startswith("hf:") else Path(given).name
    sentence = _sentence(run, spec, base, adapters, adapter)
    if start:
        sentence += f" It was trained to read token {start[0]} before every text."
    model = Model(spec, params, source.config, beside, sentence, start, adapters, base)
    model = model._replace(licence=word_files.licence(source.path))
    if adapters is None or adapter:
        return _in_float32(model)
    read = pretrained.read(given, policy.stored or "file").params
    if spec.layers < source.spec.layers:
        read = weights.only(read, policy.kept_layers(source.spec.layers))
    merged = jax.device_get(lora.merged(read, adapters, params))
    return _in_float32(model._replace(params=merged, adapters=None))


def _in_float32(model: Model) -> Model:
    """What is trained is in float32, whatever the file had that it began from."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), model.params)
    return model._replace(params=params, spec=dataclasses.replace(model.spec, dtype="float32"))


def _sentence(
    run: TrainedRun, spec: Spec, base: str, adapters: Adapters | None, alone: bool
) -> str:
    policy = run.config.policy
    whole = f"A {FAMILIES[spec.family].architecture} of {spec.layers} layers"
    if policy.init == "random":
        whole += f", of the architecture of {base}, trained from random weights."
    elif adapters is None:
        whole += f", trained from the weights of {base}."
    else:
        rank = f"rank {adapters.rank}, scale {adapters.scale:g}, on {', '.join(adapters.targets)}"
        rank += f"; dropout {adapters.dropout:g} in training" if adapters.dropout else ""
        kind = "Low-rank adapters" if alone else whole + f": {base} with low-rank adapters"
        whole = f"{kind} of {base} ({rank})." if alone else f"{kind} ({rank}) merged into it."
    if policy.without_layers:
        whole += f" It is without layers {' '.join(policy.without_layers)} of that model."
    if policy.precision == "bfloat16":
        whole += " Products were in bfloat16 in training; weights are float32."
    return whole


def _write_adapters(draft: Path, model: Model, run: TrainedRun) -> None:
    """PEFT's files, read again bit for bit."""
    assert model.adapters is not None
    given = pretrained.given_path(run.config.policy).removeprefix("hf://")
    adapter_files.write(draft, model.spec, model.adapters, model.params, given)
    again = adapter_files.read(draft, model.spec)
    if again.adapters != model.adapters or not _same(model.params, again.params):
        raise RuntimeError("the adapters that were written are not what was read again")


# --- held against the run -------------------------------------------------------------------------


def _read_again(draft: Path, model: Model, run: TrainedRun, name: str, seed: int) -> float:
    """The folder read as any other: the same parameters bit for bit, and log-probs as near to the
    run's as rounding allows, which are computed by another program. Their largest difference."""
    if not _same(model.params, folder.read(draft).params):
        raise RuntimeError("what was written is not what was read again")
    theirs, ours = as_model.of_run(run, name, seed), ready.read(draft)
    ids = theirs.words.encode(TRIED)[:MOST_TRIED]
    if ids != ours.words.encode(TRIED)[:MOST_TRIED]:
        raise RuntimeError("the tokenizer that was written reads other tokens")
    own = ready.score(ours, [*model.start, *ids])
    skipped = len(model.start)
    expected = ready.score(theirs, ids)
    apart = max(float(np.abs(a - b[skipped:]).max(initial=0.0)) for a, b in zip(expected, own))
    if run.config.policy.precision != "bfloat16" and not apart <= MAX_DIFFERENCE:
        problem = f"would be {apart:.1e} nats away from the run's policy."
        raise UsageError("to", str(draft), problem, "Report this: the folder is not written.")
    return apart


def _same(a: Params, b: Params) -> bool:
    """Whether all leaves are the same bit for bit."""
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), a, b)
    return all(jax.tree.leaves(same))


# --- the card -------------------------------------------------------------------------------------


def _made(run: TrainedRun, name: str, seed: int, model: Model) -> Made:
    return Made(
        name,
        configs.resolve(run.config)[name],
        seed,
        run.method_result(name),
        run.result(),
        run.identity,
        trained.environment(run.path),
        {"fdiv": fdiv.__version__, "safetensors": library("safetensors").__version__},
        model.sentence,
        _use(run, model),
        model.base,
        model.licence,
    )


def _use(run: TrainedRun, model: Model) -> str:
    """How the folder is loaded, in Markdown."""
    if model.adapters is not None:
        return (
            "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")\n```\n\n'
            f"In fdiv: `--policy.name hf --policy.path {run.config.policy.path} "
            "--policy.lora.path FOLDER` goes on from them."
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="float32")\n```\n\n'
        "In fdiv: `python -m experiments.generate FOLDER --prompt TEXT`, `experiments.score`, and\n"
        "`experiments.check_model FOLDER`, which holds it against a live transformers."
    )
