"""A head-to-head from config to report: the same start, demonstrations, budget and seeds for every
method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble, cli, devices, validation
from experiments import config as configs
from experiments.assemble import Task
from experiments.devices import Layout, processes
from experiments.evaluation.class_optimum import ClassOptima
from experiments.evaluation.evaluator import Evaluator, own_divergence
from experiments.reporting import results, schema, scoreboards
from experiments.reporting.schema import MethodResult, Trial
from experiments.reporting.scoreboards import Scoreboard
from experiments.running import finite as health
from experiments.running import resume, runs, teacher, train
from experiments.running.alarms import alarms
from experiments.running.console import Screen
from experiments.running.program import CompiledMethod, Progress
from experiments.running.runs import Runs
from experiments.running.stopping import STOPPED_EXIT, Interrupted, StopFlag
from experiments.storage import checkpoints
from experiments.storage.run_folder import RunFolder, unusable, write_json
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.statistics import iqm
from fdiv.types import Claim, Components, Method


class RunContext(NamedTuple):
    """What all methods of a run share."""

    config: Any
    task: Task
    components: Components
    layout: Layout
    keys: jax.Array
    rows: Mapping[str, Any]  # demonstrations (and comparisons) of each seed
    start: Any  # parameters of each seed
    scoreboard: Scoreboard
    evaluator: Evaluator
    class_optima: ClassOptima
    folder: RunFolder
    screen: Screen
    stop: StopFlag
    expert: Mapping[str, float]


def run(preset: str, config: Any, default: Any) -> int:
    """Train, measure and report; 0 when all is done, `STOPPED_EXIT` when stopped. Raises
    `UsageError` for what cannot be."""
    processes.join(config.devices.coordinator, config.devices.processes, config.devices.process)
    try:
        with processes.folder(config.output.out) as out:
            return _run(preset, configs.replace(config, out=out), default)
    except Interrupted:
        print("Stopped before the first method. The same command goes on from here.")
        return STOPPED_EXIT
    except OSError as error:
        raise unusable(config.output.out, error) from error


def _run(preset: str, config: Any, default: Any) -> int:
    validation.check(config, default)
    layout = devices.lay_out(config.budget.seeds, config.devices)
    reading = assemble.data(config)
    identity = configs.identity(config) | ({"data": reading.digest()} if reading else {})
    identity |= {"imports": cli.imported()} if cli.IMPORTED else {}
    folder = RunFolder(config.output.out, identity)
    if folder.finished:
        print(f"Already done: {folder.path / 'report.html'} holds the results of this very config.")
        return 0
    config = assemble.fitted(config, reading)
    plain_task = assemble.task(config, reading)
    changed = {
        k: v
        for k, (_, v) in configs.difference(
            configs.identity(default), configs.identity(config)
        ).items()
    }
    components = assemble.components(config, plain_task)
    devices.use_compile_cache(config.output.cache)
    folder.create(preset, changed)
    if reading and reading.bad:
        write_json(
            folder.path / "bad_rows.json",
            [{"row": number, "reason": reason} for number, reason in reading.bad],
        )

    methods = configs.resolve(config)
    live = scoreboards.of_task(plain_task).live_columns()
    with StopFlag() as stop, Screen(list(methods), live) as screen:
        _introduce(screen, preset, config, changed, plain_task, layout)
        saves = _saves(config, folder, "teacher", stop)
        expert = (
            teacher.get(config, reading, plain_task, screen.say, saves)
            if reading
            else plain_task.mdp.expert
        )
        task = plain_task._replace(mdp=plain_task.mdp._replace(expert=expert))
        for method in methods.values():  # what lacks an expert is refused before any training
            assemble.build(config, method, components._replace(mdp=task.mdp))
        context = _prepare(
            config, task, components._replace(mdp=task.mdp), layout, folder, screen, stop
        )
        complete = _methods(context, methods)
    if stop.hurried:
        print("Stopped; all is saved. The same command goes on from here.")
        return STOPPED_EXIT
    from experiments.running import finish

    finish.finish(context, complete, changed)
    return 0 if complete else STOPPED_EXIT


def _introduce(
    screen: Screen, preset: str, config: Any, changed: Mapping, task: Task, layout: Layout
) -> None:
    """The resolved config and how it differs from the preset."""
    screen.say(
        f"{preset}: "
        f"{', '.join(f'{k} {v}' for k, v in configs.as_dict(config)['benchmark'].items() if v is not None)}"
    )
    sizes = {k: v for k, v in configs.as_dict(config)["policy"].items() if v is not None}
    data = f"{config.budget.demos} demos a seed" if config.budget.demos else "fresh demos"
    budget = (
        f"{config.budget.seeds} seed{'s'[: config.budget.seeds > 1]} x {config.budget.updates} updates x "
        f"{config.budget.batch_size} strings"
    )
    screen.say(
        f"policy {', '.join(f'{k} {v}' for k, v in sizes.items())}; {budget}; {data}; "
        f"learning rate {config.optimiser.learning_rate:g}"
    )
    for name, method in configs.resolve(config).items():
        screen.say(f"  {name:<12} {method.claim().sentence}")
    screen.say(
        "Differs from the preset: "
        + (", ".join(f"{k}={v}" for k, v in changed.items()) or "in nothing.")
    )
    attention = f"; attention by {config.policy.kernel}" if config.policy.kernel else ""
    screen.say(f"Devices: {layout}{attention}. Results go to {config.output.out}.")
    for note in task.notes:
        screen.say(note)


# --- before the methods ---------------------------------------------------------------------------


def _prepare(
    config: Any,
    task: Task,
    components: Components,
    layout: Layout,
    folder: RunFolder,
    screen: Screen,
    stop: StopFlag,
) -> RunContext:
    keys = assemble.seed_keys(config, config.budget.seeds)
    read = dict.fromkeys(["demos", *(m.reads for m in configs.resolve(config).values())])
    rows = {reads: runs.fixed_rows(config.budget, task.mdp, keys, reads) for reads in read}
    start = runs.starts(config, task, components, keys)
    if config.budget.warm_start:
        start = _warm_start(
            config, task, components, layout, keys, start, rows["demos"], folder, screen, stop
        )
    extra = [m.divergence for m in configs.resolve(config).values() if m.divergence]
    seed, searched = config.budget.seed, folder.path / "class_optimum.json"
    evaluator = Evaluator(
        config.evaluation, seed, task, components, layout, layout.put(start), extra
    )
    class_optima = ClassOptima(
        config.policy, config.evaluation, seed, task, components, searched, extra
    )
    context = RunContext(
        config,
        task,
        components,
        layout,
        keys,
        rows,
        start,
        scoreboards.of_task(task),
        evaluator,
        class_optima,
        folder,
        screen,
        stop,
        evaluator.expert(),
    )
    for name in ("data", "expert", "start"):
        folder.drop_lines("samples.jsonl", name)
    write_samples(context, "start", *evaluator.strings(layout.put(start)))
    for name, strings in evaluator.references().items():
        write_samples(context, name, jax.tree.map(lambda x: x[None], strings), None)
    return context


def _warm_start(
    config,
    task,
    components,
    layout,
    keys,
    params,
    rows,
    folder: RunFolder,
    screen: Screen,
    stop: StopFlag,
):
    """The common start: likelihood training of every seed, kept with the run."""
    own = configs.replace(
        config,
        updates=config.budget.warm_start,
        epochs=1,
        minibatches=1,
        schedule="constant",
        warm_up=0,
    )
    objective = max_likelihood(components.policy, task.mdp.vocab)
    rates = jnp.full(config.budget.seeds, config.optimiser.learning_rate)
    saves = _saves(config, folder, "start", stop, end=True)
    training = train.prepare(
        own, task, objective, layout, Runs(keys, params, rates, rows), saves=saves
    )
    if not training.complete:
        screen.say(f"Warm start: {own.budget.updates} likelihood updates.")
    return layout.get(train.to_end(training).learner.params)


def _saves(
    config: Any, folder: RunFolder, name: str, stop: StopFlag, end: bool = False
) -> resume.Saves:
    saving = config.saving
    return resume.Saves(folder.checkpoints(name), saving.keep, saving.save_every, stop, end)


# --- one method -----------------------------------------------------------------------------------


def _methods(context: RunContext, methods: Mapping[str, Method]) -> bool:
    """Every method in turn; whether all came to their end."""
    try:
        for name, method in methods.items():
            _method(context, name, method)
    except Interrupted:
        return False
    return True


def _method(context: RunContext, name: str, method: Method) -> None:
    """Train a method on all seeds and keep its result; a finished one is not run again, an
    interrupted one goes on."""
    folder, screen = context.folder, context.screen
    if folder.method(name):
        screen.state(name, "kept")
        return
    if processes.any_of(context.stop.asked):
        raise Interrupted
    screen.state(name, "compiling")
    claim = _claim(context, method)
    objective = assemble.build(context.config, method, context.components)
    own = own_divergence(claim, context.task)
    rate = method.learning_rate or context.config.optimiser.learning_rate
    rate, trials = _tune(context, name, method.reads, objective, rate, own)
    rates = jnp.full(context.config.budget.seeds, rate)
    training = train.prepare(
        context.config,
        context.task,
        objective,
        context.layout,
        Runs(context.keys, context.start, rates, context.rows[method.reads]),
        method.reads,
        _saves(context.config, folder, name, context.stop),
    )
    compiled = training.compiled
    takes = devices.memory(compiled.memory_bytes)
    screen.say(f"  {name}: compiled in {compiled.compile_seconds:.1f} s; takes {takes}.")
    outcome = _train(context, name, method, training, own)
    result = _result(context, name, method, claim, compiled, outcome, own, rate, trials)
    end = {"update": outcome.progress.update}
    checkpoints.save(
        folder.checkpoints(f"{name}-final"),
        outcome.progress.update,
        compiled.layout.get(outcome.progress.train_state),
        end,
        keep=1,
    )
    folder.keep_method(name, schema.as_json(result))
    screen.state(
        name,
        f"done in {outcome.progress.seconds:.1f} s" if result.status == "ok" else result.status,
    )
    for message in result.alarms:
        screen.say(f"  {name}: {message}")


def _claim(context: RunContext, method: Method) -> Claim:
    """What a method is meant to minimise; one that maximises a return names what the task takes off
    it."""
    claim = method.claim()
    return (
        claim._replace(minimises=context.task.mdp.regulariser.divergence)
        if method.charges
        else claim
    )


class TrainingOutcome(NamedTuple):
    """How a method's training went."""

    progress: Progress
    reason: str  # why it diverged, or nothing
    alarms: list[str]


def _train(
    context: RunContext,
    name: str,
    method: Method,
    training: train.Training,
    own: Any,
) -> TrainingOutcome:
    config, folder, screen = context.config, context.folder, context.screen
    compiled, start = training.compiled, training.start
    if start:
        screen.say(f"  {name}: goes on from update {start.update}.")
    folder.drop_lines("metrics.jsonl", name, start.update if start else -1)
    folder.drop_lines("samples.jsonl", name)

    def evaluate(train_state: Any) -> dict[str, np.ndarray]:
        measured = context.evaluator.measure(train_state.learner.params) | compiled.layout.host(
            compiled.probe(train_state)
        )
        return measured | ({"own": own(measured)} if own else {})

    found = []
    stops = train.curve(config.budget.updates, config.evaluation.evaluations)
    for progress in train.fit(training, evaluate, stops):
        measured = progress.metrics
        medians = {k: float(np.median(v)) for k, v in measured.items()} if measured else None
        screen.progress(
            name,
            progress.update,
            config.budget.updates,
            progress.seconds,
            float(progress.tokens.sum()),
            medians,
        )
        if measured:
            folder.append("metrics.jsonl", _lines(name, progress))
            warm = progress.update > method.warmup
            found = [a.message for a in alarms(measured, context.expert, method.kind, warm=warm)]
            log = compiled.layout.host(progress.train_state.log)
            if config.saving.not_finite == "stop" and np.all(log.broke):
                break
    skip = config.saving.not_finite == "skip"
    said = health.said(compiled.layout.host(progress.train_state.log), compiled.watched, skip)
    return TrainingOutcome(
        progress, "" if skip else said, found + [f"Updates left out: {said}."] * bool(skip and said)
    )


def _lines(method: str, progress: Progress) -> list[dict[str, Any]]:
    """One line a seed for metrics.jsonl; what is not finite is null there."""
    finite = lambda x: float(x) if np.isfinite(x) else None
    return [
        {
            "method": method,
            "seed": i,
            "update": progress.update,
            "tokens": float(progress.tokens[i]),
            "seconds": progress.seconds,
        }
        | {name: finite(values[i]) for name, values in progress.metrics.items()}
        for i in range(len(progress.tokens))
    ]


def _not_finite(measured: Mapping[str, np.ndarray]) -> str:
    """Which seeds give the expert's strings no mass, so that their metrics say no more."""
    broken = np.flatnonzero(~np.isfinite(measured.get("cross_entropy", np.zeros(1))))
    return (
        f"seed {', '.join(map(str, broken))}: cross_entropy is not finite at the end"
        if broken.size
        else ""
    )


def _tune(
    context: RunContext, name: str, reads: str, objective: Any, rate: float, own: Any
) -> tuple[float, list[Trial]]:
    """The best of the config's number of learning rates, tried side by side on one seed of their
    own."""
    config = context.config
    if config.budget.trials == 1:
        return rate, []
    layout = devices.lay_out(config.budget.trials, config.devices)
    key = assemble.seed_keys(config, 1, offset=1_000_000)
    same = lambda tree: jax.tree.map(
        lambda x: jnp.repeat(x[:1], config.budget.trials, axis=0), tree
    )
    rates = rate * jnp.array(configs.RATES[: config.budget.trials])
    rows = same(runs.fixed_rows(config.budget, context.task.mdp, key, reads))
    saves = _saves(config, context.folder, f"{name}-trials", context.stop, end=True)
    training = train.prepare(
        config,
        context.task,
        objective,
        layout,
        Runs(same(key), same(context.start), rates, rows),
        reads,
        saves,
    )
    params = train.to_end(training).learner.params
    evaluator = Evaluator(
        config.evaluation,
        config.budget.seed,
        context.task,
        context.components,
        layout,
        params,
        [d.name for d in context.evaluator.family],
    )
    measured = evaluator.measure(params)
    exact = own and context.evaluator.exact
    scores = own(measured) if exact else context.scoreboard.loss(measured)
    scores = np.where(np.isfinite(scores), scores, np.inf)
    trials = [Trial(float(r), float(s)) for r, s in zip(rates, scores)]
    return float(rates[int(np.argmin(scores))]), trials


def _result(
    context: RunContext,
    name: str,
    method: Method,
    claim: Claim,
    compiled: CompiledMethod,
    outcome: TrainingOutcome,
    own: Any,
    rate: float,
    trials: list[Trial],
) -> MethodResult:
    """A method's entry in results.json, and its samples written."""
    progress, params = outcome.progress, outcome.progress.train_state.learner.params
    final, sequences, log_q = context.evaluator.final(params)
    final |= {k: v for k, v in compiled.layout.host(compiled.probe(progress.train_state)).items()}
    write_samples(context, name, sequences, log_q)
    metrics, infinite = results.metrics_of(final)
    _search(context)
    best = context.class_optima.of(claim) if context.class_optima.available and own else None
    reason = outcome.reason or _not_finite(final)
    return MethodResult(
        minimises=claim.minimises,
        level=claim.plain_level,
        target=claim.sentence,
        group=method.kind,
        published=bool(method.published),
        look=method.look,
        status="diverged" if reason else "ok",
        reason=reason,
        seconds=progress.seconds,
        compile_seconds=compiled.compile_seconds,
        memory_bytes=compiled.memory_bytes,
        tokens=float(progress.tokens.sum()),
        learning_rate=rate,
        trials=trials,
        best=best.value if best else None,
        gap=results.gap_of(own(final), best) if own else None,
        metrics=metrics,
        infinite=infinite,
        alarms=outcome.alarms,
        temperatures=_sweep(context, params) if name == "sft" else [],
    )


def _search(context: RunContext) -> None:
    """The class's best policies, which no training waits for; always in one order, as each search
    starts from those before.

    Raises `Interrupted` between two searches.
    """
    names = [m.divergence for m in configs.resolve(context.config).values() if m.divergence]
    lacking = context.class_optima.lacking(names) if context.class_optima.available else []
    if lacking:
        context.screen.say(
            "Searching the best policies of the class (L-BFGS, double precision) ..."
        )
    for name in lacking:
        if processes.any_of(context.stop.asked):
            raise Interrupted
        context.class_optima.search(name)


def _sweep(context: RunContext, params: Any) -> list[dict[str, float]]:
    """Policies at each temperature: IQM over seeds of every finite metric."""
    rows = []
    for temperature in sorted(context.config.evaluation.temperatures):
        measured = context.evaluator.measure(params, temperature)
        finite = {k: iqm(v) for k, v in measured.items() if np.all(np.isfinite(v))}
        rows.append({"temperature": temperature, **finite})
    return rows


def write_samples(
    context: RunContext, name: str, sequences: Any, log_q: Any, shown: int = 16
) -> None:
    """The first strings of each seed in samples.jsonl."""
    for seed in range(len(sequences.tokens)):
        few = jax.tree.map(lambda x, seed=seed: x[seed][:shown], sequences)
        texts = assemble.readable(context.task, few)
        context.folder.append(
            "samples.jsonl",
            (
                {"method": name, "seed": seed, "index": i, "prompt": prompt, "completion": text}
                | ({} if log_q is None else {"log_q": float(log_q[seed][i])})
                for i, (prompt, text) in enumerate(texts)
            ),
        )
