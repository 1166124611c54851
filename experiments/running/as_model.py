"""A trained policy that reads and writes text, from the folder of a run, a model's folder or a GGUF
file."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import assemble
from experiments.models import pretrained, ready, symbols, words
from experiments.models.byte_tokenizer import END
from experiments.models.ready import Ready
from experiments.running import trained
from experiments.running.trained import TrainedRun
from fdiv.benchmarks import Text
from fdiv.types import UsageError


def read(path: Path, method: str | None = None, seed: int | None = None) -> Ready:
    """What is at a path, ready; `method` and `seed` say which policy of a run. Raises `UsageError`
    where it cannot be read."""
    if trained.is_run(path):
        run = trained.read(path)
        return of_run(run, run.name(method), seed or 0)
    for name, value in (("method", method), ("seed", seed)):
        if value is not None:
            problem = "is of a run, and this is a model's own folder or file."
            raise UsageError(name, value, problem, "Leave it out, or give the folder of a run.")
    return ready.read(path)


def of_run(run: TrainedRun, method: str, seed: int) -> Ready:
    """One seed's policy of a finished method. Raises `UsageError` as `TrainedRun.of` does."""
    params = jax.tree.map(jnp.asarray, run.of(method, seed))
    bench = run.config.benchmark
    path = assemble.tokenizer_path(bench, run.config.policy) if isinstance(bench, Text) else None
    if path is not None:  # every text of a tokenizer has a first token
        room = run.sizes.prompt + run.sizes.horizon
        return Ready(run.policy, params, words.at(pretrained.local(path)), room)
    language = symbols_of(run)
    longest = 1 + run.sizes.prompt + run.sizes.horizon if language.bounds is None else None
    policy = symbols.preceded(run.policy, language.bos)
    return Ready(policy, params, language, longest, language.bounds)


def symbols_of(run: TrainedRun) -> symbols.Symbols:
    """What a run's policies read and write, spelled as in its report."""
    vocab, prompt, horizon, eos = run.sizes
    if isinstance(run.config.benchmark, Text):
        return symbols.of_bytes(vocab - 1, END)
    ends = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
    bounds = symbols.Bounds(prompt + horizon, horizon, ends)
    spell = getattr(run.config.benchmark, "spell", None)
    if spell is None:
        return symbols.of_numbers(vocab, bounds)
    return symbols.of_pieces([spell([i], [True]) for i in range(vocab)], bounds)
