"""What all methods of a run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

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
from fdiv.types import Components, Level, Params, Sequences

SHOWN = 16  # strings of each seed in samples.jsonl


def _plain(x: np.ndarray) -> float | None:
    """A number with as many digits as a line of a file needs; None for what is not finite."""
    return round(float(x), 5) if np.isfinite(x) else None


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
        to_read: Mapping[str, Sequences] | None = None,
        level: Level | Literal["return"] | None = None,
    ) -> None:
        """Report the first strings of each seed, [seeds, n, T], with their log-probs under the
        policy that drew them, of its actions [seeds, n, T], where there is one, and under the
        expert where it is known, and the policy's other answers to the same prompts (`to_read`,
        field -> strings). Of a method whose reward is of tokens or prefixes, or of leaving a
        reference (`level`), the log-ratios that it is of."""
        ratios = {} if log_q is None else self._ratios(sequences, log_q, level)
        log_q = None if log_q is None else log_q.sum(-1)
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
            for field, of_strings in ratios.items():
                lines = [
                    line if x is None else line | {field: x}
                    for line, x in zip(lines, of_strings[seed])
                ]
            for field, others in (to_read or {}).items():
                answers = self._readable(others, seed)
                lines = [line | {field: text} for line, (_, text) in zip(lines, answers)]
            self.recorder.samples(name, lines)

    def _ratios(
        self, sequences: Sequences, log_q: np.ndarray, level: Level | Literal["return"] | None
    ) -> dict[str, list[list[Any]]]:
        """What a line of a string holds beside its log-probs: name -> seed -> string -> `log_p` or
        `log_ref`, the log-prob under the expert or the reference, or `ratios`, log p - log q of its
        actions or, at the level of occupancies, of its prefixes. Nothing where these are not
        known, and where strings are enumerated no `log_p`, which is looked up."""
        few = jax.tree.map(lambda x: x[:, :SHOWN], sequences)
        mask, own = np.asarray(few.mask), log_q[:, :SHOWN]
        start = self.start if level == "return" and self.task.mdp.regulariser else None
        if level == "return" and start is None:
            return {}
        by_string = level in ("return", Level.sequence, None)
        if by_string and level != "return" and self.evaluator.exact:
            return {}
        known = self.evaluator.known_log_probs(few, start)
        if known is None:
            return {}
        if by_string:
            field = "log_p" if start is None else "log_ref"
            return {field: [[_plain(x) for x in row] for row in known.sum(-1)]}
        apart = np.where(mask, known - own, 0.0)
        apart = np.cumsum(apart, axis=-1) if level == Level.occupancy else apart
        each = lambda row, kept: [x for x in map(_plain, row[kept]) if x is not None]
        return {"ratios": [[*map(each, *both)] for both in zip(apart, mask)]}

    def _readable(self, sequences: Sequences, seed: int) -> list[tuple[str, str]]:
        return assemble.readable(self.task, self._few(sequences, seed))

    def _few(self, sequences: Sequences, seed: int) -> Sequences:
        return jax.tree.map(lambda x: x[seed][:SHOWN], sequences)
