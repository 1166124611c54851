"""Is this machine ready? `python -m experiments.doctor [--out DIR] [--cache DIR]`

A line for each thing that a run needs: ok with what was found, or what to do about it. Exit code 0
when all is ok, 1 otherwise. A laptop without SLURM is ok: it is needed for sweeps on a cluster
alone."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from experiments import escapes

PYTHON, JAX = (3, 11), (0, 10, 2)
MODELS = ("tokenizers", "safetensors", "gguf")  # libraries of the extras hf and gguf
FREE = 2 << 30  # bytes: a run of the presets with its cache takes far less


class Trouble(Exception):
    """What to do about something that is not ok."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Look at everything that a run needs, and say what is missing."""

    out: Path = Path("runs")
    """Folder that runs are to go to."""
    cache: Path | None = None
    """Where teachers and compiled programs are kept; none: $FDIV_CACHE, or ~/.cache/fdiv."""


def check_python(options: Options) -> str:
    if sys.version_info < PYTHON:
        raise Trouble(
            f"{platform.python_version()} is too old: install Python 3.11 or newer and make a "
            "new environment."
        )
    return platform.python_version()


def check_jax(options: Options) -> str:
    import jax
    import jaxlib

    if jax.__version_info__ < JAX:
        raise Trouble(f"{jax.__version__} is too old: pip install -c constraints.txt -e .")
    return f"{jax.__version__}, jaxlib {jaxlib.__version__}"


def check_devices(options: Options) -> str:
    import jax

    available = jax.devices()
    if available[0].platform == "cpu" and shutil.which("nvidia-smi"):
        raise Trouble(
            "there is a GPU that JAX does not see: pip install -c constraints.txt -e "
            "'.[cuda13]', and look at nvidia-smi."
        )
    return f"{len(available)} x {available[0].device_kind}"


def check_products(options: Options) -> str:
    import jax

    given = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]
    if given not in ("highest", "float32"):
        raise Trouble(
            f"computed as {given}: on a GPU or TPU exact values lose digits. Unset "
            "JAX_DEFAULT_MATMUL_PRECISION."
        )
    return "in full"


def check_attention(options: Options) -> str:
    """What a transformer's gradient goes through in half precision here, against XLA's plain
    attention."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fdiv.policies import transformer

    tokens = jax.random.randint(jax.random.key(0), (4, 128), 0, 32)

    def slope(kernel: Literal["auto", "xla"]) -> tuple[str, np.ndarray]:
        shape = transformer.Shape(
            layers=1, width=128, heads=2, precision="bfloat16", attention=kernel
        )
        policy = transformer.policy(shape, 32)
        mean = lambda params: jnp.mean(policy.head(params, policy.trunk(params, tokens))[..., 0])
        gradient = jax.jit(jax.grad(mean))(policy.init(jax.random.key(1)))
        return shape.kernel, np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])

    fix = "update the driver and '.[cuda13]', or train with --policy.attention xla."
    try:
        (kernel, gradient), (_, plain) = slope("auto"), slope("xla")
    except Exception as error:
        raise Trouble(f"fails ({type(error).__name__}): {fix}") from error
    apart = float(np.linalg.norm(gradient - plain) / np.linalg.norm(plain))
    if not apart < 0.05:
        raise Trouble(
            f"gradients by {kernel} are {apart:.0%} away from those of the plain formula: {fix}"
        )
    return kernel


def check_output(options: Options) -> str:
    return _writable(options.out, "--out")


def check_cache(options: Options) -> str:
    from experiments.devices import cache_folder

    return _writable(cache_folder(options.cache), "--cache or $FDIV_CACHE")


def check_disk(options: Options) -> str:
    free = shutil.disk_usage(_existing(options.out)).free
    if free < FREE:
        raise Trouble(
            f"{free / 1e9:.1f} GB free for {options.out}: make room, or give another --out."
        )
    return f"{free / 1e9:.0f} GB free for {options.out}"


def check_slurm(options: Options) -> str:
    if shutil.which("sbatch") is None:
        return "not found; sweeps run here, with sweep run --local"
    try:
        version = subprocess.run(
            ["sinfo", "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            encoding="utf-8",
            errors="replace",
        ).stdout.strip()
        subprocess.run(
            ["sinfo", "--noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Trouble(
            "sbatch is there and the controller does not answer: ask scontrol ping, or the "
            "site's staff."
        ) from error
    return version


def check_models(options: Options) -> str:
    """The libraries that pretrained models need, which nothing else does."""
    lacking = [name for name in MODELS if importlib.util.find_spec(name) is None]
    if not lacking:
        return f"{', '.join(MODELS)}: pretrained models are read"
    return f"without {', '.join(lacking)}; reading them takes pip install -e '.[hf,gguf]'"


def check_training(options: Options) -> str:
    """Ten updates of the smallest task, saved and restored in the output folder."""
    import jax
    import numpy as np

    from experiments.storage import checkpoints

    trained = _ten_updates()
    with tempfile.TemporaryDirectory(dir=_existing(options.out)) as folder:
        checkpoints.save(Path(folder), 10, trained, {})
        restored = checkpoints.restore(Path(folder), trained)
    same = restored is not None and all(
        map(np.array_equal, *(jax.tree.leaves(x.learner.params) for x in (restored[0], trained)))
    )
    if not same or int(trained.learner.step[0]) != 10 or int(trained.log.broke[0]):
        raise Trouble(
            "ten updates do not come out as they should: run make test, and report what fails."
        )
    loss = np.asarray(trained.log.sums / trained.log.used[:, None])[0, 0]
    return f"ten updates, mean loss {loss:.3f}, saved and restored"


CHECKS: dict[str, Callable[[Options], str]] = {
    "Python": check_python,
    "jax": check_jax,
    "devices": check_devices,
    "float32 products": check_products,
    "attention kernel": check_attention,
    "output folder": check_output,
    "cache folder": check_cache,
    "disk": check_disk,
    "SLURM": check_slurm,
    "language models": check_models,
    "training": check_training,
}


def main(argv: list[str] | None = None) -> int:
    """Print a line for each check; 1 where one is not ok."""
    program = "python -m experiments.doctor"
    escapes.fit_screen()
    try:
        from experiments import cli
    except Exception:  # it loads jax, and the checks are to say what is wrong with that
        import tyro

        return _look(tyro.cli(Options, prog=program, args=argv))
    return cli.script(program, Options, Options.__doc__, _look, argv)


def _look(options: Options) -> int:
    return int(not all([_line(name, check, options) for name, check in CHECKS.items()]))


def _line(name: str, check: Callable[[Options], str], options: Options) -> bool:
    try:
        print(f"{name:<17} ok   {check(options)}", flush=True)
    except Trouble as trouble:
        print(f"{name:<17} --   {trouble}", flush=True)
    except Exception as error:
        print(f"{name:<17} --   {type(error).__name__}: {error}"[:300], flush=True)
    else:
        return True
    return False


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())


def _writable(folder: Path, flag: str) -> str:
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"1" * 4096)
            file.flush()
    except OSError as error:
        raise Trouble(
            f"{place} cannot be written ({error.strerror}): give another with {flag}."
        ) from error
    return f"{folder} can be {'written' if place == folder.absolute() else 'made'}"


def _ten_updates():
    """The run after ten updates of likelihood training on a small two-template language."""
    import jax
    import jax.numpy as jnp

    from experiments import assemble
    from experiments.config import make_config, resolve
    from experiments.devices.seeds import SeedLayout
    from experiments.running import runs, train
    from experiments.running.runs import Runs
    from fdiv.benchmarks import TwoTemplate

    config = make_config(
        benchmark=TwoTemplate(vocab=2, horizon=3),
        methods=("sft",),
        seeds=1,
        updates=10,
        batch_size=32,
    )
    task = assemble.task(config)
    components, keys, layout = (
        assemble.components(config, task),
        assemble.seed_keys(config, 1),
        SeedLayout(1, jax.local_devices()[:1]),
    )
    (method,) = resolve(config).values()
    objective = method.build(components)
    rates = jnp.full(1, config.optimiser.learning_rate)
    start = runs.starts(config, task, components, keys)
    return train.to_end(train.prepare(config, task, objective, layout, Runs(keys, start, rates)))


if __name__ == "__main__":
    sys.exit(main())
