"""What a run leaves once its methods are trained: results, pictures, tables and the report.

Loading what draws takes longer than a small run's first updates, so `head_to_head` imports this
file when it comes to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import config as configs
from experiments.evaluation.evaluator import over_seeds
from experiments.evaluation.frontier import frontier
from experiments.reporting import pictures, report, results, schema, tables, wording
from experiments.reporting.schema import MethodResult, RunResult
from experiments.running.context import RunContext
from experiments.running.json_lines import METRICS, SAMPLES
from experiments.storage import files, run_folder
from experiments.storage.run_folder import TABLES, RunFolder
from fdiv.metrics import STATISTICS


def finish(context: RunContext, complete: bool, changed: Mapping[str, object]) -> None:
    """Write everything of a run from what is kept in its folder, and show the table."""
    config, folder = context.config, context.folder
    names = list(configs.resolve(config))
    methods = {name: each for name in names if (each := folder.method(name, schema.method))}
    if not methods:
        print(
            "No method has finished. The same command goes on from here; what is done is in "
            f"{folder.path}."
        )
        return
    reference = "sft" if "sft" in methods else names[0]
    result = results.compared(_result(context, methods, complete), reference)
    _write_tables(folder, result)
    if config.output.report:
        _report(folder, result, changed, config.output.cache)
    # last: where `complete` is true in it, the run is finished
    schema.write(folder.path / "results.json", result)
    _show(context, result, tables.ranking(result))


def write_lacking(
    folder: RunFolder, result: RunResult, lacking: Sequence[str], changed: Mapping[str, object]
) -> None:
    """Write again, or for the first time, what a finished run's folder lacks, from its result and
    its lines."""
    for name in lacking:
        if (place := folder.path / name).is_dir():
            files.set_aside(place, "it is a folder")
    _write_tables(folder, result)
    if set(lacking) - set(TABLES):
        (folder.path / "figures").mkdir(exist_ok=True)
        _report(folder, result, changed)


def _write_tables(folder: RunFolder, result: RunResult) -> None:
    results.write_parquet(folder.path / "results.parquet", result)
    tables.write(folder.path, tables.ranking(result))


def _result(context: RunContext, methods: dict[str, MethodResult], complete: bool) -> RunResult:
    """`results.json`, but for the comparisons with a reference."""
    config, optima = context.config, context.class_optima
    names = [m.minimises for m in methods.values()]
    table = optima.table(names) if optima.available else {}
    plain, passes = configs.as_dict(config), config.budget.epochs_over_data
    return RunResult(
        complete=complete,
        kind=context.scoreboard.kind,
        benchmark=plain["benchmark"] | ({"passes": passes} if passes else {}),
        policy={name: value for name, value in plain["policy"].items() if value is not None},
        seeds=config.budget.seeds,
        updates=config.budget.updates,
        batch_size=config.budget.batch_size,
        demos=config.budget.demos,
        trials=config.budget.trials,
        frontier=frontier(context.task),
        class_optimum={name: results.finite(row) for name, row in table.items()},
        expert=results.finite(context.expert),
        start=results.finite(
            {name: over_seeds(name, values) for name, values in context.at_start.items()}
        ),
        methods=methods,
        notes=[
            *context.task.notes,
            *([optima.note] if optima.available else []),
            *_not_finite(methods),
        ],
    )


def _not_finite(methods: Mapping[str, MethodResult]) -> list[str]:
    """Metrics of imported files that no column shows, as they gave no finite number."""
    finite = {name for m in methods.values() for name in m.metrics}
    infinite = {name for m in methods.values() for name in m.infinite} - finite
    own = [name for name in STATISTICS if name in infinite]
    return [f"{name} has no finite number, of any method on any seed." for name in own]


def _report(
    folder: RunFolder,
    result: RunResult,
    changed: Mapping[str, object],
    cache: Path | None = None,
) -> None:
    history = schema.history(folder.lines(METRICS))
    if lacking := _without_end(result, history):
        print(f"{METRICS} lacks the end of {', '.join(lacking)}: their curves are not whole.")
    samples = folder.lines(SAMPLES)
    drawn = pictures.draw(result, history, folder.path / "figures", samples)
    environment = run_folder.environment()
    folder.list_figures()
    path = folder.path / "report.html"
    report.write(path, result, drawn, samples, environment, changed, cache)


def _without_end(result: RunResult, history: Sequence[schema.HistoryLine]) -> list[str]:
    """Methods whose last evaluation is not among the lines on every seed: some were lost."""
    ends = {(x["method"], x["seed"]) for x in history if x["update"] == result.updates}
    return [
        name
        for name, m in result.methods.items()
        if m.status == "ok" and any((name, seed) not in ends for seed in range(result.seeds))
    ]


def _show(context: RunContext, result: RunResult, ranking: tables.Ranking) -> None:
    console = context.console
    if not context.config.output.quiet:
        _show_ranking(context, result, ranking)
    name = "report.html" if context.config.output.report else "results.json"
    where = context.folder.path / name
    if result.complete:
        console.print(f"{where.stem.capitalize()}: {where}")
    else:
        console.print(f"Interrupted. Report so far: {where}. The same command goes on from here.")


def _show_ranking(context: RunContext, result: RunResult, ranking: tables.Ranking) -> None:
    console = context.console
    console.print(tables.terminal(ranking, console.width))
    for name, m in result.methods.items():
        ends = results.describe_ends(m.gap)
        # what misses a return's optimum is biased, and says so itself
        if ends and m.level != "return":
            console.print(f"{name}: {ends}.")
    for name, said in wording.since_start(result).items():
        console.print(f"{name}: {said}")
    if order := wording.from_covering_to_seeking(result):
        console.print(order)
