"""A run as something to use: its results as tables, its policies as things to sample from.

    run = experiments.load("runs/compare")
    run.results                                  # a pyarrow table; .to_pandas() where pandas is
    gail = run.methods["gail"]
    gail.params(seed=0)                          # the pytree that run.policy takes
    gail.sample(4), gail.log_probs(["0 0 1 1"])  # of seed 0
    gail.continue_from(methods=("js",), updates=200)

Results are read whatever version wrote them, as far as `reporting.schema` goes back; what was
trained is read when it is first asked for, and raises `UsageError` with the reason where it cannot
be."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble, cli, paths
from experiments import config as configs
from experiments.config import Config
from experiments.models import ready
from experiments.models.ready import Language, Ready
from experiments.reporting import results, schema
from experiments.reporting.schema import Json, MethodResult, RunResult
from experiments.running import as_model, trained
from experiments.running.trained import TrainedRun
from experiments.storage import files, run_folder
from experiments.storage.run_folder import LINES, fresh
from fdiv import divergences, exact, objectives, rollout
from fdiv import tokens as tk
from fdiv.types import PAD, Divergence, Level, Params, Policy, Sequences, UsageError

if TYPE_CHECKING:
    import pyarrow

Text = str | Sequence[int]  # text as a report spells it, or the policy's own tokens


class Sample(NamedTuple):
    """A string that a policy wrote."""

    prompt: str
    text: str
    log_prob: float  # in nats, of what follows the prompt, at the temperature that it was drawn at
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]  # of what follows, with the one that ends it


class ExactLaw(NamedTuple):
    """A policy's law beside the expert's, over all strings of a task."""

    strings: list[str]
    log_policy: np.ndarray  # [N]
    log_expert: np.ndarray  # [N]
    space: exact.Space
    policy: exact.Law
    expert: exact.Law

    def divergence(self, d: str | Divergence, level: Level | str = Level.sequence) -> float:
        """`D_f(expert||policy)` in nats, at a level of `fdiv.types.Level`."""
        measure = divergences.parse(d) if isinstance(d, str) else d
        if level not in [each.value for each in Level]:
            fix = f"Give one of {', '.join(each.value for each in Level)}."
            raise UsageError("level", level, "is no level.", fix)
        return float(exact.divergence(measure, self.space, self.expert, self.policy, Level(level)))

    @property
    def entropy(self) -> float:
        """Of the policy, in nats."""
        return float(exact.entropy(self.policy))


class Run:
    """The folder of a run. `load` makes it."""

    def __init__(self, path: Path, result: RunResult | None):
        self.path, self.result = path, result

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return f"<run {self.path}: {', '.join(self.method_results) or 'no method'}; {state}>"

    @property
    def complete(self) -> bool:
        """Whether all of its methods have finished."""
        return self.result is not None and self.result.complete

    @functools.cached_property
    def kept(self) -> Json:
        """config.json as it is: preset, changed, config. Empty for runs that were merged."""
        try:
            kept = files.load(self.path / "config.json", dict)
        except (FileNotFoundError, files.Damaged):
            return {}
        return kept if isinstance(kept.get("config"), dict) else {}

    @property
    def preset(self) -> str | None:
        """The name that its command began with."""
        return self.kept.get("preset")

    @property
    def environment(self) -> Json:
        """Command, versions, devices and commit of its last start."""
        return trained.environment(self.path)

    @functools.cached_property
    def _trained(self) -> TrainedRun:
        return trained.read(self.path)

    @property
    def config(self) -> Config:
        """What it ran with. Raises `UsageError` where this version has other fields."""
        return self._trained.config

    @property
    def policy(self) -> Policy:
        """The class of its policies; each method has parameters for it."""
        return self._trained.policy

    @functools.cached_property
    def task(self) -> assemble.Task:
        """The benchmark made real; a text's rows are read from where they were."""
        return self._trained.task()

    # --- tables -----------------------------------------------------------------------------------

    @functools.cached_property
    def method_results(self) -> dict[str, MethodResult]:
        """What was measured of each method at its end."""
        if self.result is not None:
            return dict(self.result.methods)
        places = sorted((self.path / "methods").glob("*.json"))
        by_file = {place.name: _method_in(place) for place in places}
        listed = self.kept.get("config", {}).get("methods", ())
        named = {f"{run_folder.file_name(n)}.json": n for n in listed}
        return {named.get(name, name.removesuffix(".json")): m for name, m in by_file.items()}

    @functools.cached_property
    def results(self) -> pyarrow.Table:
        """A row for each method, metric and seed: method, minimises, level, status, metric, seed,
        value."""
        return _table(results.tidy_methods(self.method_results))

    @functools.cached_property
    def ranking(self) -> pyarrow.Table:
        """A row for each method: of every metric its IQM over seeds, as NAME, and the ends of its
        95% interval, as NAME_low and NAME_high; empty where one seed gives none."""
        rows = []
        for name, m in self.method_results.items():
            row: Json = {"method": name, "minimises": m.objective, "status": m.status}
            scores = {**m.metrics, **({"gap": m.gap} if m.gap else {})}
            for metric, summary in scores.items():
                low, high = summary.ci95 or (None, None)
                row |= {metric: summary.iqm, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        return _table(rows)

    @functools.cached_property
    def curves(self) -> pyarrow.Table:
        """A row for each method, seed and evaluation while it trained."""
        return _table(schema.history(self._lines("metrics.jsonl")))

    @functools.cached_property
    def samples(self) -> pyarrow.Table:
        """The strings that its report shows."""
        return _table(self._lines("samples.jsonl"))

    def _lines(self, name: str) -> list[Json]:
        try:
            content = (self.path / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return []
        return [line for _, line in files.split_lines(content, LINES[name]).good]

    # --- policies ---------------------------------------------------------------------------------

    @property
    def methods(self) -> Methods:
        """Name -> method, of those that have finished."""
        return Methods(self)


class Methods(Mapping[str, "LoadedMethod"]):
    """The finished methods of a run by name, in any spelling that the command line takes."""

    def __init__(self, run: Run):
        self._run = run

    def __getitem__(self, name: str) -> LoadedMethod:
        known = list(self)
        own = _canonical(str(name))
        if own not in known:
            near = difflib.get_close_matches(own, known, n=3, cutoff=0.3) or known
            problem = "is no method of this run that has finished."
            fix = f"It has {', '.join(near)}." if known else "Go on with it first."
            raise UsageError("method", name, problem, fix)
        return LoadedMethod(self._run, own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.method_results)

    def __len__(self) -> int:
        return len(self._run.method_results)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _canonical(name) in list(self)

    def __repr__(self) -> str:
        return f"<methods {', '.join(self)}>"


def _refuse_unknown(config: Config, names: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what is no option, with the nearest, and for a group of options that
    is given as something else."""
    groups = {field.name for field in dataclasses.fields(config)}
    known = {*configs.LIFTED, *groups} - {"out"}
    for name, value in names.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)
            raise UsageError(name, value, "is no option.", f"The nearest: {', '.join(near)}.")
        own = getattr(config, name, None)
        if dataclasses.is_dataclass(own) and not hasattr(type(value), "__dataclass_fields__"):
            fix = f"Give dataclasses.replace(run.config.{name}, ...), or single options by name."
            raise UsageError(name, value, "is no group of options.", fix)


def _method_in(place: Path) -> MethodResult:
    """What was kept of a finished method. Raises `UsageError` where its file is damaged."""
    try:
        return files.load(place, schema.method)
    except files.Damaged as error:
        fix = "Start the run's command again, which makes it anew."
        raise UsageError("method", str(place), f"is damaged: {error}.", fix) from error


def _canonical(name: str) -> str:
    try:
        return objectives.canonical(name.lower())
    except UsageError:
        return name


@dataclasses.dataclass(frozen=True)
class LoadedMethod:
    """A method of a run and what it has trained: one policy for each seed."""

    run: Run
    name: str

    def __repr__(self) -> str:
        return f"<{self.name} of {self.run.path}>"

    @property
    def result(self) -> MethodResult:
        """What was measured of it at its end."""
        return self.run.method_results[self.name]

    @property
    def policy(self) -> Policy:
        """Its class; `policy.trunk(method.params(0), tokens)` and so on."""
        return self.run.policy

    def params(self, seed: int = 0) -> Params:
        """One seed's parameters, as its policy takes them. Raises `UsageError` for a seed that is
        not there, and where the save cannot be read."""
        return jax.tree.map(jnp.asarray, self.run._trained.of(self.name, seed))

    def named_params(self, seed: int = 0) -> dict[str, np.ndarray]:
        """The same as arrays by name, such as `params/layer_0/attention/kernel`; those of a table
        are its `logits`."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.run._trained.of(self.name, seed))
        spelled = lambda path: jax.tree_util.keystr(path, simple=True, separator="/") or "logits"
        return {spelled(path): np.asarray(leaf) for path, leaf in leaves}

    def sample(
        self,
        n: int,
        seed: int = 0,
        prompts: str | Sequence[Text] | None = None,
        temperature: float = 1.0,
        key: int = 0,
    ) -> list[Sample]:
        """`n` strings of one seed's policy, and `n` for each of several prompts.

        Without prompts they are empty, or drawn from the task where its strings have some. `key`
        numbers the draw. Raises `UsageError` for what is no prompt of the task."""
        if not isinstance(n, (int, np.integer)) or n < 1:
            fix = "Give a whole number of at least 1."
            raise UsageError("n", n, "is no number of strings.", fix)
        if not isinstance(key, (int, np.integer)) or not 0 <= key < 1 << 32:
            fix = "Give a whole number from 0 to 4294967295."
            raise UsageError("key", key, "numbers no draw.", fix)
        if not isinstance(temperature, (int, float, np.number)) or not temperature > 0:
            raise UsageError("temperature", temperature, "has to be above 0.", "Give 1.0.")
        speaker = _Speaker(self, seed)
        policy, params = self.policy, self.params(seed)
        known = speaker.language.known()
        every = len(known) == self.run._trained.sizes.vocab
        choose = rollout.draw if every else rollout.among(jnp.asarray(known))
        if temperature != 1:
            policy = rollout.tempered(policy, temperature)
        drawn: dict[int, Sample] = {}
        for i, asked in enumerate(speaker.asked(prompts, n, key)):
            one = rollout.until_ended(asked.horizon, self.run._trained.sizes.eos, choose)
            draws = lambda k, x, one=one, asked=asked: one(k, policy, x, asked.prompts)
            own = jax.random.key(key) if i == 0 else jax.random.fold_in(jax.random.key(key), i)
            strings, log_probs = jax.device_get(ready.computed(draws, own, params))
            rows = zip(np.asarray(strings.tokens), np.asarray(strings.mask), log_probs)
            drawn |= {place: speaker.sample(*row) for place, row in zip(asked.places, rows)}
        return [drawn[place] for place in sorted(drawn)]

    def log_probs(
        self,
        strings: Sequence[Text | Sample],
        seed: int = 0,
        prompts: Sequence[Text] | None = None,
    ) -> np.ndarray:
        """The log-prob of each string under one seed's policy, in nats. [n]

        A string is text as the report spells it, its own tokens, or a `Sample`. The end of a string
        counts where it is given. With `prompts`, one for each string, only what follows counts."""
        if isinstance(strings, (str, Sample)) or not hasattr(strings, "__len__"):
            problem = "is one string, and several are wanted."
            raise UsageError("strings", strings, problem, "Give a list of strings.")
        speaker = _Speaker(self, seed)
        rows = speaker.rows(list(strings), prompts)
        vocab, policy = self.run._trained.sizes.vocab, self.policy
        of = lambda params: tk.log_probs(policy, params, rows, vocab).sum(1)
        return np.asarray(ready.computed(of, self.params(seed)))

    def continue_from(
        self,
        out: str | Path | None = None,
        methods: Sequence[str] | None = None,
        **changes: Any,
    ) -> Run:
        """A new run whose every seed starts from this method's policy of that seed: the same
        command, with `methods` (this one) and other options by the names of their flags.

            run.methods["sft"].continue_from(methods=("gail",), updates=500)

        Its folder is `out`, or a fresh one beside this run's. Optimisers begin anew. Raises
        `UsageError` for what cannot be, as a command does; a run that is stopped goes on when the
        same is called with its `out`."""
        from experiments.running import head_to_head

        before = self.run.config
        place = fresh(Path(f"{self.run.path}-continued")) if out is None else Path(out)
        fixed = {"out": place, "start_from": self.run.path, "start_method": self.name}
        own = (methods,) if isinstance(methods, str) else tuple(methods or (self.name,))
        config = configs.replace(before, **{"methods": own} | fixed)
        _refuse_unknown(config, changes)
        config = configs.replace(config, **changes)
        # another default: this folder is the one that is meant, and never a numbered one
        default = configs.replace(config, out=place / "default")
        head_to_head.run(self.run.preset or "continued", config, default)
        return load(place)

    def exact(self, seed: int = 0) -> ExactLaw:
        """One seed's law and the expert's over all strings. Raises `UsageError` where the task's
        strings are not enumerated."""
        task = self.run.task
        if task.space is None or task.mdp.expert is None:
            problem = "has too many strings to be enumerated, or prompts before them."
            fix = "Use sample, and log_probs of what it gives."
            raise UsageError("benchmark", self.run.kept["config"]["benchmark"], problem, fix)
        space, params = task.space, self.params(seed)
        own = jax.jit(lambda x: exact.law(space, self.policy, x))(params)
        expert = exact.known_law(space, task.mdp.expert)
        language = as_model.symbols_of(self.run._trained)
        rows = zip(np.asarray(space.sequences.tokens), np.asarray(space.sequences.mask))
        texts = [language.decode(tokens[mask].tolist()) for tokens, mask in rows]
        laws = np.asarray(own.string), np.asarray(expert.string)
        return ExactLaw(texts, *laws, space, jax.tree.map(np.asarray, own), expert)


class _Asked(NamedTuple):
    """Prompts that are answered by one program."""

    places: list[int]  # of each answer among all
    prompts: Sequences
    horizon: int  # most tokens after them


class _Speaker:
    """What text is to one seed's policy, whose strings begin with their first symbol."""

    def __init__(self, method: LoadedMethod, seed: int):
        self._run = method.run
        self._ready: Ready = as_model.of_run(method.run._trained, method.name, seed)
        self.language: Language = self._ready.words
        # a task's symbols are spelled with a token before them that the policy itself has not
        self._before = 0 if self._ready.policy is method.policy else 1

    def _prompt(self, text: Text) -> list[int]:
        """Tokens of a prompt, text or tokens already."""
        if not isinstance(text, str):
            return self._checked(text)
        return self.language.prompt(text)[self._before :]

    def _following(self, text: Text) -> list[int]:
        return (
            self.language.encode(text, special=False)
            if isinstance(text, str)
            else self._checked(text)
        )

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        vocab = self._run._trained.sizes.vocab
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError as error:
            fix = "Give text, or whole numbers."
            raise UsageError("tokens", tokens, "are no tokens.", fix) from error
        if wrong := [i for i in ids if not 0 <= i < vocab]:
            problem = f"is no token: there are {vocab}, from 0 on."
            raise UsageError("token", wrong[0], problem, "Give others.")
        return ids

    def asked(self, prompts: str | Sequence[Text] | None, n: int, key: int) -> list[_Asked]:
        """`n` of each prompt, or of those that the task has; those that leave as much room for what
        follows together."""
        sizes = self._run._trained.sizes
        if prompts is None and sizes.prompt:
            own = self._run.task.mdp.prompts(jax.random.fold_in(jax.random.key(key), 1), n)
            return [_Asked(list(range(n)), own, sizes.horizon)]
        several = [prompts or ""] if prompts is None or isinstance(prompts, str) else prompts
        rows = [self._prompt(text) for text in several for _ in range(n)]
        by_room: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            room = min(sizes.horizon, sizes.prompt + sizes.horizon - len(row))
            by_room.setdefault(room, []).append(place)
        if min(by_room, default=1) < 1:
            problem = "is a whole string of this task: nothing follows it."
            row = rows[by_room[min(by_room)][0]]
            raise UsageError("prompts", row, problem, "Give the beginning of one.")
        if sizes.prompt and min(by_room, default=sizes.horizon) < sizes.horizon:
            warnings.warn(
                f"A prompt of {max(map(len, rows)):,} tokens leaves {min(by_room):,} of "
                f"{sizes.horizon:,} for what follows: prompts of this run had at most "
                f"{sizes.prompt:,}, the last ones.",
                stacklevel=3,
            )
        asked = []
        for room, places in by_room.items():
            tokens = _padded([rows[place] for place in places])
            one = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(len(tokens)))
            asked.append(_Asked(places, one, room))
        return asked

    def rows(self, strings: Sequence[Text | Sample], prompts: Sequence[Text] | None) -> Sequences:
        """Strings with their prompts before them, and where what follows those stands."""
        if prompts is not None and len(prompts) != len(strings):
            problem = f"are as many prompts, for {len(strings)} strings."
            raise UsageError("prompts", len(prompts), problem, "Give one for each string.")
        pairs = []
        for i, string in enumerate(strings):
            if isinstance(string, Sample):
                if prompts is not None:
                    problem = "are given for samples, which have prompts of their own."
                    raise UsageError("prompts", prompts[i], problem, "Give sample.text.")
                pairs.append((list(string.prompt_tokens), list(string.tokens)))
            elif prompts is not None:
                pairs.append((self._prompt(prompts[i]), self._following(string)))
            elif isinstance(string, str):
                ids = self.language.encode(string)[self._before :]
                first = 1 - self._before  # the token that begins every text of a tokenizer
                pairs.append((ids[:first], ids[first:]))
            else:
                pairs.append(([], self._checked(string)))
        for before, after in pairs:
            self._refuse_long([*before, *after])
        tokens = _padded([before + after for before, after in pairs])
        mask = np.zeros(tokens.shape, bool)
        for row, (before, after) in zip(mask, pairs):
            row[len(before) : len(before) + len(after)] = True
        return Sequences(tokens, jnp.asarray(mask), jnp.ones(len(tokens)))

    def _refuse_long(self, ids: list[int]) -> None:
        sizes = self._run._trained.sizes
        if len(ids) > sizes.prompt + sizes.horizon:
            problem = f"are as many tokens, and strings here have {sizes.prompt + sizes.horizon}."
            raise UsageError("string", len(ids), problem, "Give a shorter one.")

    def sample(self, tokens: np.ndarray, mask: np.ndarray, log_probs: np.ndarray) -> Sample:
        before = tokens[(tokens != PAD) & ~mask & (mask.cumsum() == 0)].tolist()
        ids = tokens[mask].tolist()
        start = [] if not self._before else [self._bos()]
        texts = self.language.decode(before), self.language.continued([*start, *before], ids)
        return Sample(*texts, float(log_probs[mask].sum()), tuple(before), tuple(ids))

    def _bos(self) -> int:
        assert self.language.bos is not None, "a task's symbols have one"
        return self.language.bos


def _padded(rows: Sequence[Sequence[int]]) -> jax.Array:
    width = max(map(len, rows), default=0)
    return jnp.asarray([[*row, *[PAD] * (width - len(row))] for row in rows], jnp.int32).reshape(
        len(rows), width
    )


def _table(rows: Sequence[Json]) -> pyarrow.Table:
    """Rows as a table: a column for every name that some row has."""
    import pyarrow  # slow to load

    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.table({name: [row.get(name) for row in rows] for name in names})


def load(path: str | Path, imports: Sequence[str | Path] = ()) -> Run:
    """The run in a folder; `imports` are the files that its command named with --import.

    Raises `UsageError` where the folder is no run's, or its results are of a newer version."""
    if imports:
        cli.load_plugins([f"--import={each}" for each in imports])
    # whatever folder Python goes to afterwards
    place = Path(os.path.abspath(paths.expanded("run", Path(path))))
    result = None
    with_results = (place / "results.json").is_file()
    if not with_results and not trained.is_run(place):
        problem = "holds no run." if place.is_dir() else "is no folder."
        fix = "Give the folder of a run, such as runs/compare, from where it was started."
        raise UsageError("run", str(path), problem, fix)
    if with_results:
        try:
            result = files.load(place / "results.json", schema.run)
        except files.Damaged as error:
            fix = "Start its command again, which makes them anew."
            problem = f"has results that are damaged: {error}."
            raise UsageError("run", str(path), problem, fix) from error
    return Run(place, result)
