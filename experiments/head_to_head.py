"""A head-to-head from config to report: the same start, demonstrations, budget and seeds for every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
    assemble,
    checkpoints,
    cli,
    devices,
    health,
    lasting,
    processes,
    results,
    teacher,
    training,
)
from experiments import config as configs
from experiments.alarms import alarms
from experiments.assemble import Task
from experiments.console import Screen
from experiments.evaluation import Judge, own_divergence
from experiments.lanes import Lanes
from experiments.optimum import Optima
from experiments.run_folder import RunFolder, unusable, write_json
from experiments.stopping import STOPPED_EXIT, Interrupted, StopFlag
from fdiv.objectives import Resolved
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.statistics import iqm
from fdiv.types import Claim, Kit

LIVE = {"entropy": "entropy", "gradient_norm": "grad norm"}  # shown while training, after what the rows are ranked by


class Bench(NamedTuple):
    """What all methods of a run share."""

    config: Any
    task: Task
    kit: Kit
    lanes: Lanes
    keys: jax.Array
    rows: Mapping[str, Any]  # demonstrations (and comparisons) of each seed
    start: Any  # parameters of each seed
    judge: Judge
    optima: Optima
    folder: RunFolder
    screen: Screen
    stop: StopFlag
    expert: Mapping[str, float]


def run(preset: str, config: Any, default: Any) -> int:
    """Train, measure and report; 0 when all is done, `STOPPED_EXIT` when stopped. Raises `UsageError` for what cannot be."""
    processes.join(config.devices.coordinator, config.devices.processes, config.devices.process)
    try:
        with processes.folder(config.out) as out:
            return _run(preset, configs.replace(config, out=out), default)
    except Interrupted:
        print("Stopped before the first method. The same command goes on from here.")
        return STOPPED_EXIT
    except OSError as error:
        raise unusable(config.out, error) from error


def _run(preset: str, config: Any, default: Any) -> int:
    configs.check(config, default)
    lanes = devices.lanes(config.seeds, config.devices)
    reading = assemble.data(config)
    identity = configs.identity(config) | ({"data": reading.digest()} if reading else {})
    identity |= {"imports": cli.imported()} if cli.IMPORTED else {}
    folder = RunFolder(config.out, identity)
    if folder.finished:
        print(f"Already done: {folder.path / 'report.html'} holds the results of this very config.")
        return 0
    plain_task = assemble.task(config, reading)
    changed = {k: v for k, (_, v) in configs.difference(configs.identity(default), configs.identity(config)).items()}
    kit = assemble.kit(config, plain_task)
    devices.use_compile_cache(config.cache)
    folder.create(preset, changed)
    if reading and reading.bad:
        write_json(folder.path / "bad_rows.json", [{"row": number, "reason": reason} for number, reason in reading.bad])

    methods = configs.resolve(config)
    live = {"js": "JS"} if plain_task.space is not None else {"validation_nll": "NLL/token"}
    live = {"reward": "reward", "spent": "spent"} if plain_task.mdp.regulariser is not None else live
    live = {"greedy_accuracy": "greedy", "accuracy": "accuracy"} if plain_task.mdp.solutions is not None else live
    with StopFlag() as stop, Screen([method.name for method, _ in methods], live | LIVE) as screen:
        _introduce(screen, preset, config, changed, plain_task, lanes)
        saves = _saves(config, folder, "teacher")
        expert = teacher.get(config, reading, plain_task, screen.say, saves, stop) if reading else plain_task.mdp.expert
        task = plain_task._replace(mdp=plain_task.mdp._replace(expert=expert))
        for method, hyperparameters in methods:
            method.build(hyperparameters, kit._replace(mdp=task.mdp))  # what lacks an expert is refused before any training
        bench = _prepare(config, task, kit._replace(mdp=task.mdp), lanes, folder, screen, stop)
        complete = _methods(bench, methods)
    if stop.hurried:
        print("Stopped; all is saved. The same command goes on from here.")
        return STOPPED_EXIT
    from experiments import outcome

    outcome.finish(bench, complete, changed)
    return 0 if complete else STOPPED_EXIT


def _introduce(screen: Screen, preset: str, config: Any, changed: Mapping, task: Task, lanes: Lanes) -> None:
    """The resolved config and how it differs from the preset."""
    screen.say(f"{preset}: {', '.join(f'{k} {v}' for k, v in configs.as_dict(config)['benchmark'].items() if v is not None)}")
    sizes = {k: v for k, v in configs.as_dict(config)["policy"].items() if v is not None}
    data = f"{config.demos} demos a seed" if config.demos else "fresh demos"
    budget = f"{config.seeds} seed{'s'[: config.seeds > 1]} x {config.updates} updates x {config.batch_size} strings"
    screen.say(
        f"policy {', '.join(f'{k} {v}' for k, v in sizes.items())}; {budget}; {data}; learning rate {config.learning_rate:g}"
    )
    for method, hyperparameters in configs.resolve(config):
        screen.say(f"  {method.name:<12} {method.claim(hyperparameters).sentence}")
    screen.say("Differs from the preset: " + (", ".join(f"{k}={v}" for k, v in changed.items()) or "in nothing."))
    attention = f"; attention by {config.policy.kernel}" if config.policy.kernel else ""
    screen.say(f"Devices: {lanes}{attention}. Results go to {config.out}.")
    for note in task.notes:
        screen.say(note)


# --- before the methods --------------------------------------------------------------------------------------------


def _prepare(config: Any, task: Task, kit: Kit, lanes: Lanes, folder: RunFolder, screen: Screen, stop: StopFlag) -> Bench:
    keys = assemble.seed_keys(config, config.seeds)
    read = dict.fromkeys(["demos", *(method.reads for method, _ in configs.resolve(config))])
    rows = {reads: training.demonstrations(config, task, keys, reads) for reads in read}
    start = training.starts(config, task, kit, keys)
    if config.warm_start:
        start = _warm_start(config, task, kit, lanes, keys, start, rows["demos"], folder, screen, stop)
    extra = [method.divergence for method, _ in configs.resolve(config) if method.divergence]
    judge = Judge(config, task, kit, lanes, lanes.put(start), extra)
    optima = Optima(config, task, kit, folder.path / "class_optimum.json")
    bench = Bench(config, task, kit, lanes, keys, rows, start, judge, optima, folder, screen, stop, judge.expert())
    for name in ("data", "expert", "start"):
        folder.drop_lines("samples.jsonl", name)
    write_samples(bench, "start", *judge.strings(lanes.put(start)))
    for name, strings in judge.references().items():
        write_samples(bench, name, jax.tree.map(lambda x: x[None], strings), None)
    return bench


def _warm_start(config, task, kit, lanes, keys, params, rows, folder: RunFolder, screen: Screen, stop: StopFlag):
    """The common start: likelihood training of every seed, kept with the run."""
    own = configs.replace(config, updates=config.warm_start, epochs=1, minibatches=1, schedule="constant")
    objective = max_likelihood(kit.policy, task.mdp.vocab)
    rates = jnp.full(config.seeds, config.learning_rate)
    saves = _saves(config, folder, "start")
    lane, start = lasting.resume(saves, training.begin(own, objective, own.updates, keys, params, rates, rows))
    if start is None or start.update < own.updates:
        screen.say(f"Warm start: {own.updates} likelihood updates.")
        laid = lanes.put(lane)
        program = training.build(own, task, objective, own.updates, lanes, laid)
        *_, point = lasting.run(saves, stop, program, laid, start, keep_end=True)
        lane = lanes.get(point.lane)
    return lane.state.params


def _saves(config: Any, folder: RunFolder, name: str) -> lasting.Saves:
    return lasting.Saves(folder.checkpoints(name), config.keep, config.save_every)


# --- one method ----------------------------------------------------------------------------------------------------


def _methods(bench: Bench, methods: list) -> bool:
    """Every method in turn; whether all came to their end."""
    try:
        for method, hyperparameters in methods:
            _method(bench, method, hyperparameters)
    except Interrupted:
        return False
    return True


def _method(bench: Bench, method: Resolved, hyperparameters: Any) -> None:
    """Train a method on all seeds and keep its result; a finished one is not run again, an interrupted one goes on."""
    folder, screen = bench.folder, bench.screen
    if folder.method(method.name):
        screen.state(method.name, "kept")
        return
    if processes.any_of(bench.stop.asked):
        raise Interrupted
    screen.state(method.name, "compiling")
    claim, objective = _claim(bench, method, hyperparameters), method.build(hyperparameters, bench.kit)
    own = own_divergence(claim, bench.task)
    rate, trials = _tune(bench, method, objective, hyperparameters.learning_rate or bench.config.learning_rate, own)
    rates = jnp.full(bench.config.seeds, rate)
    rows, updates = bench.rows[method.reads], bench.config.updates
    lane = training.begin(bench.config, objective, updates, bench.keys, bench.start, rates, rows)
    laid = bench.lanes.put(lane)
    program = training.build(bench.config, bench.task, objective, updates, bench.lanes, laid, method.reads)
    takes = devices.memory(program.memory_bytes)
    screen.say(f"  {method.name}: compiled in {program.compile_seconds:.1f} s; takes {takes}.")
    track = _train(bench, method, program, lane, own)
    result = _result(bench, method, claim, program, track, own) | {"learning_rate": rate, "trials": trials}
    end = {"update": track.point.update}
    checkpoints.save(
        folder.checkpoints(f"{method.name}-final"), track.point.update, program.lanes.get(track.point.lane), end, keep=1
    )
    folder.keep_method(method.name, result)
    screen.state(method.name, f"done in {track.point.seconds:.1f} s" if result["status"] == "ok" else result["status"])
    for message in result["alarms"]:
        screen.say(f"  {method.name}: {message}")


def _claim(bench: Bench, method: Resolved, hyperparameters: Any) -> Claim:
    """What a method is meant to minimise; one that maximises a return names what the task takes off it."""
    claim = method.claim(hyperparameters)
    return claim._replace(minimises=bench.task.mdp.regulariser.divergence) if method.charges else claim


class Track(NamedTuple):
    """How a method's training went."""

    point: training.Point
    reason: str  # why it diverged, or nothing
    alarms: list[str]


def _train(bench: Bench, method: Resolved, program: training.Program, lane: Any, own: Any) -> Track:
    config, folder, screen = bench.config, bench.folder, bench.screen
    saves = _saves(config, folder, method.name)
    lane, start = lasting.resume(saves, lane)
    if start:
        screen.say(f"  {method.name}: goes on from update {start.update}.")
    folder.drop_lines("metrics.jsonl", method.name, start.update if start else -1)
    folder.drop_lines("samples.jsonl", method.name)

    def evaluate(lane: Any) -> dict[str, np.ndarray]:
        measured = bench.judge.measure(lane.state.params) | program.lanes.host(program.probe(lane))
        return measured | ({"own": own(measured)} if own else {})

    found = []
    laid = bench.lanes.put(lane)
    for point in lasting.run(saves, bench.stop, program, laid, start, evaluate, config.evaluations):
        measured = point.metrics
        medians = {k: float(np.median(v)) for k, v in measured.items()} if measured else None
        screen.progress(method.name, point.update, config.updates, point.seconds, float(point.tokens.sum()), medians)
        if measured:
            folder.append("metrics.jsonl", _lines(method.name, point))
            still = method.group == "adversarial" and point.update <= getattr(config, method.group).warmup
            found = [a.message for a in alarms(measured, bench.expert, method.group, warm=point.update > 0 and not still)]
            log = program.lanes.host(point.lane.log)
            if config.not_finite == "stop" and np.all(log.broke):
                break
    skip = config.not_finite == "skip"
    said = health.said(program.lanes.host(point.lane.log), program.watched, skip)
    return Track(point, "" if skip else said, found + [f"Updates left out: {said}."] * bool(skip and said))


def _lines(method: str, point: training.Point) -> list[dict[str, Any]]:
    """One line a seed for metrics.jsonl; what is not finite is null there."""
    finite = lambda x: float(x) if np.isfinite(x) else None
    return [
        {"method": method, "seed": i, "update": point.update, "tokens": float(point.tokens[i]), "seconds": point.seconds}
        | {name: finite(values[i]) for name, values in point.metrics.items()}
        for i in range(len(point.tokens))
    ]


def _not_finite(measured: Mapping[str, np.ndarray]) -> str:
    """Which seeds have lost their coverage, whose metrics say no more."""
    broken = np.flatnonzero(~np.isfinite(measured.get("coverage", np.zeros(1))))
    return f"seed {', '.join(map(str, broken))}: coverage is not finite at the end" if broken.size else ""


def _tune(bench: Bench, method: Resolved, objective: Any, rate: float, own: Any) -> tuple[float, list[dict[str, float]]]:
    """The best of the config's number of learning rates, tried side by side on one seed of their own."""
    config = bench.config
    if config.trials == 1:
        return rate, []
    lanes = devices.lanes(config.trials, config.devices)
    key = assemble.seed_keys(config, 1, offset=1_000_000)
    same = lambda tree: jax.tree.map(lambda x: jnp.repeat(x[:1], config.trials, axis=0), tree)
    rates = rate * jnp.array(configs.RATES[: config.trials])
    rows = same(training.demonstrations(config, bench.task, key, method.reads))
    saves = _saves(config, bench.folder, f"{method.name}-trials")
    begun = training.begin(config, objective, config.updates, same(key), same(bench.start), rates, rows)
    lane, start = lasting.resume(saves, begun)
    ended = lane = lanes.put(lane)
    if start is None or start.update < config.updates:
        program = training.build(config, bench.task, objective, config.updates, lanes, lane, method.reads)
        *_, point = lasting.run(saves, bench.stop, program, lane, start, keep_end=True)
        ended = point.lane
    judge = Judge(config, bench.task, bench.kit, lanes, ended.state.params, [d.name for d in bench.judge.family])
    measured = judge.measure(ended.state.params)
    scores = own(measured) if own and bench.judge.exact else measured["validation_nll"]
    scores = -measured["greedy_accuracy"] if bench.task.mdp.solutions is not None else scores
    scores = np.where(np.isfinite(scores), scores, np.inf)
    trials = [{"learning_rate": float(r), "score": float(s)} for r, s in zip(rates, scores)]
    return float(rates[int(np.argmin(scores))]), trials


def _variant(method: Resolved) -> str | None:
    """What sets a method apart from the others of its group, for the eye."""
    if "penalty" in method.fixed:
        return method.name.partition(":")[2]
    marks = {"std": "std", "noise": "noise", "reads": "demos"}
    return next((mark for name, mark in marks.items() if method.fixed.get(name)), method.fixed.get("by"))


def _result(bench: Bench, method: Resolved, claim: Any, program: training.Program, track: Track, own: Any) -> dict[str, Any]:
    """A method's entry in results.json, and its samples written."""
    point, params = track.point, track.point.lane.state.params
    final, sequences, log_q = bench.judge.final(params)
    final |= {k: v for k, v in program.lanes.host(program.probe(point.lane)).items()}
    write_samples(bench, method.name, sequences, log_q)
    metrics, infinite = results.metrics_of(final)
    _search(bench)
    best = bench.optima.of(claim) if bench.optima.available and own else None
    sweep = _sweep(bench, params) if method.name == "sft" else []
    reason = track.reason or _not_finite(final)
    return {
        "minimises": claim.minimises,
        "level": claim.level,
        "target": claim.sentence,
        "group": method.group,
        "published": bool(method.fixed.get("published")),
        "variant": _variant(method),
        "status": "diverged" if reason else "ok",
        "reason": reason,
        "seconds": point.seconds,
        "compile_seconds": program.compile_seconds,
        "memory_bytes": program.memory_bytes,
        "tokens": float(point.tokens.sum()),
        "best": best.value if best else None,
        "gap": results.gap_of(own(final), best) if own else None,
        "metrics": metrics,
        "infinite": infinite,
        "alarms": track.alarms,
        "temperatures": sweep,
    }


def _search(bench: Bench) -> None:
    """The class's best policies, which no training waits for; always in one order, as each search starts from those before.

    Raises `Interrupted` between two searches.
    """
    names = [method.divergence for method, _ in configs.resolve(bench.config) if method.divergence]
    lacking = bench.optima.lacking(names) if bench.optima.available else []
    if lacking:
        bench.screen.say("Searching the best policies of the class (L-BFGS, double precision) ...")
    for name in lacking:
        if processes.any_of(bench.stop.asked):
            raise Interrupted
        bench.optima.search(name)


def _sweep(bench: Bench, params: Any) -> list[dict[str, float]]:
    """Policies at each temperature: IQM over seeds of every finite metric."""
    rows = []
    for temperature in sorted(bench.config.temperatures):
        measured = bench.judge.measure(params, temperature)
        finite = {k: iqm(v) for k, v in measured.items() if np.all(np.isfinite(v))}
        rows.append({"temperature": temperature, **finite})
    return rows


def write_samples(bench: Bench, name: str, sequences: Any, log_q: Any, shown: int = 16) -> None:
    """The first strings of each seed in samples.jsonl."""
    for seed in range(len(sequences.tokens)):
        few = jax.tree.map(lambda x, seed=seed: x[seed][:shown], sequences)
        texts = assemble.readable(bench.task, few)
        bench.folder.append(
            "samples.jsonl",
            (
                {"method": name, "seed": seed, "index": i, "prompt": prompt, "completion": text}
                | ({} if log_q is None else {"log_q": float(log_q[seed][i])})
                for i, (prompt, text) in enumerate(texts)
            ),
        )
