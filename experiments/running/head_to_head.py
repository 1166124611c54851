"""A head-to-head from config to report: the same start, demonstrations, budget and seeds for every
method."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments import assemble, cli, devices, paths, validation
from experiments import config as configs
from experiments.assemble import Task
from experiments.cli import STOPPED_EXIT
from experiments.config import Config
from experiments.data.files import Reading
from experiments.devices import Layout, processes
from experiments.evaluation.class_optimum import ClassOptima
from experiments.evaluation.evaluator import Evaluator, judging_keys
from experiments.models import pretrained
from experiments.reporting import schema, scoreboards
from experiments.reporting.schema import RunResult
from experiments.reporting.settings import spelled
from experiments.running import (
    continuing,
    footprint,
    kept_features,
    ready,
    resume,
    runs,
    side_by_side,
    teacher,
    trackers,
    train,
)
from experiments.running.alarms import standing_still
from experiments.running.console import Screen
from experiments.running.context import RunContext
from experiments.running.json_lines import JsonLines
from experiments.running.record import Recorder, Sink
from experiments.running.runs import Runs
from experiments.running.stopping import Interrupted, StopFlag
from experiments.storage import checkpoints, run_lease
from experiments.storage.run_folder import RunFolder, write_json
from fdiv.lm import lora
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies import NETWORKS
from fdiv.types import Components, Params, UsageError

OBJECTS = (100_000, 20, 50)  # made between two collections of garbage, by generation


def run(preset: str, config: Config, default: Config) -> int:
    """Train, measure and report; 0 when all is done, `STOPPED_EXIT` when stopped. Raises
    `UsageError` for what cannot be."""
    # tracing leaves many small objects, and looking through them all the time is much of its own
    gc.set_threshold(*OBJECTS)
    devices.cores_as_devices(config.devices)
    processes.join(config.devices.coordinator, config.devices.processes, config.devices.process)
    try:
        with StopFlag() as stop, processes.folder(config.output.out) as out:
            return _run(preset, configs.replace(config, out=out), default, stop)
    except Interrupted:
        print("Stopped before the first method. The same command goes on from here.")
        return STOPPED_EXIT
    except OSError as error:
        raise _unusable(config, error) from error


def _unusable(config: Config, error: OSError) -> UsageError:
    """An error of the system under the flag whose path it is about."""
    flags = {
        "out": config.output.out,
        "cache": devices.cache_folder(config.output.cache),
        "benchmark.path": getattr(config.benchmark, "path", None),
    }
    then = "what was saved is whole, and the same command goes on from it"
    return paths.unusable(error, flags, then)


def _run(preset: str, config: Config, default: Config, stop: StopFlag) -> int:
    changed = _changed(config, default)
    with stop.at_once():
        validation.check(config, default)
        trackers.check(config.output.track)
        layout = devices.lay_out(config.budget.seeds, config.devices)
        reading = assemble.data(config)
        folder = _folder(config, default, _identity(config, reading))
        config = configs.replace(config, out=folder.path)
        if config.output.dry_run:
            return _show_cost(config, default, reading, layout)
        if (result := _finished(folder, config)) is not None:
            return _already_done(folder, config, result, changed)
        config = assemble.fitted(config, reading)
        task = assemble.task(config, reading)
        footprint.refuse(config, default, task)
        components = assemble.components(config, task, layout)
        paths.try_folder("cache", devices.cache_folder(config.output.cache))
        devices.use_compile_cache(config.output.cache)
        if teacher.wanted(config):
            paths.refuse_unsavable("cache", teacher.folder(config))
            paths.try_folder("cache", teacher.folder(config))
        continuing.start(config, components.policy)
        if told := continuing.leak(config):
            print(cli.filled(told))
        # what any method would be refused for is known before anything is written
        ready.check(config, task, components, folder.begun, layout)
    with _alone(folder):
        with stop.at_once():
            folder.refuse_if_taken()  # by a run that came between
            folder.create(preset, changed)
            _refuse_other_formats(folder, config)
            if reading and reading.bad:
                rows = [{"row": number, "reason": reason} for number, reason in reading.bad]
                write_json(folder.path / "bad_rows.json", rows)
        launch = Launch(preset, changed, config, task, components, layout, folder, stop)
        return _train_and_finish(launch, reading)


def _folder(config: Config, default: Config, identity: dict[str, Any]) -> RunFolder:
    """The folder of a run. Where nobody named one, the usual one gets a number once another config
    has it, so that a changed command needs no --out; the same command finds its own again."""
    own, number = config.output.out, 1
    named = own != default.output.out or "--out" in cli.GIVEN or jax.process_count() > 1
    if named:
        return RunFolder(own, identity)
    while True:
        place = own if number == 1 else own.with_name(f"{own.name}-{number}")
        try:
            folder = RunFolder(place, identity)
        except UsageError as error:
            if error.field != "out" or not (place / "config.json").is_file():
                raise
            number += 1
            continue
        if number > 1:
            print(f"{own} holds another config, so this run goes to {place}.")
        return folder


def _show_cost(config: Config, default: Config, reading: Reading | None, layout: Layout) -> int:
    """What `--dry-run` prints, once all has been checked that a run checks."""
    from experiments.running import estimate

    fitted = assemble.fitted(config, reading)
    task = assemble.task(fitted, reading)
    footprint.refuse(fitted, default, task)
    components = assemble.components(fitted, task, layout)
    continuing.start(fitted, components.policy)
    if told := continuing.leak(fitted):
        print(cli.filled(told))
    ready.check(fitted, task, components, False, layout)
    estimate.show(fitted, default, task, components, layout)
    return 0


def _refuse_other_formats(folder: RunFolder, config: Config) -> None:
    """Raise `UsageError` for saves of another version's format that the run would come to."""
    lacking = [n for n in configs.resolve(config) if folder.method(n, schema.method) is None]
    begun = ["start", *lacking, *(f"{name}-trials" for name in lacking)]
    for name in begun if lacking else ():
        checkpoints.refuse_other_format(folder.checkpoints(name))


class Launch(NamedTuple):
    """A run whose folder has been claimed."""

    preset: str
    changed: Mapping[str, Any]
    config: Config
    task: Task
    components: Components
    layout: Layout
    folder: RunFolder
    stop: StopFlag


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """The only run in a folder, of however many processes. Raises `UsageError`, in all of them,
    where another is at work there."""
    refusal: UsageError | OSError | None = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:  # which alone writes where others look
            try:
                stack.enter_context(run_lease.hold(folder.path))
            except (UsageError, OSError) as error:
                refusal = error
        if processes.any_of(refusal is not None):
            fix = "The first process says which."
            raise refusal or UsageError("out", str(folder.path), "cannot be used.", fix)
        yield


def _train_and_finish(launch: Launch, reading: Reading | None) -> int:
    preset, changed, config, task, components, layout, folder, stop = launch
    methods = configs.resolve(config)
    columns = scoreboards.of_task(task).live_columns()
    output = config.output
    count = side_by_side.at_once(config, task, layout)
    screen = Screen(list(methods), columns, stop, output.plain, output.quiet, at_once=count)
    followed: list[trackers.Tracker] = []
    if jax.process_index() == 0:
        followed = trackers.make(config, folder.path, screen.say)
    with Recorder([*sinks(screen, folder), *followed]) as recorder:
        _introduce(recorder, preset, config, changed, task, layout, count)
        if reading:
            saves = resume.saves_in(folder, "teacher", config.saving, stop)
            expert = teacher.get(config, reading, task, recorder.say, saves, layout)
            task = task._replace(mdp=task.mdp._replace(expert=expert))
            components = components._replace(mdp=task.mdp)
        context = _prepare(
            config, reading, task, components, layout, folder, recorder, screen.console, stop
        )
        complete = True
        try:
            side_by_side.run(context, methods, count, _load_finish)
        except Interrupted:
            complete = False
    if stop.hurried:
        print("Stopped; all is saved. The same command goes on from here.")
        return STOPPED_EXIT
    with stop.at_once():
        from experiments.running import finish

        finish.finish(context, complete, changed)
        for tracker in followed if complete else ():
            tracker.report(folder.path)
    return 0 if complete else STOPPED_EXIT


def _load_finish() -> None:
    """What draws and writes, which takes a second to load."""
    importlib.import_module("experiments.running.finish")


def _finished(folder: RunFolder, config: Config) -> RunResult | None:
    """The result of an earlier run that came to its end; a method's file that was lost since is
    then written again from the results of all."""
    result = folder.results(schema.run)
    wanted = set(configs.resolve(config))
    if result is None or not (result.complete and wanted <= set(result.methods)):
        return None
    for name, each in result.methods.items():
        if folder.method(name, schema.method) is None:
            folder.keep_method(name, schema.method_as_json(each))
    return result


def _already_done(
    folder: RunFolder, config: Config, result: RunResult, changed: Mapping[str, Any]
) -> int:
    """Write what a finished run lacks, such as a report that it was first asked to do without."""
    lacking = folder.lacking(config.output.report)
    if lacking:
        from experiments.running import finish

        with _alone(folder):
            finish.write_lacking(folder, result, lacking, changed)
        few = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if lacking[4:] else "")
        print(f"Written from the results of an earlier run: {few}.")
    where = folder.path / ("report.html" if config.output.report else "results.json")
    print(f"Already done: {where} holds the results of this very config.")
    return 0


def sinks(screen: Screen, folder: RunFolder) -> list[Sink]:
    """Where a run's reports go, in this order."""
    return [screen, JsonLines(folder)]


def _identity(config: Config, reading: Reading | None) -> dict[str, Any]:
    """What decides the numbers: the config, the rows that were read, and imported files."""
    identity = configs.identity(config)
    if reading:
        identity["data"] = reading.digest()
    with configs.prefixed(policy=config.policy):
        identity |= pretrained.identity(config.policy)
    identity |= teacher.identity(config)
    identity |= continuing.identity(config)
    judge = pretrained.of_scorer(config.scorer, config.policy)
    if judge.name == "hf" and judge.path != config.policy.path:
        with configs.prefixed(scorer=config.scorer):
            identity["scorer_model"] = pretrained.digest(pretrained.given_path(judge))
    if cli.IMPORTED:
        identity["imports"] = cli.imported()
    if jnp.result_type(float) == jnp.float64:  # its saves hold other numbers
        identity["jax_enable_x64"] = True
    return identity


def _changed(config: Config, default: Config) -> dict[str, Any]:
    """The fields in which a config differs from its preset, with its values."""
    between = configs.difference(configs.identity(default), configs.identity(config))
    return {field: value for field, (_, value) in between.items()}


def _introduce(
    recorder: Recorder,
    preset: str,
    config: Config,
    changed: Mapping[str, Any],
    task: Task,
    layout: Layout,
    at_once: int,
) -> None:
    """The resolved config and how it differs from the preset."""
    plain, budget = configs.as_dict(config), config.budget
    recorder.say(f"{preset}: {spelled(plain['benchmark'])}")
    seeds = f"{budget.seeds} seed{'s'[: budget.seeds > 1]}"
    data = scoreboards.rows(plain["benchmark"], budget.demos, budget.epochs_over_data)
    recorder.say(
        f"policy {spelled(plain['policy'])}; {seeds} x {budget.updates} updates, batches "
        f"of {budget.batch_size}; {data}; learning rate {config.optimiser.learning_rate:g}"
    )
    for name, each in configs.resolve(config).items():
        recorder.say(f"  {name:<12} {each.claim().sentence}")
        for alarm in standing_still(each, budget.updates):
            recorder.say(f"  {name:<12} {alarm.message}")
    different = ", ".join(f"{k}={v}" for k, v in changed.items()) or "in nothing."
    recorder.say(f"Differs from the preset: {different}")
    attention = f"; attention by {config.policy.kernel}" if config.policy.kernel else ""
    together = f"; {at_once} methods at a time" if at_once > 1 else ""
    recorder.say(f"Devices: {layout}{attention}{together}. Results go to {config.output.out}.")
    for note in task.notes:
        recorder.say(note)


# --- before the methods ---------------------------------------------------------------------------


def _prepare(
    config: Config,
    reading: Reading | None,
    task: Task,
    components: Components,
    layout: Layout,
    folder: RunFolder,
    recorder: Recorder,
    console: Console,
    stop: StopFlag,
) -> RunContext:
    """What all methods share: keys, fixed rows, the common start, and what measures them."""
    methods = configs.resolve(config).values()
    keys = assemble.seed_keys(config, config.budget.seeds)
    rows = {
        reads: runs.fixed_rows(config.budget, task.mdp, keys, reads)
        for reads in dict.fromkeys(["demos", *(each.reads for each in methods)])
    }
    if reading is not None:
        kept = kept_features.of(config, reading, task, rows, layout, recorder.say)
        components = components._replace(kept_expert=kept)
    start = continuing.start(config, components.policy)
    if start is None:
        start = runs.starts(config, task, components, keys)
    if config.budget.warm_start:
        rates = jnp.full(config.budget.seeds, config.optimiser.learning_rate)
        saves = resume.saves_in(folder, "start", config.saving, stop, end=True)
        cold = Runs(keys, start, rates, rows["demos"])
        start = _warm_start(config, task, components, layout, cold, saves, recorder)
    placed = layout.put(start)
    extra = [each.divergence for each in methods if each.divergence]
    claims = [each.claim() for each in methods]
    seed, searched = config.budget.seed, folder.path / "class_optimum.json"
    judging = judging_keys(seed, config.budget.seeds)
    evaluator = Evaluator(
        config.evaluation, judging, task, components, layout, placed, extra, claims
    )
    if config.policy.name in NETWORKS:
        _compare_sampling(config, evaluator, layout, start, recorder)
    # a digest sees nothing of what a user's own files define
    kept = None if cli.IMPORTED else devices.cache_folder(config.output.cache) / "optima"
    class_optima = ClassOptima(
        config.policy, config.evaluation, seed, task, components, searched, extra, kept
    )
    context = RunContext(
        config=config,
        task=task,
        components=components,
        layout=layout,
        keys=keys,
        rows=rows,
        start=start,
        scoreboard=scoreboards.of_task(task),
        evaluator=evaluator,
        class_optima=class_optima,
        folder=folder,
        recorder=recorder,
        console=console,
        stop=stop,
        expert=evaluator.expert(placed),
        at_start=evaluator.measure_start(placed),
    )
    for name in ("data", "expert", "start"):
        recorder.resumed(name, -1)
    context.write_samples("start", *evaluator.strings(placed), evaluator.to_read(placed))
    for name, strings in evaluator.references().items():
        to_read = evaluator.expert_to_read() if name == "expert" else None
        context.write_samples(name, jax.tree.map(lambda x: x[None], strings), None, to_read)
    return context


def _compare_sampling(
    config: Config, evaluator: Evaluator, layout: Layout, start: Params, recorder: Recorder
) -> None:
    """Say how far the sampler's log-probs are from the trainer's, with adapters that are not zero
    where there are any."""
    adapted = config.policy.lora.wanted
    if (base := pretrained.base_of_adapters(config.policy)) is not None:
        path = config.policy.lora.path
        recorder.say(f"The adapters of {path} say that they were made for {base}.")
    if adapted:
        start = lora.perturbed(jax.random.key(config.budget.seed), start)
    apart = evaluator.sampling_error(layout.put(start))
    on = ", adapters on," if adapted else ""
    recorder.say(f"The sampler's log-probs{on} are those of training within {apart:.1e} nats.")


def _warm_start(
    config: Config,
    task: Task,
    components: Components,
    layout: Layout,
    cold: Runs,
    saves: resume.Saves,
    recorder: Recorder,
) -> Params:
    """The common start: likelihood training of every seed, kept with the run."""
    own = configs.replace(
        config,
        updates=config.budget.warm_start,
        epochs_over_data=None,
        epochs=1,
        minibatches=1,
        schedule="constant",
        warm_up=0,
    )
    objective = max_likelihood(components.policy, task.mdp.vocab)
    training = train.prepare(own, task, objective, layout, cold, saves=saves)
    if not training.complete:
        recorder.say(f"Warm start: {own.budget.updates} likelihood updates.")
    return layout.get(train.to_end(training).learner.params)
