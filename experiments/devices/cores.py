"""How many cores there are."""

from __future__ import annotations

import os


def usable() -> int:
    """That this process may use; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
