"""How fast is the work, beside other codes and beside what the machine can do? `python -m
experiments.bench [flags]`

For each work ours and the named peer take turns in one run, and both are held against the least
time in which this machine could do it, at the pace of matrix products and memory measured between
the repeats. Results go to --out as JSON, and into the page, whose other text stays. Peers are run
by Pythons of their own, which `make bench-peers` makes; one that is not there leaves our side and
the bound. `--profile PRESET:METHOD` prints instead where a method's time goes, `--profile
WORK:SIZE` where a work's does."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from experiments import cli, escapes, paths
from experiments.bench import measure, page, works
from experiments.bench.peer import FOLDER, Peer, PeerFailed
from experiments.bench.rows import Row, Side, from_dict, replaced
from experiments.bench.works import SHAPES, WORKS, Precision, Size
from experiments.devices import cores
from experiments.paths import SMOLLM2
from experiments.storage import whole
from fdiv.ranges import check_ranges, ranged
from fdiv.types import UsageError

Name = Literal["sft", "sampling", "distill", "grpo", "dpo", "gail", "head", "start", "head_to_head"]
OTHERS = {
    "gail": "GAIL on the two-template language, one seed",
    "head": "Exact JS of two heads with its gradients, 256 tokens of width 576",
    "start": "From launch to the first update",
    "head_to_head": "`compare two-template`, seven methods on five seeds",
}
ORDER: tuple[Name, ...] = (  # of the page
    "sft", "sampling", "distill", "grpo", "dpo", "head", "gail", "head_to_head", "start",
)  # fmt: skip
LARGE = ("sft", "sampling")  # the works of a pretrained model
ALONE = ("head", "head_to_head", "start")  # those that have no peer
ENVIRONMENTS = {"trl": Path(".venv-peers"), "imitation": Path(".venv-imitation")}
LACKING = "its Python is not there: `make bench-peers` makes {}"


@dataclasses.dataclass(frozen=True)
class Options:
    """How fast the work is, beside other codes and the machine's bound."""

    works: tuple[Name, ...] = ORDER
    """Which."""
    sizes: tuple[Size, ...] = ("w64", "w256", "smollm2")
    """Of the language model works: width 64 with 2 layers, width 256 with 4, SmolLM2-135M with
    adapters (sft and sampling alone); m144, of that model's width, depth and vocabulary with all
    weights trained, is for accelerators."""
    precision: Precision = "float32"
    """Of the products of the language model works, on both sides and in the bound."""
    repeats: int = ranged(5, least=1)
    """How often each side takes its turn."""
    seconds: float = ranged(1.0, above=0)
    """Of a repeat, about; an update that takes longer is one repeat."""
    sides: Literal["both", "ours", "peer"] = "both"
    """Both by turns, ours alone, or the peer alone, which joins ours of an earlier run into the
    same --out: for devices whose memory does not hold both."""
    peers: Path | None = None
    """The Python with TRL, transformers and peft (that of .venv-peers)."""
    imitation: Path | None = None
    """The Python with imitation (that of .venv-imitation)."""
    devices: int = ranged(0, least=0)
    """Devices that rows of ours are parted over in the language model works, as by a run's
    --devices.data; 0 is one, and on a CPU one for each core in sampling and GRPO, except of a
    pretrained model, whose weights each would read at every step."""
    model: Path = Path(SMOLLM2)
    """The folder of SmolLM2-135M."""
    out: Path = Path("runs/bench")
    """The folder of results, chart, traces and the peers' output; what earlier runs into it have
    measured of other works and sizes stays."""
    page: Path = Path("BENCHMARKS.md")
    """The page whose blocks are written; begun where there is none."""
    cache: Path | None = None
    """The folder of compiled programs (that of the other commands)."""
    profile: str | None = None
    """PRESET:METHOD or WORK:SIZE, for instance two-template:gail or grpo:w64: print its costliest
    operations instead."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 1 where a work failed, `USAGE_EXIT` where flags are refused."""
    return cli.script("python -m experiments.bench", Options, __doc__, _act, argv)


def _act(options: Options) -> int:
    check_ranges(options)
    if options.sides != "both" and (alone := [x for x in options.works if x in ALONE]):
        fix = f"Give the others with --works, such as {', '.join(WORKS)}."
        raise UsageError("sides", options.sides, f"{', '.join(alone)} has no peer.", fix)
    from experiments import devices
    from experiments.bench import profile

    if options.profile is not None:
        profile.show_operations()
    at_most = options.devices or cores.usable()
    devices.cores_as_devices(devices.Devices(data=at_most))
    devices.use_compile_cache(options.cache)
    devices.refuse_missing("devices", options.devices)
    paths.try_folder("out", options.out)
    paths.refuse_blocked("page", options.page.parent)
    if options.profile is not None:
        folder = options.out / "profile"
        given = {"precision": options.precision, "over": options.devices}
        return profile.main(options.profile, folder, options.model, **given)
    rows, failed = _kept(options.out / "bench.json"), False
    for work, size in _jobs(options):
        for row in _measured(options, work, size):
            rows, failed = replaced(rows, row), failed or bool(row.error)
            print(_line(row), flush=True)
        _write(options, rows)
        _forget()
    return int(failed)


def _kept(path: Path) -> list[Row]:
    """What earlier runs into the same folder have measured: each row says when. Raises `UsageError`
    for a file that holds no such thing."""
    if not path.exists():
        return []
    try:
        return [from_dict(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        problem = "holds a bench.json that no run of today's version has written."
        raise UsageError("out", str(path.parent), problem, "Give another folder.") from error


def _jobs(options: Options) -> list[tuple[str, str]]:
    """(work, size) in the order in which they are measured: a real model's at the end."""
    from experiments.bench.small_works import VOCABULARIES

    small: list[tuple[str, str]] = []
    for work in options.works:
        if work == "head":
            small += [("head", size) for size in VOCABULARIES]
        elif work in OTHERS:
            small.append((work, "two_template"))
    models = [
        (work, size)
        for size in SHAPES
        if size in options.sizes
        for work in options.works
        if work in WORKS and (not SHAPES[size].pretrained or work in LARGE)
    ]
    large = [job for job in models if job[1] == "smollm2"]
    return [*(job for job in models if job not in large), *small, *large]


def _measured(options: Options, work: str, size: str) -> list[Row]:
    """The rows of a work; one that fails has the reason in the place of numbers."""
    row = _row(work, size)
    try:
        return _measure(options, row)
    except UsageError:
        raise
    except Exception as error:  # whatever a work fails with, the others are measured
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return [dataclasses.replace(row, error=f"{type(error).__name__}: {reason[:300]}")]


def _row(work: str, size: str) -> Row:
    """Before it is measured."""
    from experiments.bench import machine

    language = work in WORKS
    return Row(
        work,
        size,
        title=WORKS[work].title if language else OTHERS[work],
        size_title=SHAPES[size].title if language else _size_title(size),
        when=time.strftime("%d %B %Y").lstrip("0"),
        command=shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]]),
        machine=machine.description(),
        load=machine.load(),
    )


def _size_title(size: str) -> str:
    return f"V = {int(size[1:]):,}" if size[1:].isdecimal() else size.replace("_", " ")


def _measure(options: Options, row: Row) -> list[Row]:
    from experiments.bench import machine, small_works

    if row.work == "head_to_head":
        return small_works.head_to_head(row)
    if row.work == "start":
        return small_works.start(row)
    if row.work == "head":
        return [small_works.head(row, machine.Gauge(), options.repeats)]
    return [_gail(options, row) if row.work == "gail" else _language(options, row)]


def _language(options: Options, row: Row) -> Row:
    """A language model's work at a size."""
    shape = works.shape_of(row.work, row.size, options.precision, options.devices)
    if shape.pretrained and not options.model.exists():
        raise FileNotFoundError(f"{options.model} is not there: make smollm2 brings it")

    def build() -> works.Ours:
        ours = WORKS[row.work].build(shape, options.model)
        return ours._replace(settings={**ours.settings, "precision": shape.precision})

    asked = works.asked(row.work, shape, options.model.resolve())
    peer = lambda: _peer(options, "trl", asked, f"{row.work}-{row.size}")
    if options.precision != "float32":  # a row of its own, of which nothing is wanted
        row = dataclasses.replace(
            row,
            size=f"{row.size}-{options.precision}",
            size_title=f"{row.size_title}, {options.precision}",
        )
    return _beside(options, row, build, "TRL" if "trl" in asked else _name(row, shape), peer)


def _name(row: Row, shape: works.Shape) -> str:
    """Of the peer."""
    if shape.pretrained:
        return "transformers + peft"
    return "transformers" if row.work == "sampling" else "TRL"


def _gail(options: Options, row: Row) -> Row:
    """GAIL beside imitation's."""
    from experiments.bench import small_works
    from experiments.models.counts import Counted

    step, settings, after = small_works.gail()
    build = lambda: works.Ours(step, Counted(()), settings)
    asked = {"work": "gail", **small_works.TASK}
    peer = lambda: _peer(options, "imitation", asked, "gail")
    row = _beside(options, row, build, "imitation", peer)
    return dataclasses.replace(row, numbers={**row.numbers, **after()})


def _peer(options: Options, kind: str, asked: dict, name: str) -> Peer:
    """A peer that is ready. Raises `PeerFailed`."""
    given = {"trl": options.peers, "imitation": options.imitation}[kind]
    python = given or ENVIRONMENTS[kind] / "bin" / "python"
    if not python.exists():
        raise PeerFailed(LACKING.format(python))
    return Peer(python, FOLDER / f"{kind}_peer.py", asked, options.out / f"peer-{name}.log")


def _beside(
    options: Options,
    row: Row,
    build: Callable[[], works.Ours],
    name: str,
    begin: Callable[[], Peer],
) -> Row:
    """Ours and a peer in turn; ours alone where the peer cannot be had."""
    from experiments.bench import machine

    if options.sides == "peer":
        return _joined(options, row, name, begin)
    gauge = machine.Gauge(precision=options.precision)
    began = time.perf_counter()
    ours = build()
    ours.step(1)
    _say(f"{row.work} {row.size}: ours is compiled and warm", began)
    began = time.perf_counter()
    try:
        peer, missing = (begin(), "") if options.sides == "both" else (None, "not asked for")
    except PeerFailed as error:
        peer, missing = None, str(error)
    if peer:
        _say(f"{row.work} {row.size}: {name} is ready", began)
    repeats: list[measure.Side] = [measure.timed(ours.step)]
    if peer:
        repeats.append(peer.repeat)
    try:
        sides, pace = measure.in_turn(repeats, gauge, options.repeats, options.seconds)
    finally:
        if peer:
            peer.close()
    own = Side("fdiv", *sides[0], ours.settings)
    other = Side(name, *sides[1], peer.settings, peer.versions) if peer else None
    bound = measure.bound(ours.counted, pace) if ours.counted.phases else None
    return dataclasses.replace(row, ours=own, peer=other, peer_missing=missing, bound=bound)


def _joined(options: Options, row: Row, name: str, begin: Callable[[], Peer]) -> Row:
    """The row that is kept of ours, with a peer that has the device to itself. Raises `UsageError`
    where none is kept."""
    from experiments.bench import machine

    same = lambda kept: (kept.work, kept.size) == (row.work, row.size) and kept.ours is not None
    kept = next(filter(same, _kept(options.out / "bench.json")), None)
    if kept is None:
        problem = f"{options.out} has no {row.work} of ours at {row.size} for it to join."
        raise UsageError("sides", "peer", problem, "Run the same with --sides ours before.")
    began = time.perf_counter()
    try:
        peer = begin()
    except PeerFailed as error:
        return dataclasses.replace(kept, peer_missing=str(error))
    _say(f"{row.work} {row.size}: {name} is ready", began)
    nothing = lambda: machine.Pace(0.0, 0.0)  # the machine's, as our side had it, is in its row
    try:
        (side,), _ = measure.in_turn([peer.repeat], nothing, options.repeats, options.seconds)
    finally:
        peer.close()
    settings = {**peer.settings, "turns": "none, each side had the device to itself"}
    other = Side(name, *side, settings, peer.versions)
    return dataclasses.replace(kept, peer=other, peer_missing="")


def _say(what: str, began: float) -> None:
    """What is done before anything is measured, and how long it took."""
    print(f"{what} after {time.perf_counter() - began:.0f} s", flush=True)


def _line(row: Row) -> str:
    """One work as it is done."""
    if row.error:
        return f"{row.work} {row.size}: failed, {row.error}"
    measured = {name: value for name, value in row.measures.items() if math.isfinite(value)}
    numbers = ", ".join(f"{name} {value:,.3g}" for name, value in measured.items())
    verdicts = ", ".join(f"{want}: {verdict or 'not measured'}" for want, verdict in row.judged)
    missing = f"; no peer, {row.peer_missing}" if row.peer_missing else ""
    return f"{row.work} {row.size}: {numbers}; {verdicts or 'nothing wanted'}{missing}"


def _write(options: Options, rows: list[Row]) -> None:
    """Results, chart and page, after each work, so that a run that is ended leaves what it has. The
    page's chart stays where it has works that these are not all of."""
    from experiments.bench import chart

    kept = json.dumps(escapes.finite_json([row.as_dict() for row in rows]), indent=1)
    whole.write_text(options.out / "bench.json", kept + "\n")
    figures = options.page.parent / "docs" / "figures"
    picture = figures / "bench.png" if figures.is_dir() else options.page.with_name("bench.png")
    every = page.works(options.page) <= {row.work for row in rows}
    if chart.draw(options.out / "bench.png", rows) and (every or not picture.exists()):
        with whole.draft(picture) as place:
            shutil.copyfile(options.out / "bench.png", place)
    drawn = picture.exists()
    beside = picture.relative_to(options.page.parent).as_posix() if drawn else None
    page.write(options.page, rows, ORDER, beside)


def _forget() -> None:
    """Let programs and arrays of a work go before the next one is measured."""
    import jax

    gc.collect()
    jax.clear_caches()


if __name__ == "__main__":
    from experiments.bench.machine import with_large_pages

    # a device is shared with the peer; JAX would take three quarters of its memory at once
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with_large_pages()
    sys.exit(main())
