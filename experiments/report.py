"""`report.html`: one page that holds all of itself, pictures included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from experiments import style, tables
from experiments.results import describe_ends


def write(
    path: Path,
    results: Mapping[str, Any],
    pictures: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> None:
    """Fill the template."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "report.html.j2"
    )
    methods = results["methods"]
    trouble = [
        (
            name,
            m["status"],
            [*([m["reason"]] if m["reason"] else []), *m["alarms"], *([ends] if (ends := describe_ends(m["gap"])) else [])],
        )
        for name, m in methods.items()
    ]
    page = template.render(
        r=results,
        title=_title(results),
        ranking=tables.ranking(results),
        pictures=pictures,
        samples=_side_by_side(samples, list(methods)),
        trouble=[row for row in trouble if row[1] != "ok" or row[2]],
        environment=environment,
        changed=changed,
        colour={name: style.colour(m["minimises"]) for name, m in methods.items()},
        number=tables.number,
        interval=tables.interval,
    )
    path.write_text(page)


def _title(results: Mapping[str, Any]) -> str:
    fields = {k: v for k, v in results["benchmark"].items() if k != "name" and v is not None}
    what = ", ".join(f"{k} {v}" for k, v in fields.items() if not k.startswith("teacher"))
    return f"{results['benchmark']['name']} ({what}), {results['policy']['name']} policy"


def _side_by_side(samples: Sequence[Mapping[str, Any]], methods: list[str], most: int = 6) -> list[dict[str, Any]]:
    """Samples of seed 0 grouped by prompt: [{prompt, answers: [(method, text)]}]."""
    rows = []
    for index in range(most):
        here = {s["method"]: s for s in samples if s["seed"] == 0 and s["index"] == index}
        if here:
            order = [name for name in ("expert", "start", *methods) if name in here]
            rows.append({"prompt": here[order[0]]["prompt"], "answers": [(name, here[name]["completion"]) for name in order]})
    return rows
