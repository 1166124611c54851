"""The benchmark's end of the line to a peer, which `peers/protocol.py` describes: a process of
another Python that computes while it is asked to, and waits while it is not."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

from experiments.devices import cores

FOLDER = Path(__file__).parent / "peers"
LIMIT = 900.0  # seconds after which a peer is taken to hang
SILENT = 400  # characters of its last words that are passed on


class PeerFailed(RuntimeError):
    """A peer that cannot be measured, with what it said last."""


class Repeat:
    """One answer of a peer."""

    def __init__(self, fields: dict[str, Any]):
        self.seconds, self.tokens = float(fields["seconds"]), float(fields["tokens"])


class Peer:
    """A peer that is ready, until it is closed."""

    def __init__(self, python: Path, script: Path, asked: dict[str, Any], log: Path):
        """Begin the process and wait until it has done one update; its other output goes to
        `log`."""
        self._log = log
        threads = str(cores.usable())
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        with log.open("w", encoding="utf-8") as words:
            self._process = subprocess.Popen(
                [str(python), str(FOLDER / "protocol.py"), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                encoding="utf-8",
                env={**os.environ, **dict.fromkeys(names, threads)},
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._say({**asked, "threads": int(threads)})
            ready = self._hear()
        except BaseException:
            self.close()
            raise
        self.settings: dict[str, Any] = ready["settings"]
        self.versions: dict[str, str] = ready["versions"]

    def repeat(self, updates: int) -> Repeat:
        """Have it do so many updates."""
        self._say({"updates": updates})
        return Repeat(self._hear())

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it may have ended by itself
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        for line in stream:
            self._lines.put(line)
        self._lines.put("")

    def _say(self, fields: dict[str, Any]) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(fields) + "\n")
            stream.flush()
        except OSError as error:
            raise PeerFailed(self._last_words()) from error

    def _hear(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=LIMIT)
        except queue.Empty as error:
            raise PeerFailed(f"no answer within {LIMIT:g} seconds") from error
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise PeerFailed(self._last_words()) from error
        if "error" in fields:
            raise PeerFailed(fields["error"])
        return fields

    def _last_words(self) -> str:
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"it ended: {words[-SILENT:]}" if words else "it ended and said nothing"
