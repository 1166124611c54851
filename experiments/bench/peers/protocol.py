"""What a peer says to the benchmark: a line of JSON at a time on its standard output, and one back
on its standard input.

    benchmark: {"work": "sft", "batch": 32, ...}   what is to be timed
    peer:      {"ready": true, "settings": {...}, "versions": {...}}
    benchmark: {"updates": 3}                      one repeat, as often as it likes
    peer:      {"seconds": 2.1, "tokens": 12288}
    ...                                            until the input ends

A peer that waits for a line computes nothing, so that the benchmark's own side can be timed
meanwhile. What libraries print goes to the standard error. `python protocol.py PEER.py` runs a
peer, by the peer's own Python, so that nothing here and in the peers imports fdiv or JAX."""

from __future__ import annotations

import importlib.metadata
import json
import os
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any


class Line:
    """The peer's end of the line; what else this process prints goes to its standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def say(self, **fields: Any) -> None:
        """One line to the benchmark."""
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()

    def hear(self) -> dict[str, Any]:
        """The benchmark's next line; at the end of the input the process ends, whatever thread or
        library would have it go on."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        return json.loads(line)

    def ready(self, settings: dict[str, Any], packages: Sequence[str]) -> None:
        """Once warmed up: what the peer was told, and the versions of its packages."""
        versions = {name: importlib.metadata.version(name) for name in packages}
        self.say(ready=True, settings=settings, versions=versions)

    def serve(
        self, step: Callable[[int], float], settings: dict[str, Any], packages: Sequence[str]
    ) -> None:
        """Answer repeats of a plain function, `step(updates) -> tokens`, warmed up by one."""
        step(1)
        self.ready(settings, packages)
        while True:
            updates = int(self.hear()["updates"])
            began = time.perf_counter()
            tokens = step(updates)
            self.say(seconds=time.perf_counter() - began, tokens=tokens)

    def timed(
        self, tokens: float, settings: dict[str, Any], packages: Sequence[str]
    ) -> Callable[[], None]:
        """What a library is to call after each of its own steps, of so many tokens each. It waits
        for the benchmark before the first step of a repeat; the very first step warms up."""
        state = {"asked": 0, "left": 0, "began": 0.0}

        def step_ended() -> None:
            if not state["asked"]:
                self.ready(settings, packages)
            elif state["left"] > 1:
                state["left"] -= 1
                return
            else:
                seconds = time.perf_counter() - state["began"]
                self.say(seconds=seconds, tokens=tokens * state["asked"])
            state["asked"] = state["left"] = int(self.hear()["updates"])
            state["began"] = time.perf_counter()

        return step_ended


def main(script: str) -> None:
    """Hear what is to be timed and do it as the script's WORKS say; what goes wrong is said on the
    line."""
    line = Line()
    asked = line.hear()
    try:
        runpy.run_path(script)["WORKS"][asked["work"]](line, asked)
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        line.say(error=f"{type(error).__name__}: {reason}"[:500])


if __name__ == "__main__":
    main(sys.argv[1])
