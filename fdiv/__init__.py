"""fdiv: f-divergences for teaching language models from an expert.

What is meant to be used from outside stands in `__all__`. A divergence is `parse(name)` or
`from_generator(f)`, and `divergence(name, p, q)` is its value for two arrays; a method is
`resolve(name)`. `METHODS`, `FAMILY` and `BENCHMARKS` are the tables that a user's own entries go
into."""

from __future__ import annotations

from fdiv import (
    benchmarks,
    checks,
    divergences,
    estimators,
    exact,
    head,
    metrics,
    objectives,
    penalties,
    policies,
    regularised,
    rollout,
    statistics,
    tokens,
)
from fdiv.arrays import divergence
from fdiv.benchmarks import BENCHMARKS
from fdiv.divergences import FAMILY, from_generator, from_reward, parse, swapped
from fdiv.exact import class_optimum
from fdiv.objectives import METHODS, resolve
from fdiv.types import (
    PAD,
    Claim,
    Components,
    Divergence,
    Learner,
    LearnerState,
    Level,
    Look,
    Method,
    Model,
    Objective,
    Pairs,
    Policy,
    Readout,
    Regulariser,
    Rollout,
    Scorer,
    Sequences,
    TokenMDP,
    UsageError,
)

__version__ = "0.2.0"

__all__ = [
    "BENCHMARKS",
    "FAMILY",
    "METHODS",
    "PAD",
    "Claim",
    "Components",
    "Divergence",
    "Learner",
    "LearnerState",
    "Level",
    "Look",
    "Method",
    "Model",
    "Objective",
    "Pairs",
    "Policy",
    "Readout",
    "Regulariser",
    "Rollout",
    "Scorer",
    "Sequences",
    "TokenMDP",
    "UsageError",
    "benchmarks",
    "checks",
    "class_optimum",
    "divergence",
    "divergences",
    "estimators",
    "exact",
    "from_generator",
    "from_reward",
    "head",
    "metrics",
    "objectives",
    "parse",
    "penalties",
    "policies",
    "regularised",
    "resolve",
    "rollout",
    "statistics",
    "swapped",
    "tokens",
]
