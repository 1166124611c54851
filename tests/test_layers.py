"""Imports point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fdiv.objectives import kinds

ROOT = Path(__file__).parent.parent
LAYERS = [  # a module imports from earlier lines, or from its own
    {"fdiv.types"},
    {
        "fdiv.divergences",
        "fdiv.tokens",
        "fdiv.checks",
        "fdiv.estimators",
        "fdiv.learner",
        "fdiv.statistics",
    },
    {"fdiv.penalties", "fdiv.control", "fdiv.regularised"},
    {"fdiv.exact", "fdiv.rollout", "fdiv.conventions"},
    {
        "fdiv.policies",
        "fdiv.discriminator",
        "fdiv.token_discriminator",
        "fdiv.reward_model",
        "fdiv.episodes",
        "fdiv.comparisons",
        "fdiv.surrogates",
    },
    {"fdiv.benchmarks"},
    {"fdiv.objectives", "fdiv.metrics", "fdiv.verified"},
    {"experiments"},
    {"configs"},
]
KINDS = kinds()
CHECKS = ("at_least", "between", "share", "positive", "one_of")  # of `fdiv.checks`
FILES = sorted(
    p for folder in ("fdiv", "experiments", "configs") for p in (ROOT / folder).rglob("*.py")
)


def imports(path: Path) -> set[str]:
    """Dotted names of this project that a file imports, wherever in it the line stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("fdiv", "experiments", "configs")}


def layer(name: str) -> int:
    """Position of a dotted name; `fdiv` alone is the lowest."""
    fits = [
        i
        for i, names in enumerate(LAYERS)
        for known in names
        if name == known or name.startswith(known + ".")
    ]
    assert fits or name == "fdiv", f"{name} has no layer: give it one in this test"
    return fits[0] if fits else 0


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = module(path)
    for name in imports(path):
        assert layer(name) <= layer(own), f"{own} imports {name}"
        if own == "fdiv.learner":
            assert name.startswith("fdiv.types")
        if own.startswith("fdiv.objectives"):
            assert not name.startswith(("fdiv.policies", "fdiv.benchmarks"))
        if own.startswith("fdiv.objectives."):  # what methods share has a module of its own
            assert not name.startswith("fdiv.objectives"), f"{own} imports {name}"


def test_only_the_transformer_knows_flax():
    users = {
        module(p)
        for p in FILES
        if "flax" in p.read_text().split("import ", 1)[-1] and "import flax" in p.read_text()
    }
    assert users == {"fdiv.policies.transformer"}
    assert not any("flax.nnx" in p.read_text() for p in FILES)


def test_the_core_touches_no_world():
    """No flags, files, clocks or prints below the scripts."""
    for path in FILES:
        if module(path).startswith("fdiv"):
            words = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not words & {"print", "open", "input"}, path
            assert not {"os", "sys", "time", "tyro", "argparse"} & {
                n.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for n in node.names
            }, path


@pytest.mark.parametrize("path", [p for p in FILES if module(p).startswith("fdiv")], ids=str)
def test_the_core_names_no_flag(path):
    """Its errors and texts name its own fields; the scripts know what flag each is."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    flags = [found for text in strings for found in re.findall(r"(?<![-\w])--[a-z][\w.-]*", text)]
    groups = "benchmark|policy|scorer|penalty|control|devices|" + "|".join(KINDS)
    errors = [
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("UsageError", *CHECKS)
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    assert not flags, flags
    assert not [name for name in errors if re.match(rf"({groups})\.", name)]
