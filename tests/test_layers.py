"""Imports point one way."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from fdiv.objectives import kinds

ROOT = Path(__file__).parent.parent
LAYERS = [  # a module imports from earlier lines, or from its own
    {"fdiv.types", "fdiv.parted", "fdiv.few_rows"},
    {
        "fdiv.arrays",
        "fdiv.buckets",
        "fdiv.divergences",
        "fdiv.generators",
        "fdiv.log_space",
        "fdiv.tokens",
        "fdiv.checks",
        "fdiv.head",
        "fdiv.estimators",
        "fdiv.groups",
        "fdiv.kept",
        "fdiv.learner",
        "fdiv.next_token",
        "fdiv.pairwise",
        "fdiv.prefixes",
        "fdiv.ranges",
        "fdiv.state_means",
        "fdiv.statistics",
    },
    {"fdiv.penalties", "fdiv.control", "fdiv.regularised"},
    {"fdiv.exact", "fdiv.rollout", "fdiv.conventions"},
    {
        "fdiv.policies",
        "fdiv.lm",
        "fdiv.discriminator",
        "fdiv.token_discriminator",
        "fdiv.reward_model",
        "fdiv.episodes",
        "fdiv.comparisons",
        "fdiv.surrogates",
    },
    {"fdiv.benchmarks"},
    {"fdiv.objectives", "fdiv.metrics", "fdiv.verified"},
    {"experiments", "configs"},
]
FLOORS = [  # of the scripts: a room, which is a folder or a file, imports from lower floors alone
    {
        "experiments.devices",
        "experiments.escapes",
        "experiments.foreign",
        "experiments.optimiser",
        "experiments.paths",
    },
    {"experiments.config"},
    {"experiments.data", "experiments.fields", "experiments.models", "configs"},
    {"experiments.assemble", "experiments.storage", "experiments.validation", "experiments.cli"},
    {"experiments.evaluation"},
    {"experiments.reporting"},
    {"experiments.gradients", "experiments.running"},
    {
        "experiments.__main__",
        "experiments.bench",
        "experiments.commands",
        "experiments.figures",
        "experiments.sweep",
    },
]
LONGEST = 10  # rooms in a chain of imports, from one of `FLOORS` down to fdiv
KINDS = kinds()
CHECKS = ("at_least", "between", "share", "positive", "one_of")  # of `fdiv.checks`
FILES = sorted(
    p for folder in ("fdiv", "experiments", "configs") for p in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of this project that a file imports, wherever in it the line stands: in a
    function and for a type checker's eyes too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = ("fdiv", "experiments", "configs")
    return frozenset(name for name in found if name.split(".")[0] in ours)


def layer(name: str) -> int:
    """Position of a dotted name; `fdiv` itself exports from all of its modules."""
    if name == "fdiv":
        return layer("fdiv.objectives")
    fits = [
        i
        for i, names in enumerate(LAYERS)
        for known in names
        if name == known or name.startswith(known + ".")
    ]
    assert fits, f"{name} has no layer: give it one in this test"
    return fits[0]


def room(name: str) -> str | None:
    """The folder or file of the scripts that a dotted name lies in; None for the core's."""
    rooms = (known for floor in FLOORS for known in floor)
    return next((known for known in rooms if name == known or name.startswith(known + ".")), None)


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def refused(own: str, name: str) -> bool:
    """Whether a module may not import a name."""
    if layer(name) > layer(own) or (own == "fdiv.learner" and layer(name) > 0):
        return True
    if own.startswith("fdiv.objectives.") and name.startswith("fdiv.objectives"):
        return True  # what methods share has a module of its own
    built_of = ("fdiv.policies", "fdiv.benchmarks")
    return own.startswith("fdiv.objectives") and name.startswith(built_of)


def test_imports_point_one_way():
    found = [(module(path), name) for path in FILES for name in imports(path)]
    assert not [f"{own} imports {name}" for own, name in found if refused(own, name)]


def test_what_may_not_be_imported():
    assert refused("fdiv.head", "fdiv.exact") and not refused("fdiv.exact", "fdiv.head")
    assert refused("fdiv.learner", "fdiv.head")
    assert refused("fdiv.objectives.dpo", "fdiv.objectives.ppo")
    assert refused("fdiv.objectives", "fdiv.policies.tabular")
    assert refused("fdiv.objectives.gail", "fdiv.benchmarks")
    assert refused("fdiv.metrics", "experiments.cli")


def test_a_room_imports_from_lower_floors_alone():
    """Imports inside functions count: they are there to load late, not to look up."""
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    scripts = {module(p): p for p in FILES if layer(module(p)) == len(LAYERS) - 1}
    del scripts["experiments"]  # loads what it names when that is asked for
    assert not [own for own in scripts if not room(own)], "give it a floor"
    found = [(own, name) for own, path in scripts.items() for name in imports(path)]
    upward = [
        f"{own} imports {name}"
        for own, name in found
        if (other := room(name)) not in (None, room(own)) and floor[other] >= floor[room(own)]
    ]
    assert not upward
    commands = "experiments.commands"  # are for people
    assert not [own for own, name in found if room(name) == commands]


def test_a_command_is_imported_by_its_place():
    """Under the name that is typed, `experiments.compare`, Python would load it a second time."""
    typed = {f"experiments.{p.stem}" for p in (ROOT / "experiments/commands").glob("[!_]*.py")}
    assert "experiments.compare" in typed
    found = [(path, name) for path in (*FILES, *TESTS) for name in imports(path)]
    assert not [each for each in found if ".".join(each[1].split(".")[:2]) in typed]


def files_imported() -> dict[str, set[str]]:
    """Module -> the modules that it imports, each import followed to the file that it names."""
    modules = {module(path) for path in FILES}

    def file_of(name: str) -> str:
        while name not in modules:
            name = name.rpartition(".")[0]
        return name

    edges = {module(path): set(map(file_of, imports(path))) for path in FILES}
    return {own: names - {own} for own, names in edges.items()}


def children(edges: dict[str, set[str]], folder: str) -> dict[str, set[str]]:
    """The same between what lies in a folder: each file or folder in it, with all that lies in
    those; a folder's own `__init__` stands for itself."""
    depth = folder.count(".") + 1 if folder else 0
    inside = lambda name: not folder or name == folder or name.startswith(folder + ".")
    child = lambda name: ".".join(name.split(".")[: depth + 1])
    found: dict[str, set[str]] = {}
    for own, names in edges.items():
        if inside(own):
            seen = {child(name) for name in names if inside(name)}
            found.setdefault(child(own), set()).update(seen - {child(own)})
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Names each of which imports the next, and the last the first; none where there is no such
    circle."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(edges[name]):
            if met := visit(other, [*path, name]):
                return met
        done.add(name)
        return []

    return next((met for name in sorted(edges) if (met := visit(name, []))), [])


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    nested = {"x.a": {"y"}, "y": {"x.b"}, "x.b": set()}
    assert circle(nested) == []
    assert circle(children(nested, "")) == ["x", "y"]


def test_imports_hold_no_circle_at_any_depth():
    """Between files, between the folders of the project, and between what lies in each folder."""
    edges = files_imported()
    assert circle(edges) == []
    folders = {name.rpartition(".")[0] for name in edges}
    for folder in sorted(folders):
        assert circle(children(edges, folder)) == [], folder


def test_the_longest_chain_of_imports_is_short():
    edges: dict[str, set[str]] = {}
    for own, names in files_imported().items():
        if own == "experiments":  # what it names is loaded when it is asked for
            continue
        top = room(own) or "fdiv"
        edges.setdefault(top, set()).update({room(name) or "fdiv" for name in names} - {top})

    @functools.cache
    def chain(name: str) -> list[str]:
        return [name, *max(map(chain, sorted(edges[name])), key=len, default=[])]

    longest = max(map(chain, sorted(edges)), key=len)
    print(" > ".join(longest))
    assert len(longest) <= LONGEST


def test_only_transformers_know_flax():
    users = {
        module(p)
        for p in FILES
        if re.search(r"^\s*(import|from) flax", p.read_text(), re.MULTILINE)
    }
    assert users == {"fdiv.policies.transformer", "fdiv.lm.block", "fdiv.lm.model"}
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


def test_the_core_names_no_flag():
    """Its errors and texts name its own fields; the scripts know what flag each is."""
    groups = "benchmark|policy|scorer|penalty|control|devices|" + "|".join(KINDS)
    found = []
    for path in FILES:
        if not module(path).startswith("fdiv"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                flags = re.findall(r"(?<![-\w])--[a-z][\w.-]*", node.value)
                found += [(path, flag) for flag in flags]
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("UsageError", *CHECKS)
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and re.match(rf"({groups})\.", str(node.args[0].value))
            ):
                found.append((path, node.args[0].value))
    assert not found
