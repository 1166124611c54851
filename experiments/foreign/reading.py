"""A configuration as people have it: NAME=VALUE words, a YAML or JSON file, or a Python file with a
dict or a call of the configuration's class. Nothing of a file is executed."""

from __future__ import annotations

import ast
import difflib
import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.foreign.meaning import Foreign, Options, Value
from experiments.foreign.others import OTHERS
from experiments.foreign.trl import TRL
from fdiv.types import UsageError

FOREIGN: dict[str, Foreign] = {f"trl:{name}": entry for name, entry in TRL.items()} | OTHERS
SUFFIXES = (".yaml", ".yml", ".json", ".py")
LARGEST = 1 << 20  # bytes of a file


class Asked(NamedTuple):
    """A configuration that was named, and its options as they were given."""

    name: str
    typed: Options  # on the command line, where one that is unknown is a mistake
    read: Options  # in a file, which holds much else


def is_foreign(word: str) -> bool:
    """Whether a word names another code's configuration, or a file of one."""
    sources = {name.partition(":")[0] for name in FOREIGN}
    return word.partition(":")[0].lower() in sources or word.lower().endswith(SUFFIXES)


def asked(words: list[str]) -> list[Asked]:
    """`trl:DistillationConfig beta=1.0 train.yaml` and the like, several one after another."""
    found: list[Asked] = []
    for word in words:
        if word.lower().endswith(SUFFIXES) and "=" not in word:
            name, options = read(Path(word), found[-1].name if found else None)
            if name and (not found or found[-1].read or name != found[-1].name):
                found.append(Asked(name, {}, options))
            else:
                found[-1] = found[-1]._replace(read=options)
        elif "=" in word:
            if not found:
                fix = "Write, for instance, trl:DistillationConfig beta=1.0."
                raise UsageError("names", word, "is an option of nothing.", fix)
            key, _, text = word.partition("=")
            found[-1] = found[-1]._replace(typed={**found[-1].typed, key.strip(): literal(text)})
        else:
            found.append(Asked(named(word), {}, {}))
    return found


def named(word: str) -> str:
    """The entry of a name in any case, or `UsageError` with the nearest."""
    known = {name.lower(): name for name in FOREIGN}
    if word.lower() in known:
        return known[word.lower()]
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.4) or list(known)
    fix = f"The nearest: {', '.join(known[x] for x in near)}."
    raise UsageError("names", word, "there is no configuration of that name here.", fix)


def literal(text: str) -> Value:
    """A word as YAML and Python read it: a number, a truth value, nothing, or itself."""
    plain = {"true": True, "false": False, "none": None, "null": None, "": None}
    if text.strip().lower() in plain:
        return plain[text.strip().lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip().strip("'\"")


def read(path: Path, name: str | None) -> tuple[str | None, Options]:
    """(which configuration it is, where the file says it, else `name`; its options)."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError("names", str(path), "is too large.", "Give a configuration.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        fix = "Give a YAML, JSON or Python file."
        raise UsageError("names", str(path), "cannot be read.", fix) from error
    suffix = path.suffix.lower()
    try:
        if suffix == ".py":
            name, content = _of_python(ast.parse(text), name)
        elif suffix == ".json":
            content = json.loads(text)
        else:
            import yaml

            content = yaml.safe_load(text)
    except (ValueError, SyntaxError, RecursionError) as error:
        raise UsageError("names", str(path), "is not what its suffix says.", "Mend it.") from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise UsageError("names", str(path), "is no YAML.", "Mend it.") from error
        raise
    if not isinstance(content, dict):
        raise UsageError("names", str(path), "holds no options.", "Give names with values.")
    if name is None:
        fix = f"Name it first: trl:DistillationConfig {path}."
        raise UsageError("names", str(path), "does not say which configuration it is.", fix)
    return name, _flat(content, set(FOREIGN[name].options) | set(FOREIGN[name].others))


def _flat(content: dict[Any, Any], known: set[str]) -> dict[str, Value]:
    """Options of nested groups by their last names, an option that is known before others."""
    flat: dict[str, Value] = {}
    for key, value in content.items():
        if isinstance(value, dict) and str(key) not in known:
            flat |= {k: v for k, v in _flat(value, known).items() if k not in content}
        elif isinstance(value, list) and len(value) == 1:
            flat[str(key)] = value[0]
        else:
            flat[str(key)] = literal(value) if isinstance(value, str) else value
    return flat


def _of_python(tree: ast.Module, name: str | None) -> tuple[str | None, dict[str, Value]]:
    """Of the first call of a known class, or else of the first dict of plain values."""
    classes = {entry.partition(":")[2]: entry for entry in FOREIGN}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if isinstance(called, str) and called in classes and name in (None, classes[called]):
                plain = {x.arg: _plain(x.value) for x in node.keywords if x.arg is not None}
                return classes[called], plain
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and node.keys:
            pairs = zip(node.keys, node.values)
            keys = {k.value: v for k, v in pairs if isinstance(k, ast.Constant)}
            return name, {str(k): _plain(v) for k, v in keys.items()}
    return name, {}


def _plain(node: ast.expr) -> Any:
    """A literal; of anything else its text, which no option that matters takes."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
