"""What a run leaves once its methods are trained: results, pictures, tables and the report.

Loading what draws takes longer than a small run's first updates, so `head_to_head` imports this
file when it comes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import config as configs
from experiments.reporting import frontier, pictures, report, results, tables
from experiments.storage.run_folder import write_json


def finish(context: Any, complete: bool, changed: Mapping[str, Any]) -> None:
    """Write everything of a `Bench` from what is kept in its folder, and show the table."""
    config, folder, task = context.config, context.folder, context.task
    names = list(configs.resolve(config))
    methods = {name: kept for name in names if (kept := folder.method(name))}
    if not methods:
        print(
            "No method has finished. The same command goes on from here; what is done is in "
            f"{folder.path}."
        )
        return
    extra = [m["minimises"] for m in methods.values()]
    table = context.class_optima.table(extra) if context.class_optima.available else {}
    start = context.evaluator.measure(context.layout.put(context.start))
    notes = [*task.notes, *([context.class_optima.note] if context.class_optima.available else [])]
    whole = results.assemble(
        configs.as_dict(config),
        methods,
        table,
        context.expert,
        start,
        complete,
        notes,
        frontier.points(task),
    )
    reference, metric = ("sft" if "sft" in methods else names[0]), tables.rank_by(whole)
    for name, against in results.compare_with(
        methods, reference, metric, tables.better(metric)
    ).items():
        methods[name]["against"] = against
    whole["methods"] = methods
    sweep = methods.get("sft", {}).get("temperatures", [])

    results.write_parquet(folder.path / "results.parquet", whole)
    ranking = tables.ranking(whole)
    for suffix, form in (
        ("md", tables.markdown),
        ("csv", tables.comma_separated),
        ("tex", tables.tex),
    ):
        (folder.path / f"table.{suffix}").write_text(form(ranking))
    if config.output.report:
        drawn = pictures.every(whole, folder.lines("metrics.jsonl"), sweep, folder.path / "figures")
        environment = json.loads((folder.path / "environment.json").read_text())
        report.write(
            folder.path / "report.html",
            whole,
            drawn,
            folder.lines("samples.jsonl"),
            environment,
            changed,
        )
    write_json(folder.path / "results.json", whole)  # last: it marks the run as finished
    _show(context, whole, ranking, complete)


def _show(context: Any, whole: Mapping[str, Any], ranking: tables.Ranking, complete: bool) -> None:
    console = context.screen.console
    console.print(tables.terminal(ranking, console.width))
    for name, m in whole["methods"].items():
        ends = results.describe_ends(m["gap"])
        if (
            ends and m["level"] != "return"
        ):  # what misses a return's optimum is biased, and says so itself
            console.print(f"{name}: {ends}.", markup=False)
    where = Path(context.folder.path) / (
        "report.html" if context.config.output.report else "results.json"
    )
    if complete:
        console.print(f"{where.stem.capitalize()}: {where}", markup=False)
    else:
        console.print(
            f"Interrupted. Report so far: {where}. The same command goes on from here.",
            markup=False,
        )
