"""Known figures of the field and studies of ours, each from one command and checked: `python -m
experiments.figures KEY`.

A figure is a module named by its key, or a package where it is large; a study is a package. Each
has FIGURE, flags and `make`."""

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
    "opd_plus",
    "any_reward",
    "todi",
    "teacher_temperature",
    "gad",
    "alpha_beta",
    "future_coupling",
    "best_of_n",
    "precision_coverage",
    "kl_mixing",
)
STUDIES = (  # students are trained: minutes each
    "sft_inverse_rl",
    "context_window",
    "beyond_three",
    "trained_errors",
    "demos_vs_preferences",
)


def figure(key: str) -> Figure:
    """The figure of a key, from the module of that name."""
    return importlib.import_module(f"experiments.figures.{key}").FIGURE
