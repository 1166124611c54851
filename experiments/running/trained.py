"""What a run has trained, read from its folder: the config that it ran, its policy, and of each
finished method the parameters of every seed.

    run = trained.read(Path("runs/text"))
    run.names, run.params("sft")  # leaves [seeds, ...]; run.of("sft", 0): one seed's

Nothing in the folder is changed, and a text's rows are not read: `run.task()` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import assemble, cli
from experiments import config as configs
from experiments.assemble import Task
from experiments.config import Config
from experiments.data.reading import Reading
from experiments.models import pretrained
from experiments.reporting import schema
from experiments.reporting.schema import MethodResult, RunResult
from experiments.storage import checkpoints, files, run_folder
from fdiv import objectives
from fdiv.benchmarks import Text, text
from fdiv.types import Params, Policy, UsageError

# of what decides a run's numbers, what is no field of its config
DIGESTS = (*configs.DIGESTS, *pretrained.DIGESTS)
KEPT = ("preset", "changed", "config")  # of a run's config.json
BEFORE = 2  # leaves of a `TrainState` before the policy's parameters: the step and the key


class Sizes(NamedTuple):
    """Of a task's strings."""

    vocab: int  # symbols, that which ends a string among them
    prompt: int  # most tokens of a prompt
    horizon: int  # most tokens after it
    eos: int | tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run and what it has trained."""

    path: Path
    config: Config  # with the lengths of text that it ran with
    sizes: Sizes
    policy: Policy  # of every method
    names: tuple[str, ...]  # methods that have finished
    identity: dict[str, Any]  # the config as it is kept, with a digest of the data that was read

    def params(self, method: str) -> Params:
        """A method's parameters, [seeds, ...] in numpy. Raises `UsageError` where it is not there,
        has not finished, or was saved in another format."""
        name = self.name(method)
        try:
            arrays, _ = checkpoints.read(run_folder.final(self.path, name))
        except UsageError as error:  # a method with a result is not trained again
            results = run_folder.result_of(self.path, name), self.path / "results.json"
            fix = (
                f"Put it back from a copy. Or, to train {name} again to the same numbers, delete "
                f"{' and '.join(map(str, results))} and run: {command(self.path)}."
            )
            raise UsageError(error.field, error.value, error.problem, fix) from error
        shapes = jax.eval_shape(self.policy.init, jax.random.key(0))
        leaves, structure = jax.tree.flatten(shapes)
        own = arrays[BEFORE : BEFORE + len(leaves)]
        wanted = [(self.config.budget.seeds, *leaf.shape) for leaf in leaves]
        if [array.shape for array in own] != wanted:
            problem = "holds parameters of another policy than its config.json describes."
            fix = "Put the folder back from a copy, or use the version that made it."
            raise UsageError("run", str(self.path), problem, fix)
        return jax.tree.unflatten(structure, own)

    def of(self, method: str, seed: int) -> Params:
        """One seed's parameters. Raises `UsageError` as `params` does, and for a seed that is not
        there."""
        seeds = self.config.budget.seeds
        whole = hasattr(seed, "__index__") and not isinstance(seed, bool)
        if not whole or not 0 <= seed < seeds:
            fix = f"Give 0 to {seeds - 1}." if seeds > 1 else "Give 0."
            raise UsageError("seed", seed, f"is none of the run's {seeds}.", fix)
        return jax.tree.map(lambda x: x[seed], self.params(method))

    def name(self, method: str | None) -> str:
        """A finished method by its name as the run has it; of a run of one method, that. Raises
        `UsageError`."""
        known = list(configs.resolve(self.config))
        if method is None and len(known) > 1:
            problem = f"holds {len(known)} methods."
            raise UsageError("run", str(self.path), problem, f"Give --method: {_listed(known)}.")
        name = known[0] if method is None else _canonical(method)
        if name not in known:
            problem = f"is no method of this run, which has {_listed(known)}."
            raise UsageError("method", method, problem, "Give one of them.")
        if name not in self.names:
            problem = "has not finished in this run."
            raise UsageError("method", name, problem, f"Go on with it: {command(self.path)}.")
        return name

    def method_result(self, method: str) -> MethodResult:
        """What was measured of a finished method at its end: as the whole run has it, with its
        comparison with a reference, where the run has come to its end."""
        name, whole = self.name(method), self.result()
        if whole is not None and name in whole.methods:
            return whole.methods[name]
        return files.load(run_folder.result_of(self.path, name), schema.method)

    def result(self) -> RunResult | None:
        """The whole run's, where it has come to its end."""
        return _result(self.path)

    def task(self) -> Task:
        """The benchmark made real; a text's rows are read from where they were. Raises `UsageError`
        where other ones are there now."""
        return assemble.task(self.config, _rows(self.path, self.config, self.identity))


def is_run(path: Path) -> bool:
    """Whether this is the folder of a run, sound or not."""
    try:
        files.load(path / "config.json", lambda data: [data[name] for name in KEPT])
        return True
    except (FileNotFoundError, files.Damaged):
        return (path / "environment.json").is_file() and (path / "checkpoints").is_dir()


def read(path: Path) -> TrainedRun:
    """A run. Raises `UsageError` where this is the folder of none, and where it was made by a
    version whose config this one does not read."""
    identity = _identity(path)
    _refuse_imports(identity)
    try:
        own = {k: v for k, v in identity.items() if k not in DIGESTS}
        config = configs.from_dict(own)
        names = tuple(name for name in configs.resolve(config) if _finished(path, name))
    except UsageError as error:
        problem = f"cannot be read as a run: {error.field} = {error.value!r} {error.problem}"
        raise UsageError("run", str(path), problem, error.fix) from error
    config = _fitted(path, config, identity)
    sizes = sizes_of(config)
    with configs.prefixed(policy=config.policy):
        _refuse_other_weights(path, config, identity)
        length = sizes.prompt + sizes.horizon
        policy = assemble.make_policy(config.policy, sizes.vocab, length, sizes.horizon)
    return TrainedRun(path, config, sizes, policy, names, identity)


def _refuse_other_weights(path: Path, config: Config, identity: dict[str, Any]) -> None:
    """Raise `UsageError` where the files of a pretrained policy are not those that the run had."""
    with configs.prefixed(policy=config.policy):
        own = pretrained.identity(config.policy)
    if any(identity.get(name) != digest for name, digest in own.items()):
        problem = f"holds other weights than when {path} was made."
        raise UsageError("path", config.policy.path, problem, "Put the model's files back.")


def sizes_of(config: Config) -> Sizes:
    """Of the strings of a config's task; a text's do not depend on its rows, once it is fitted."""
    if isinstance(config.benchmark, Text):
        tokenizer = assemble.tokenizer(config.benchmark, config.policy)
        vocabulary = text.BYTES if tokenizer is None else tokenizer.vocabulary
        return Sizes(vocabulary.size, *config.benchmark.cut, vocabulary.eos)
    mdp = config.benchmark.build()
    return Sizes(mdp.vocab, assemble.prompt_columns(mdp), mdp.horizon, mdp.eos)


def environment(path: Path) -> dict[str, Any]:
    """Of a run's last start: its command as it is typed, versions, commit; nothing where that is
    lost."""
    try:
        own = files.load(
            path / "environment.json", lambda data: {**data, "command": data["command"]}
        )
    except (FileNotFoundError, files.Damaged):
        return {}
    return own | {"command": run_folder.typed(own["command"])}


def command(path: Path) -> str:
    """The command that made a run, to be quoted."""
    return environment(path).get("command", "the command that made it")


def _identity(path: Path) -> dict[str, Any]:
    try:
        return files.load(path / "config.json", lambda data: dict(data["config"]))
    except FileNotFoundError as error:
        problem = "holds no config.json." if path.is_dir() else "is no folder."
        raise UsageError("run", str(path), problem, "Give the folder of a run.") from error
    except files.Damaged as error:
        problem = f"has a config.json that is no run's, or damaged: {error}."
        raise UsageError("run", str(path), problem, "Give the folder of a run.") from error


def _refuse_imports(identity: dict[str, Any]) -> None:
    """Raise `UsageError` where the run had files of its own and these are not imported here."""
    wanted, given = identity.get("imports") or {}, cli.imported()
    for name, digest in wanted.items():
        if given.get(name) != digest:
            other = "another file of that name was" if name in given else "it was not"
            problem = f"was imported by the run, and {other} here."
            raise UsageError("import", name, problem, f"Add --import {name}, as it was then.")


def _finished(path: Path, name: str) -> bool:
    place = run_folder.result_of(path, name)
    try:
        files.load(place, schema.method)
        return True
    except FileNotFoundError:
        return False
    except files.Damaged as error:
        problem = f"is damaged: {error}."
        fix = f"Put it back from a copy, or make it again: {command(path)}."
        raise UsageError("method", str(place), problem, fix) from error


def _result(path: Path) -> RunResult | None:
    try:
        return files.load(path / "results.json", schema.run)
    except (FileNotFoundError, files.Damaged):
        return None


def _rows(path: Path, config: Config, identity: dict[str, Any]) -> Reading | None:
    """The rows of a run's text. Raises `UsageError` where they are not those that it had."""
    reading = assemble.data(config)
    if reading is not None and reading.digest() != identity.get("data", reading.digest()):
        source = getattr(config.benchmark, "path", None) or reading.source
        problem = f"holds other rows than when {path} was made."
        raise UsageError("benchmark.path", str(source), problem, "Put the file back as it was.")
    return reading


def _fitted(path: Path, config: Config, identity: dict[str, Any]) -> Config:
    """With the lengths of text that the rows decided: as the results have them, else from the
    rows."""
    bench = config.benchmark
    if not isinstance(bench, Text) or None not in (bench.prompt_length, bench.horizon):
        return config
    result = _result(path)
    if result is None:
        return assemble.fitted(config, _rows(path, config, identity))
    lengths = {name: result.benchmark[name] for name in ("prompt_length", "horizon")}
    return configs.replace(config, benchmark=dataclasses.replace(bench, **lengths))


def _canonical(method: str) -> str:
    """As tables have it; a name that is no method's stays, and is refused as none of the run's."""
    try:
        return objectives.canonical(method)
    except UsageError:
        return method


def _listed(names: list[str]) -> str:
    return ", ".join(names)
