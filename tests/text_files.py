"""Writes the rows of a test to a file and reads them back as the text task does."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet

from experiments.data import files
from fdiv.benchmarks.text import Text


def written(tmp_path, records, suffix=".jsonl", **fields):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text(
            "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
        )
    return files.read(Text(path=path, **fields))
