"""Random configs over all presets, some of those accepted trained for two updates.
`FDIV_FUZZ_SEED` draws others."""

from __future__ import annotations

import os

from experiments.commands import fuzz

SEED = int(os.environ.get("FDIV_FUZZ_SEED", "0"))


def test_random_configs_are_refused_by_name_or_run(request):
    count, configs = (request.config.getoption(name) for name in ("trained", "configs"))
    outcome = fuzz.checked(configs, SEED)
    assert not outcome.faults
    assert outcome.slowest[0] < fuzz.LIMIT
    ran, faults = fuzz.trained(outcome.accepted, count)
    assert not faults
    assert ran == count
