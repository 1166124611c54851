"""Trackers as sinks: `--track trackio|wandb|tensorboard`, several at once.

Every seed of a method is a run of the tracker, of the group of its method, under the names that the
field's trainers log and ours beside them under `fdiv/`. A library is imported where it is asked for
alone. Nothing that goes wrong with one ends a run: it is said once, and that tracker is left."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments import config as configs
from experiments.config import Config
from experiments.running.record import Line, Report, Sink
from experiments.storage import files
from experiments.storage.run_folder import file_name
from fdiv.types import UsageError

# a metric of ours -> what trainers of language models log it as
FIELD = {
    "chosen_log_prob": "logps/chosen",
    "clip_share": "clip_ratio/region_mean",
    "entropy": "entropy",
    "gradient_norm": "grad_norm",
    "kl_to_reference": "kl",
    "length": "completions/mean_length",
    "loss": "loss",
    "margin": "rewards/margins",
    "margin_accuracy": "rewards/accuracies",
    "rejected_log_prob": "logps/rejected",
    "reward": "reward",
    "validation_nll": "eval_loss",
}
PACKAGES = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "tensorboardX"}
FOLDER = "trackers"  # of a run, for what is kept in files
RUNS = "runs.json"  # there: what each of the tracker's runs is called, and where it is
Say = Callable[[str], None]


class TrackerRun(Protocol):
    """One seed of a method, as a tracker has it."""

    @property
    def where(self) -> str:
        """Its address, or where it is kept on this machine."""
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an update."""
        ...

    def alert(self, title: str, text: str) -> None:
        """What looks wrong."""
        ...

    def texts(self, name: str, rows: Sequence[Line]) -> None:
        """Strings for people to read."""
        ...

    def picture(self, name: str, path: Path) -> None:
        """A PNG."""
        ...

    def finish(self) -> None:
        """No more of it."""
        ...


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a run of a tracker is opened with."""

    project: str
    group: str
    name: str
    key: str  # the same whenever the same run goes on
    after: int  # the update that it goes on after, -1 where it begins
    folder: Path
    config: Mapping[str, Any]


# --- the libraries --------------------------------------------------------------------------------


class Wandb:
    """Weights & Biases; offline where nobody is logged in."""

    def __init__(self, opened: Opened):
        self._library = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if self._logged_in() else "offline")
        self._online = mode == "online"
        opened.folder.mkdir(parents=True, exist_ok=True)
        self._run = self._library.init(
            project=opened.project,
            group=opened.group,
            name=opened.name,
            id=opened.key,
            resume="allow",
            dir=str(opened.folder),
            config=dict(opened.config),
            mode=mode,
            reinit="create_new",
            settings=self._library.Settings(silent=True),
        )

    @property
    def where(self) -> str:
        url = self._run.url if self._online else None
        return url if isinstance(url, str) else str(Path(str(self._run.dir)).parent)

    def _logged_in(self) -> bool:
        """Whether there are credentials, without asking anybody for them."""
        if "prompt" in inspect.signature(self._library.login).parameters:
            return bool(self._library.login(prompt=False))
        return bool(getattr(getattr(self._library, "api", None), "api_key", None))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def alert(self, title: str, text: str) -> None:
        self._run.alert(title=title, text=text)

    def texts(self, name: str, rows: Sequence[Line]) -> None:
        columns = ["prompt", "completion"]
        data = [[row.get(column, "") for column in columns] for row in rows]
        self._run.log({name: self._library.Table(columns=columns, data=data)})

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: self._library.Image(str(path))})

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, which keeps runs on this machine unless it is told otherwise."""

    def __init__(self, opened: Opened):
        self._library = importlib.import_module("trackio")
        wanted = {
            "project": opened.project,
            "name": opened.name,
            "group": opened.group,
            "config": dict(opened.config),
            # a run is known by its name: one that begins anew is not to go on with another's
            "resume": "allow" if opened.after >= 0 else "never",
            "embed": False,
        }
        current = getattr(getattr(self._library, "context_vars", None), "current_run", None)
        if current is not None:  # which would be finished, and seeds go on side by side
            current.set(None)
        self._run = self._library.init(**_taken(self._library.init, wanted))
        self._project = opened.project

    @property
    def where(self) -> str:
        url = getattr(self._run, "url", None)  # none where it is kept on this machine
        return url if isinstance(url, str) else f"trackio show --project {self._project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        # earlier versions count their own steps
        self._run.log(dict(values), **_taken(self._run.log, {"step": step}))

    def alert(self, title: str, text: str) -> None:
        if hasattr(self._run, "alert"):
            self._run.alert(title=title, text=text)

    def texts(self, name: str, rows: Sequence[Line]) -> None:
        if not hasattr(self._library, "Table"):
            return
        columns = ["prompt", "completion"]
        data = [[row.get(column, "") for column in columns] for row in rows]
        self._run.log({name: self._library.Table(columns=columns, data=data)})

    def picture(self, name: str, path: Path) -> None:
        if hasattr(self._library, "Image"):
            self._run.log({name: self._library.Image(str(path))})

    def finish(self) -> None:
        self._run.finish()


class Tensorboard:
    """Event files in the run's own folder: `tensorboard --logdir RUN/trackers/tensorboard`."""

    def __init__(self, opened: Opened):
        library = importlib.import_module("tensorboardX")
        place = opened.folder / "tensorboard" / file_name(opened.name)
        # also where it begins anew after a start that came to no save
        again = {"purge_step": opened.after + 1} if place.exists() else {}
        self._writer = library.SummaryWriter(logdir=str(place), **again)
        self._step, self._place = max(opened.after, 0), place

    @property
    def where(self) -> str:
        return str(self._place)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def alert(self, title: str, text: str) -> None:
        self._writer.add_text("alarms", f"{title}: {text}", self._step)

    def texts(self, name: str, rows: Sequence[Line]) -> None:
        lines = [f"{row.get('prompt', '')} | {row.get('completion', '')}" for row in rows]
        self._writer.add_text(name, "\n\n".join(lines), self._step)

    def picture(self, name: str, path: Path) -> None:
        import matplotlib.image  # drawing has loaded it

        pixels = matplotlib.image.imread(path)[..., :3]
        self._writer.add_image(name, pixels, self._step, dataformats="HWC")

    def finish(self) -> None:
        self._writer.close()


TRACKERS: dict[str, Callable[[Opened], TrackerRun]] = {
    "trackio": Trackio,
    "wandb": Wandb,
    "tensorboard": Tensorboard,
}


def _taken(function: Callable[..., Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that this version of a library takes."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in wanted.items() if name in known}


def check(names: Sequence[str]) -> None:
    """Raise `UsageError` for a tracker that is none, or whose library cannot be loaded."""
    for i, name in enumerate(names):
        if name not in TRACKERS:
            fix = f"Use {', '.join(TRACKERS)}."
            raise UsageError("track", name, "is no tracker that is known here.", fix)
        if name in names[:i]:
            raise UsageError("track", name, "is named twice.", "Name each tracker once.")
        try:
            module = importlib.import_module(PACKAGES[name])
            if not getattr(module, "__file__", None):  # a folder of that name, such as wandb's own
                raise ImportError(f"No module named {PACKAGES[name]!r}")
        except Exception as error:  # of another's library
            problem = f"needs a package that is not here ({error})."
            fix = f"Install it: pip install {PACKAGES[name]}; or leave --track out."
            raise UsageError("track", name, problem, fix) from error


# --- the sink -------------------------------------------------------------------------------------


class Tracker(Sink):
    """One tracker: a run of it for each method and seed."""

    def __init__(self, kind: str, config: Config, path: Path, say: Say):
        """`path` is the folder of the run, `say` prints a line."""
        self._kind, self._path, self._say = kind, path, say
        self._plain = {
            name: value
            for name, value in configs.flatten(configs.identity(config)).items()
            if value is not None
        }
        self._config, self._project = config, config.output.track_project
        self._open: dict[tuple[str, int], TrackerRun] = {}
        self._after: dict[str, int] = {}
        self._before: dict[str, tuple[int, float]] = {}  # update and seconds of the last report
        self._left = False

    def __exit__(self, *error: Any) -> None:
        self._try(self._finish, None)

    def resumed(self, method: str, update: int) -> None:
        self._after[method] = update
        self._before.pop(method, None)

    def progress(self, report: Report) -> None:
        self._try(self._log, report)

    def alarm(self, method: str, message: str) -> None:
        self._try(self._alert, method, message)

    def samples(self, name: str, lines: Sequence[Line]) -> None:
        self._try(self._texts, name, lines)

    def report(self, folder: Path) -> None:
        """The pictures of the finished run, and its table, as a run of their own."""
        self._try(self._report, folder)

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        """Whatever a tracker does wrong is said once, and the tracker is left."""
        if self._left:
            return
        try:
            action(*arguments)
        except (Exception, SystemExit) as error:  # of another's library, or of a network
            self._left = True
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._say(f"{self._kind} is left: {reason}. The run goes on without it.")

    def _run(self, method: str, seed: int) -> TrackerRun:
        if (method, seed) not in self._open:
            self._finish(method)
            name = f"{method}-{seed}"
            whole = f"{self._path.resolve()} {sorted(self._plain.items())} {name}"
            key = hashlib.sha256(whole.encode()).hexdigest()[:16]
            after = self._after.get(method, -1)
            folder = self._path / FOLDER
            opened = Opened(self._project, method, name, key, after, folder, self._plain)
            self._open[method, seed] = run = TRACKERS[self._kind](opened)
            self._keep(opened, seed, run.where)
        return self._open[method, seed]

    def _keep(self, opened: Opened, seed: int, where: str) -> None:
        """Note in the run's folder what this run is called, for `sweep collect`."""
        own = {"tracker": self._kind, "method": opened.group, "seed": seed, "name": opened.name}
        own |= {"project": opened.project, "id": opened.key, "where": where}
        of_own = lambda run: (run["tracker"], run["name"]) == (self._kind, opened.name)
        others = [run for run in runs(self._path) if not of_own(run)]
        opened.folder.mkdir(parents=True, exist_ok=True)
        files.write_checked(opened.folder / RUNS, {"runs": [*others, own]})

    def _finish(self, method: str | None) -> None:
        """The runs of all other methods."""
        for key in [key for key in self._open if key[0] != method]:
            self._open.pop(key).finish()

    def _log(self, report: Report) -> None:
        if report.metrics is None:
            return
        for seed in range(len(report.tokens)):
            own = {name: values[seed] for name, values in report.metrics.items()}
            values = named(own) | self._pace(report, seed)
            self._run(report.method, seed).log(values, report.update)
        self._before[report.method] = (report.update, report.seconds)

    def _pace(self, report: Report, seed: int) -> dict[str, float]:
        """Tokens so far, the time of a step and the learning rate."""
        values = {"num_tokens": float(report.tokens[seed])}
        update, seconds = self._before.get(report.method, (report.update, report.seconds))
        if report.update > update:
            values["step_time"] = (report.seconds - seconds) / (report.update - update)
        if self._config.budget.trials == 1:  # else each method has found its own
            values["learning_rate"] = self._rate(report.method, report.update)
        return values

    def _rate(self, method: str, update: int) -> float:
        own = configs.resolve(self._config)[method].learning_rate
        optimiser, budget = self._config.optimiser, self._config.budget
        each = budget.epochs * budget.minibatches
        shape = optimiser.shape(budget.updates * each, optimiser.warm_up * each)
        return (own or optimiser.learning_rate) * float(np.asarray(shape(update * each)))

    def _alert(self, method: str, message: str) -> None:
        for (name, seed), run in self._open.items():
            if name == method and seed == 0:  # an alarm is of all seeds
                run.alert(f"{method}: alarm", message)

    def _texts(self, name: str, lines: Sequence[Line]) -> None:
        for line in lines[:1]:
            run = self._open.get((name, line["seed"]))
            if run is not None:
                run.texts("samples", lines)

    def _report(self, folder: Path) -> None:
        run = self._run("report", 0)
        for place in sorted((folder / "figures").glob("*.png")):
            run.picture(f"figures/{place.stem}", place)
        table = (folder / "table.md").read_text(encoding="utf-8")
        run.texts("table", [{"prompt": "", "completion": table}])
        self._finish(None)


def named(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics under the field's names where it has one, and all under ours; those that are not
    finite are left out."""
    finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    theirs = {FIELD[name]: value for name, value in finite.items() if name in FIELD}
    return theirs | {f"fdiv/{name}": value for name, value in finite.items()}


def runs(path: Path) -> list[dict[str, Any]]:
    """What a run's folder says of its runs at trackers; nothing where it had none."""
    return files.read(path / FOLDER / RUNS, lambda data: list(data["runs"])) or []


def make(config: Config, path: Path, say: Say) -> list[Tracker]:
    """The trackers that a config asks for."""
    return [Tracker(kind, config, path, say) for kind in dict.fromkeys(config.output.track)]
