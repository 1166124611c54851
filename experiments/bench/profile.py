"""Where a method's time goes: `python -m experiments.bench --profile PRESET:METHOD` writes a trace
of its updates and prints the costliest operations; `WORK:SIZE` does so of a language model's work.

The trace is JAX's own profiler's, of which every event of a compiled program names its operation.
An operation's time is its own, without that of those inside it (a loop's body is not the loop's),
added over threads. What it computes is read from the program's text, where the compiler notes which
line of ours each operation comes from."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cli
from experiments.bench.works import SHAPES, WORKS, Precision, Shape, shape_of
from experiments.paths import SMOLLM2
from fdiv.types import UsageError

COSTLIEST = 10
SECONDS = 2.0  # of updates that are traced
OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
SOURCE = re.compile(r'op_name="([^"]*)"')
CALLED = re.compile(r"calls=%?([\w.\-]+)")
COMPUTATION = re.compile(r"^%?([\w.\-]+) \(.*\{\s*$")
FRAME = re.compile(r"stack_frame_id=(\d+)")
TABLE = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')  # a line of the tables above a program
NUMBERS = re.compile(r"(\w+)=(\d+)")
OURS = re.compile(r"(?:^|/)((?:fdiv|experiments|configs)/[\w/]+\.py)$")
WORD = re.compile(r"[A-Za-z_][\w.]*")
# what says nothing of an operation: transformations, and the loop of updates
WRAPPING = {"jit", "jvp", "transpose", "vmap", "pmap", "while", "body", "closed_call", "main"}
WRAPPING |= {"checkpoint", "remat", "advance", "cond", "shard_map"}
COSTLY = ("dot", "convolution", "custom-call", "reduce", "exponential", "tanh", "log", "rng")


class Event(NamedTuple):
    """An operation that ran once, in nanoseconds."""

    name: str
    start: float
    duration: float


class Operation(NamedTuple):
    """All runs of one operation."""

    name: str
    count: int
    seconds: float
    share: float  # of all operations' time
    what: str  # of the program it comes from


def main(
    of: str,
    out: Path,
    model: Path | None = None,
    top: int = COSTLIEST,
    precision: Precision = "float32",
    over: int = 0,
) -> int:
    """Trace a method of a preset, or a work at a size, and print its table; the trace goes into
    `out`. `model` is the folder of the pretrained model, `precision` that of a work's products,
    `over` how many devices a work's rows are parted over (0: as where nobody says). Raises
    `UsageError` for either beside a preset's method, whose own flags say both."""
    first, second = parsed(of)
    if first in WORKS:
        shape = shape_of(first, second, precision, over)
        run, program = _work(first, shape, model or Path(SMOLLM2))
    else:
        _refuse_for_methods(of, precision=precision, devices=over)
        run, program = _method(first, second)
    count = _updates(run)
    events = traced(lambda: run(count), out)
    operations = costliest(events, described(program()))
    print(f"{'share':>6} {'ms/update':>10} {'runs':>7}  {'operation':<28} what")
    for x in operations[:top]:
        each = 1e3 * x.seconds / count
        print(f"{x.share:>6.1%} {each:>10.3f} {x.count:>7,}  {x.name:<28} {x.what}")
    print(f"\n{'share':>6} {'ms/update':>10} {'runs':>7}  all operations of a line of ours")
    for x in lines(operations)[:top]:
        print(f"{x.share:>6.1%} {1e3 * x.seconds / count:>10.3f} {x.count:>7,}  {x.name}")
    total = sum(x.seconds for x in operations)
    shown = sum(x.share for x in operations[:top])
    text = (
        f"{first}, {second}: {count:,} updates, {1e3 * total / count:.3f} ms of operations an "
        f"update on all threads, {shown:.0%} of it above. The trace is in {out}."
    )
    print(cli.filled(text))
    return 0


def show_operations() -> None:
    """Called before any device is used: a GPU's programs run operation by operation. It else takes
    many of them in one command buffer, and that is all a trace then names."""
    plugins = [x.name for x in metadata.entry_points(group="jax_plugins")]
    own = "--xla_gpu_enable_command_buffer="
    flags = os.environ.get("XLA_FLAGS", "")
    if own not in flags and any(name.startswith(("xla_cuda", "xla_rocm")) for name in plugins):
        os.environ["XLA_FLAGS"] = f"{flags} {own}".strip()


def _work(work: str, shape: Shape, model: Path) -> tuple[Callable[[int], Any], Callable[[], str]]:
    """Updates of a language model's work, and the text of their program."""
    if shape.pretrained and not model.exists():
        problem = "is not there."
        raise UsageError("model", str(model), problem, "`make smollm2` brings it.")
    ours = WORKS[work].build(shape, model)
    return ours.step, ours.text


def _refuse_for_methods(of: str, precision: Precision, devices: int) -> None:
    given = {"precision": precision, "devices": devices}
    plain = {"precision": "float32", "devices": 0}
    for field in (name for name in given if given[name] != plain[name]):
        problem = f"is a work's; {of} is a method as its preset has it."
        raise UsageError(
            field, given[field], problem, f"Drop it, or profile one of {', '.join(WORKS)}."
        )


def _method(preset: str, method: str) -> tuple[Callable[[int], None], Callable[[], str]]:
    """Updates of a preset's method, and the text of their program."""
    import jax.numpy as jnp

    training = _training(preset, method)
    compiled = training.compiled
    state = {"now": training.train_state}

    def run(count: int) -> None:
        state["now"] = compiled.advance(state["now"], jnp.int32(count), jnp.bool_(True))
        state["now"].log.tokens.block_until_ready()

    return run, getattr(compiled.advance, "as_text", str)


def parsed(of: str) -> tuple[str, str]:
    """PRESET:METHOD or WORK:SIZE. Raises `UsageError` for what is not there."""
    first, colon, second = of.partition(":")
    if first in WORKS and second in SHAPES:
        return first, second
    if first not in cli.presets() or not colon or not second:
        presets, listed, sizes = map(", ".join, (cli.presets(), WORKS, SHAPES))
        fix = f"Presets: {presets}. Works: {listed}, of {sizes}."
        raise UsageError("profile", of, "is no PRESET:METHOD and no WORK:SIZE.", fix)
    return first, second


def _training(preset: str, method: str):
    from experiments.config import replace, resolve
    from experiments.devices import lay_out
    from experiments.running import pace

    default = cli.presets()[preset][1]
    config = replace(default, methods=(method,))
    setup = pace.set_up(config, lay_out(config.budget.seeds, config.devices), default)
    return pace.training_of(setup, next(iter(resolve(config).values())))


def _updates(run: Callable[[int], None]) -> int:
    """How many take about so many seconds, at most 200: a trace of more is slow to read."""
    import time

    run(1)
    began = time.perf_counter()
    run(2)
    pace = (time.perf_counter() - began) / 2
    return max(1, min(200, round(SECONDS / pace)))


def traced(run: Callable[[], None], folder: Path) -> list[list[Event]]:
    """The operations that run while `run` does, those of each thread in one list. Raises
    `UsageError` where the profiler writes none."""
    import jax
    from jax.profiler import ProfileData

    before = set(folder.rglob("*.xplane.pb"))
    jax.profiler.start_trace(str(folder))
    try:
        run()
    finally:
        jax.profiler.stop_trace()
    events = [
        list(_operations(line.events))
        for file in set(folder.rglob("*.xplane.pb")) - before
        for plane in ProfileData.from_file(str(file)).planes
        for line in plane.lines
    ]
    if not any(events):
        raise UsageError("profile", str(folder), "holds no operation.", "Use another JAX.")
    return [own for own in events if own]


def _operations(events: Iterable) -> Iterable[Event]:
    """Those of a thread that are a program's operations."""
    for event in events:
        name = dict(event.stats).get("hlo_op")
        if name is not None and event.duration_ns:
            yield Event(str(name), event.start_ns, event.duration_ns)


def own_times(events: Sequence[Event]) -> dict[str, tuple[int, float]]:
    """name -> (runs, nanoseconds without what ran inside) of one thread's events."""
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    open_events: list[Event] = []
    for event in sorted(events, key=lambda e: (e.start, -e.duration)):
        while open_events and open_events[-1].start + open_events[-1].duration <= event.start:
            open_events.pop()
        if open_events:  # its time is not that of what it lies in
            outer = open_events[-1].name
            found[outer] = (found[outer][0], found[outer][1] - event.duration)
        count, taken = found[event.name]
        found[event.name] = (count + 1, taken + event.duration)
        open_events.append(event)
    return dict(found)


def costliest(threads: Sequence[Sequence[Event]], what: dict[str, str]) -> list[Operation]:
    """All operations, the costliest first; `what` says where each comes from."""
    total: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for events in threads:
        for name, (count, taken) in own_times(events).items():
            total[name] = (total[name][0] + count, total[name][1] + max(taken, 0.0))
    whole = sum(taken for _, taken in total.values()) or 1.0
    operations = [
        Operation(name, count, taken / 1e9, taken / whole, what.get(name, ""))
        for name, (count, taken) in total.items()
    ]
    return sorted(operations, key=lambda x: -x.seconds)


def lines(operations: Sequence[Operation]) -> list[Operation]:
    """Operations of one line of ours together, the way back apart, the costliest first: of layers
    that are written out one by one each has operations of its own."""
    total: dict[str, Operation] = {}
    for x in operations:
        words = x.what.split()
        place = words[-1] if words and ".py:" in words[-1] else "elsewhere"
        name = f"{place} backward" if "backward" in words else place
        old = total.get(name, Operation(name, 0, 0.0, 0.0, ""))
        total[name] = Operation(
            name, old.count + x.count, old.seconds + x.seconds, old.share + x.share, ""
        )
    return sorted(total.values(), key=lambda x: -x.seconds)


def described(text: str) -> dict[str, str]:
    """Operation -> shape, name and the line of ours that it comes from, by a compiled program's
    text; of a fusion, those of the costliest operation in it."""
    inside: dict[str, list[str]] = defaultdict(list)  # computation -> its lines
    own: dict[str, str] = {}
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match[1]
        elif match := OPERATION.match(line):
            own[match[1]] = match[2]
            inside[computation].append(match[2])
    places = _places(text)
    return {name: _said(rest, inside, places) for name, rest in own.items()}


def _said(rest: str, inside: dict[str, list[str]], places: dict[str, str]) -> str:
    """`f32[32,128] mlp/dot_general fdiv/lm/block.py:133` of one operation."""
    shape = "" if rest.startswith("(") else rest.partition("{")[0].partition(" ")[0]
    lines = [rest]
    if match := CALLED.search(rest):
        body = inside.get(match[1], [])
        costly = [line for line in body if any(f" {kind}(" in line for kind in COSTLY)]
        lines = [*costly, rest, *body[::-1]]
    line = next((line for line in lines if SOURCE.search(line)), "")
    source = match[1] if (match := SOURCE.search(line)) else ""
    parts = [words[-1] for part in source.split("/") if (words := _words(part))]
    back = "backward" if "transpose(" in source else ""
    place = places.get(match[1], "") if (match := FRAME.search(line)) else ""
    return " ".join(filter(None, [shape, "/".join(parts[-2:]), back, place]))


def _words(part: str) -> list[str]:
    return [word for word in WORD.findall(part) if word not in WRAPPING]


def _places(text: str) -> dict[str, str]:
    """Stack frame -> the innermost line of ours on it, `fdiv/head.py:120`, by the tables above the
    program; nothing where the compiler writes none."""
    tables: dict[str, dict[str, Any]] = defaultdict(dict)
    name = ""
    for line in text.partition("\n%")[0].splitlines():
        if match := TABLE.match(line):
            fields = match[2] if match[2] is not None else dict(NUMBERS.findall(match[3]))
            tables[name][match[1]] = fields
        else:
            name = line.strip()
    frames, locations = tables["StackFrames"], tables["FileLocations"]
    found = {}
    for frame in frames:
        seen: set[str] = set()
        place, here = "", frame
        while not place and here in frames and here not in seen:
            seen.add(here)
            location = locations.get(frames[here].get("file_location_id"), {})
            file = OURS.search(str(tables["FileNames"].get(location.get("file_name_id"), "")))
            place = f"{file[1]}:{location['line']}" if file else ""
            here = frames[here].get("parent_frame_id", "")
        found[frame] = place
    return found
