"""The drawing library of the report: vega, vega-lite and vega-embed as one script.

The package vl-convert-python brings them along and joins them, which takes a second or two, so the
script is kept in the folder of caches. It is joined in a process of its own: the package carries a
whole JavaScript engine, which has no place in one that trains."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from experiments.devices import cache_folder
from experiments.storage import whole
from fdiv.types import UsageError

PACKAGE = "vl-convert-python"
JOIN = (
    "import sys, vl_convert; "
    "script = vl_convert.javascript_bundle('window.vegaEmbed=vegaEmbed;'); "
    "sys.stdout.buffer.write(script.encode())"
)
PATIENCE = 300.0  # seconds, on a machine that is busy
LEAST = 300_000  # bytes below which it cannot be the library


class Library(NamedTuple):
    """The script, or nothing and the sentence that says why pictures are static."""

    script: str
    lacking: str = ""


def library(cache: Path | None) -> Library:
    """The library from the cache, joined first where it is not there."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return Library("", f"pip install {PACKAGE} makes them interactive.")
    place = _place(cache, version)
    if place is not None and (kept := _kept(place)):
        return Library(kept)
    script = _joined()
    if not script:
        return Library("", f"{PACKAGE} {version} did not give its library.")
    if place is not None:
        _keep(place, script)
    return Library(script)


def _place(cache: Path | None, version: str) -> Path | None:
    try:
        return cache_folder(cache) / "report" / f"vega-{version}.js"
    except UsageError:  # no home: it is joined anew for each report
        return None


def _kept(place: Path) -> str:
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(text) >= LEAST else ""


def _keep(place: Path, script: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(place, script)
    except OSError:
        return  # a cache that cannot be written costs time alone


def _joined() -> str:
    """The script as an expression of its own scope, in which no word ends the page's element."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", JOIN], capture_output=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    text = done.stdout.decode("utf-8", "replace")
    if len(text) < LEAST:
        return ""
    text = text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"(()=>{{{text}\n}})();"
