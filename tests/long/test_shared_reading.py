"""Two processes read a text file in shares, train the teacher in step, and end as one process
does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from joining import compare, ends, two_processes

ROWS = 201
RUN = [
    "text",
    "--import",
    str(Path(__file__).parent / "counted.py"),
    "--benchmark.prompt-length",
    "8",
    "--benchmark.horizon",
    "6",
    "--benchmark.validation",
    "0.2",
    "--benchmark.teacher-updates",
    "20",
    "--benchmark.teacher-width",
    "16",
    "--benchmark.teacher-layers",
    "1",
    "--policy.layers",
    "1",
    "--policy.width",
    "16",
    "--policy.heads",
    "2",
    "--policy.kv-heads",
    "2",
    "--methods",
    "sft",
    "--seeds",
    "1",
    "--updates",
    "8",
    "--warm-start",
    "0",
    "--batch-size",
    "16",
    "--samples",
    "16",
    "--evaluations",
    "2",
    "--temperatures",
    "1.0",
    "--report",
    "False",
]


def words(folder: Path, rows: Path) -> list[str]:
    """A run with a cache of its own: its teacher is trained anew."""
    return [
        *RUN,
        "--benchmark.path",
        str(rows),
        "--cache",
        str(folder / "cache"),
        "--out",
        str(folder / "run"),
    ]


def teacher(cache: Path) -> list[np.ndarray]:
    """What is kept of the one teacher in a cache."""
    (arrays,) = cache.glob("teachers/*/*/arrays")
    return ocp.StandardCheckpointer().restore(arrays)


def test_two_processes_give_what_one_gives(tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}?", "completion": f"é{i}!"}) for i in range(ROWS)]
    rows.write_text("\n".join([*lines[:-1], "{broken", lines[-1]]))
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    alone = compare([*words(one, rows), "--devices.data", "-1"], 1, COUNTED=str(one / "counted"))
    codes, said = two_processes(words(two, rows), 1, COUNTED=str(two / "counted"))
    said.append(alone.communicate()[0])
    assert [*codes, alone.returncode] == [0, 0, 0], ends(said)
    assert "a mesh of data 2" in said[0]

    bad = [json.loads((folder / "run" / "bad_rows.json").read_text()) for folder in (one, two)]
    assert bad[0] == bad[1]
    assert [row["row"] for row in bad[0]] == [ROWS]
    wanted, found = (
        json.loads((folder / "run" / "results.json").read_text())["methods"]["sft"]
        for folder in (one, two)
    )
    assert wanted["metrics"].keys() == found["metrics"].keys()
    for name, values in wanted["metrics"].items():
        np.testing.assert_allclose(
            found["metrics"][name]["seeds"], values["seeds"], rtol=1e-5, atol=1e-5, err_msg=name
        )

    for mine, other in zip(*(teacher(folder / "cache") for folder in (one, two)), strict=True):
        np.testing.assert_allclose(other, mine, rtol=1e-5, atol=1e-5)

    counted = lambda folder, index: int((folder / f"counted.{index}").read_text())
    assert counted(one, 0) == ROWS + 2  # every line, and the first once more for the columns
    shares = [counted(two, index) for index in range(2)]
    assert sum(shares) == ROWS + 3
    assert max(shares) < 0.6 * ROWS


def test_both_processes_refuse_what_one_refuses(tmp_path):
    """Only the second share holds what cannot be read; the first does not wait for it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"better": "a", "worse": "b"}\n' * 9)
    codes, said = two_processes(words(tmp_path, rows), 1, COUNTED=str(tmp_path / "counted"))
    assert codes == [2, 2]
    assert all("none of the usual columns" in text for text in said)


def test_two_processes_share_rows_that_stay_on_the_host(tmp_path):
    """Each writes the pieces of one file, and reads the rows of its own devices."""
    rows = tmp_path / "rows"
    rows.mkdir()
    lines = [json.dumps({"prompt": f"{i}?", "completion": f"é{i}!"}) for i in range(ROWS)]
    for name, part in (("a", lines[:90]), ("b", [*lines[90:], "{broken"])):
        (rows / f"{name}.jsonl").write_text("\n".join(part))
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    untrained = RUN[: RUN.index("--benchmark.teacher-updates")]
    others = RUN[RUN.index("--policy.layers") :]
    run = lambda folder: [
        *untrained,
        *others,
        *["--benchmark.store", "host", "--benchmark.teacher", "none"],
        *["--benchmark.path", str(rows), "--cache", str(folder / "cache")],
        *["--out", str(folder / "run")],
    ]
    counted = lambda folder: {"COUNTED": str(folder / "counted")}
    alone = compare([*run(one), "--devices.data", "-1"], 1, **counted(one))
    codes, said = two_processes(run(two), 1, **counted(two))
    said.append(alone.communicate()[0])
    assert [*codes, alone.returncode] == [0, 0, 0], ends(said)
    stores = [next((folder / "cache" / "rows").iterdir()) for folder in (one, two)]
    assert [store.name for store in stores] == [stores[0].name] * 2
    for name in ("tokens", "index", "about.json"):
        assert (stores[0] / name).read_bytes() == (stores[1] / name).read_bytes()
    wanted, found = (
        json.loads((folder / "run" / "results.json").read_text())["methods"]["sft"]["metrics"]
        for folder in (one, two)
    )
    for name, values in wanted.items():
        np.testing.assert_allclose(
            found[name]["seeds"], values["seeds"], rtol=1e-5, atol=1e-5, err_msg=name
        )
