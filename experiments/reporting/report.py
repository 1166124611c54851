"""`report.html`: one page that holds all of itself, pictures included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from experiments.reporting import style, tables
from experiments.reporting.results import describe_ends


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
    jinja = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = jinja.get_template("report.html.j2")
    methods = results["methods"]
    trouble = [(name, m["status"], _trouble(m)) for name, m in methods.items()]
    page = template.render(
        r=results,
        title=_title(results),
        ranking=tables.ranking(results),
        checked="greedy_accuracy" in results["start"],
        pictures=pictures,
        samples=_side_by_side(samples, list(methods)),
        trouble=[row for row in trouble if row[1] != "ok" or row[2]],
        environment=environment,
        changed=changed,
        colour={name: style.method_colour(m) for name, m in methods.items()},
        number=tables.number,
        interval=tables.interval,
    )
    path.write_text(page)


def _trouble(m: Mapping[str, Any]) -> list[str]:
    """Why a method is worth a second look, in sentences."""
    ends = "" if m["level"] == "return" else describe_ends(m["gap"])
    found = [m["reason"], *m["alarms"], f"{ends[0].upper()}{ends[1:]}." if ends else ""]
    if m["published"] and any(found):
        found.insert(0, m["target"])
    return [sentence for sentence in found if sentence]


def _title(results: Mapping[str, Any]) -> str:
    fields = {k: v for k, v in results["benchmark"].items() if k != "name" and v is not None}
    what = ", ".join(f"{k} {v}" for k, v in fields.items() if not k.startswith("teacher"))
    return f"{results['benchmark']['name']} ({what}), {results['policy']['name']} policy"


def _side_by_side(
    samples: Sequence[Mapping[str, Any]], methods: list[str], most: int = 8
) -> dict[str, Any]:
    """Samples of seed 0: {names, prompts: [{prompt, texts by name}]}, whoever has any."""
    own = {(s["method"], s["index"]): s for s in samples if s["seed"] == 0}
    names = [name for name in ("data", "expert", "start", *methods) if (name, 0) in own]
    rows = []
    for index in range(most):
        here = {name: own[name, index] for name in names if (name, index) in own}
        if here:
            prompt = next(iter(here.values()))["prompt"]
            rows.append(
                {"prompt": prompt, "texts": [(name, here[name]["completion"]) for name in here]}
            )
    return {"names": names, "rows": rows, "prompted": any(row["prompt"] for row in rows)}
