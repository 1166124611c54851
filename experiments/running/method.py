"""One method of a head-to-head: its learning rate chosen, trained on all seeds, measured, kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import assemble, devices, fields
from experiments import config as configs
from experiments.devices import processes
from experiments.evaluation.evaluator import Measured, Own, own_divergence
from experiments.reporting import results, schema
from experiments.reporting.schema import Change, MethodResult, Trial
from experiments.running import finite, train, trials
from experiments.running.alarms import alarms, ending, standing_still
from experiments.running.context import RunContext
from experiments.running.program import CompiledMethod, Progress, TrainState
from experiments.running.record import Report
from experiments.running.runs import Runs
from experiments.running.stopping import Interrupted
from experiments.storage import checkpoints
from experiments.storage.run_folder import final
from fdiv.statistics import iqm
from fdiv.types import Claim, Method, Params, TokenMDP


def run(context: RunContext, name: str, method: Method) -> None:
    """Train a method on all seeds and keep its result; a finished one is not run again, an
    interrupted one goes on. Raises `Interrupted` where a stop is asked for."""
    folder, recorder = context.folder, context.recorder
    if folder.method(name, schema.method):
        recorder.state(name, "kept")
        return
    if processes.any_of(context.stop.asked):
        raise Interrupted
    recorder.state(name, "compiling")
    claim = claim_on(method, context.task.mdp)
    objective = assemble.build(context.config, method, context.components)
    own = own_divergence(claim, context.task)
    rate, tried = trials.choose(context, name, method, objective, own)
    rates = jnp.full(context.config.budget.seeds, rate)
    training = train.prepare(
        context.config,
        context.task,
        objective,
        context.layout,
        Runs(context.keys, context.start, rates, context.rows[method.reads]),
        method.reads,
        context.saves(name),
        assemble.widths_of(context.task, method),
    )
    compiled = training.compiled
    takes = devices.memory_taken(compiled.memory_bytes)
    recorder.say(f"  {name}: compiled in {compiled.compile_seconds:.1f} s; takes {takes}.")
    outcome = _train(context, name, method, training, own)
    result = _result(context, name, method, claim, compiled, outcome, own, rate, tried)
    _keep(context, name, compiled, outcome.progress, result)


def claim_on(method: Method, mdp: TokenMDP) -> Claim:
    """A method's claim; one that maximises a return names what the task takes off it."""
    claim = method.claim()
    if method.charges and mdp.regulariser is not None:
        return claim._replace(minimises=mdp.regulariser.divergence)
    return claim


# --- training -------------------------------------------------------------------------------------


class TrainingOutcome(NamedTuple):
    """How a method's training went."""

    progress: Progress  # at the end
    reason: str  # why it diverged, or nothing
    alarms: list[str]  # raised at the last evaluation
    measured: Measured  # at the end, by the evaluator


def _train(
    context: RunContext, name: str, method: Method, training: train.Training, own: Own | None
) -> TrainingOutcome:
    config, recorder = context.config, context.recorder
    compiled, start = training.compiled, training.start
    if start:
        recorder.say(f"  {name}: goes on from update {start.update}.")
    recorder.resumed(name, start.update if start else -1)

    last: Measured = {}

    def evaluate(train_state: TrainState) -> Measured:
        nonlocal last
        begun = np.any(compiled.layout.host(train_state.learner.step))
        params = train_state.learner.params
        last = context.evaluator.measure(params) if begun else context.at_start
        measured = last | compiled.layout.host(compiled.probe(train_state))
        return measured | ({"own": own(measured)} if own else {})

    still = [alarm.message for alarm in standing_still(method, config.budget.updates)]
    raised: list[str] = []
    takes = fields.takes(config, name)
    stops = train.curve(config.budget.updates, config.evaluation.evaluations)
    for progress in train.fit(training, evaluate, stops):
        update, seconds, tokens, measured, _ = progress
        recorder.progress(Report(name, update, compiled.updates, seconds, tokens, measured))
        if measured:
            warm = update > method.warmup
            alarms_now = alarms(measured, context.expert, takes, warm, context.at_start)
            raised = still + [alarm.message for alarm in alarms_now]
            log = compiled.layout.host(progress.train_state.log)
            if config.saving.not_finite == "stop" and np.all(log.broke):
                break
    skip = config.saving.not_finite == "skip"
    log = compiled.layout.host(progress.train_state.log)
    broken = finite.described(log, compiled.watched, skip)
    if skip and broken:
        left_out = f"Updates left out: {broken}."
        return TrainingOutcome(progress, "", [*raised, left_out], last)
    return TrainingOutcome(progress, broken, raised, last)


# --- the result -----------------------------------------------------------------------------------


def _result(
    context: RunContext,
    name: str,
    method: Method,
    claim: Claim,
    compiled: CompiledMethod,
    outcome: TrainingOutcome,
    own: Own | None,
    rate: float,
    tried: list[Trial],
) -> MethodResult:
    """A method's entry in results.json, and its samples written."""
    progress, params = outcome.progress, outcome.progress.train_state.learner.params
    final, sequences, log_q = context.evaluator.final(params, outcome.measured)
    final |= compiled.layout.host(compiled.probe(progress.train_state))
    to_read = context.evaluator.to_read(params)
    context.write_samples(name, sequences, log_q, to_read, claim.level)
    metrics, infinite = results.metrics_of(final)
    context.await_search(name)
    search(context, name, method)
    best = context.class_optima.of(claim) if context.class_optima.available and own else None
    reason = outcome.reason or _not_finite(final)
    gap = results.gap_of(own(final), best) if own else None
    # a policy that never moved has an alarm of its own
    judged = not reason and method.warmup < context.config.budget.updates
    ended = _ending(context, name, gap.iqm) if judged and gap is not None else []
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
        trials=tried,
        best=best.value if best else None,
        gap=gap,
        metrics=metrics,
        infinite=infinite,
        alarms=outcome.alarms + ended,
        temperatures=_at_temperatures(context, params) if name == "sft" else [],
        changes=_changes(context, claim, final),
        how=claim.how,
        aside=claim.aside,
    )


def _changes(context: RunContext, claim: Claim, final: Measured) -> list[Change]:
    """What moved since the start, where that is estimated and the expert is known."""
    if context.evaluator.exact or context.task.mdp.expert is None or claim.level == "return":
        return []
    return results.changes(claim.minimises, context.at_start, final)


def _ending(context: RunContext, name: str, gap: float) -> list[str]:
    """What its learning curve, as the folder has it, says of how it ended."""
    lines = [line for line in context.folder.lines("metrics.jsonl") if line["method"] == name]
    curve: dict[int, list[float]] = {}
    for line in lines:
        if line.get("own") is not None:
            curve.setdefault(line["update"], []).append(line["own"])
    if not curve:
        return []
    end = max(curve)
    norms = [
        line["gradient_norm"]
        for line in lines
        if line["update"] == end and line.get("gradient_norm") is not None
    ]
    own = {update: float(np.median(values)) for update, values in curve.items()}
    gradient = float(np.median(norms)) if norms else math.nan
    takes = fields.takes(context.config, name)
    return [alarm.message for alarm in ending(own, gap, gradient, takes)]


def _not_finite(measured: Mapping[str, np.ndarray]) -> str:
    """Which seeds give the expert's strings no mass, so that their metrics say no more."""
    broken = np.flatnonzero(~np.isfinite(measured.get("cross_entropy", np.zeros(1))))
    if not broken.size:
        return ""
    return f"seed {', '.join(map(str, broken))}: cross_entropy is not finite at the end"


def search(context: RunContext, name: str, method: Method, shown: bool = True) -> None:
    """The class's best policies, which no training waits for: those of the run's table, and that
    for what the method claims. Always in one order, as each search starts from those before. The
    row of the method that came first says how far it is, if `shown`.

    Raises `Interrupted` between two searches.
    """
    if not context.class_optima.available:
        return
    _search_table(context, name, shown)
    claim = claim_on(method, context.task.mdp)
    if own_divergence(claim, context.task):
        context.class_optima.of(claim)


def _search_table(context: RunContext, method: str, shown: bool) -> None:
    names = [m.divergence for m in configs.resolve(context.config).values() if m.divergence]
    lacking = context.class_optima.lacking(names)
    if lacking:
        context.recorder.say(
            "Searching the best policies of the class (L-BFGS, double precision) ..."
        )
    for i, name in enumerate(lacking, 1):
        if processes.any_of(context.stop.asked):
            raise Interrupted
        if shown:
            context.recorder.state(method, f"class optimum {i}/{len(lacking)}: {name}")
        context.class_optima.search(name)
    if lacking and (read := context.class_optima.read):
        context.recorder.say(
            f"Class optima: {read} of {len(lacking)} kept from an earlier run, measured again."
        )


def _at_temperatures(context: RunContext, params: Params) -> list[dict[str, float]]:
    """Policies at each temperature: IQM over seeds of every metric that is finite on all."""
    rows = []
    for temperature in sorted(context.config.evaluation.temperatures):
        measured = context.evaluator.measure(params, temperature)
        whole = {name: iqm(x) for name, x in measured.items() if np.all(np.isfinite(x))}
        rows.append({"temperature": temperature, **whole})
    return rows


def _keep(
    context: RunContext,
    name: str,
    compiled: CompiledMethod,
    progress: Progress,
    result: MethodResult,
) -> None:
    """Save the last state and the result, which marks the method as finished."""
    checkpoints.save(
        final(context.folder.path, name),
        progress.update,
        compiled.layout.get(progress.train_state),
        {"update": progress.update},
        keep=1,
    )
    context.folder.keep_method(name, schema.method_as_json(result))
    done = f"done in {progress.seconds:.1f} s" if result.status == "ok" else result.status
    context.recorder.state(name, done)
    for message in result.alarms:
        context.recorder.alarm(name, message)
