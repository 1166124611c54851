"""Known figures of the field and studies of ours, each out of one command, checked: `python -m
experiments.figures KEY`."""

from __future__ import annotations

import importlib

from experiments.figures.common.base import Figure

KEYS = (
    "kl_estimators",
    "die",
    "kl_gradients",
    "discriminator_rewards",
    "gaussian_fit",
    "policy_class",
    "misspecified_horizon",
    "compounding_error",
    "f_dpo",
    "kl_targets",
    "head_tail",
    "distillation_grid",
    "divergence_gallery",
    "mode_covering",
    "kl_control",
)
STUDIES = (  # students are trained: minutes each
    "sft_inverse_rl", "context_window", "beyond_three", "trained_errors", "demos_vs_preferences",
)  # fmt: skip


def figure(key: str) -> Figure:
    """The figure of a key, from the file of that name."""
    return importlib.import_module(f"experiments.figures.{key}").FIGURE
