"""What all methods of a run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments import assemble
from experiments.assemble import Task
from experiments.config import Config
from experiments.devices import Layout
from experiments.evaluation.class_optimum import ClassOptima
from experiments.evaluation.evaluator import Evaluator, Measured
from experiments.reporting.scoreboards import Scoreboard
from experiments.running import resume
from experiments.running.record import Line, Recorder
from experiments.running.stopping import StopFlag
from experiments.storage.run_folder import RunFolder
from fdiv.types import Components, Params, Sequences

SHOWN = 16  # strings of each seed in samples.jsonl


class RunContext(NamedTuple):
    """The config, what it was made into, and where things go."""

    config: Config
    task: Task
    components: Components
    layout: Layout  # of the seeds
    keys: jax.Array  # [seeds]
    rows: Mapping[str, Any]  # demos, pairs, labels -> each seed's fixed rows, or ()
    start: Params  # of each seed, the same for every method
    scoreboard: Scoreboard
    evaluator: Evaluator
    class_optima: ClassOptima
    folder: RunFolder
    recorder: Recorder
    console: Console  # where tables are printed at the end
    stop: StopFlag
    expert: Mapping[str, float]  # its metrics, as far as they are known
    at_start: Measured  # what every method measures before its first update
    # returns once what a method's result needs of the class's optima is known, or may be searched
    await_search: Callable[[str], None] = lambda name: None

    def saves(self, name: str, end: bool = False) -> resume.Saves:
        """Where the saves of a training go."""
        return resume.saves_in(self.folder, name, self.config.saving, self.stop, end)

    def write_samples(
        self,
        name: str,
        sequences: Sequences,
        log_q: np.ndarray | None,
        likeliest: Sequences | None = None,
    ) -> None:
        """Report the first strings of each seed, [seeds, n, T], with their log-probs [seeds, n]
        under the policy that drew them, where there is one, those under the expert where strings
        are enumerated, and the policy's likeliest answers to the same prompts."""
        for seed in range(len(sequences.tokens)):
            texts = self._readable(sequences, seed)
            lines: list[Line] = [
                {"method": name, "seed": seed, "index": i, "prompt": prompt, "completion": text}
                for i, (prompt, text) in enumerate(texts)
            ]
            if log_q is not None:
                lines = [line | {"log_q": float(x)} for line, x in zip(lines, log_q[seed])]
            log_p = self.evaluator.expert_log_probs(self._few(sequences, seed))
            if log_p is not None:
                lines = [
                    line | {"log_p": float(x)} if np.isfinite(x) else line
                    for line, x in zip(lines, log_p)
                ]
            if likeliest is not None:
                certain = self._readable(likeliest, seed)
                lines = [line | {"likeliest": text} for line, (_, text) in zip(lines, certain)]
            self.recorder.samples(name, lines)

    def _readable(self, sequences: Sequences, seed: int) -> list[tuple[str, str]]:
        return assemble.readable(self.task, self._few(sequences, seed))

    def _few(self, sequences: Sequences, seed: int) -> Sequences:
        return jax.tree.map(lambda x: x[seed][:SHOWN], sequences)
