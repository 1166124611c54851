"""What is looked at in a config before anything is built or written: each field's range, and
whether an option has a reader at all."""

from __future__ import annotations

import dataclasses

from experiments.config import Config, prefixed, resolve, teacher_of
from experiments.fields import refuse_out_of_range, refuse_unread
from experiments.models import pretrained
from fdiv import objectives
from fdiv.benchmarks.text import VOCAB, Text
from fdiv.policies import Architecture
from fdiv.types import Method, UsageError


def check(config: Config, preset: Config) -> None:
    """Raise `UsageError` for the first field that cannot be, before anything is built or written.

    An option that no chosen method has a use for is refused where it differs from the preset's.
    """
    refuse_out_of_range(config)
    config.optimiser.check(config.budget.updates)
    parts = config.budget.minibatches * config.budget.accumulate
    if config.budget.batch_size % parts:
        problem = (
            f"does not divide into {config.budget.minibatches} minibatches of "
            f"{config.budget.accumulate} parts."
        )
        raise UsageError(
            "batch_size", config.budget.batch_size, problem, f"Give a multiple of {parts}."
        )
    with prefixed(devices=config.devices):
        config.devices.check()
    with prefixed(policy=config.policy):
        if config.policy.name == "hf":
            pretrained.check(config.policy)
        config.policy.sizes()
    with prefixed(scorer=config.scorer):
        config.scorer.sizes()
        if config.scorer.name == "hf":
            pretrained.check_scorer(pretrained.of_scorer(config.scorer, config.policy))
    with prefixed(penalty=config.penalty, control=config.control):
        config.penalty.check()
        config.control.check()
    _check_teacher(config)
    _check_methods(config)
    refuse_unread(config, preset)


def _check_teacher(config: Config) -> None:
    """The sizes of a text benchmark's teacher, or whether there is such a model."""
    text, kind = config.benchmark, teacher_of(config)
    if isinstance(text, Text) and text.teacher_system is not None and kind in (None, "trained"):
        problem = "is read by a pretrained teacher, and this run has none."
        fix = "Give --benchmark.teacher base, whole, or the path of a model."
        raise UsageError("benchmark.teacher_system", text.teacher_system, problem, fix)
    if not isinstance(text, Text) or kind is None:
        return
    if kind in ("base", "whole") and config.policy.name != "hf":
        problem = (
            "is the pretrained model that a policy is made of, and this policy is made of none."
        )
        fix = "Use --policy.name hf, or give the path of a model."
        raise UsageError("benchmark.teacher", kind, problem, fix)
    if kind == "base" and config.policy.init == "random":
        problem = "is what a policy is made of, and this one starts from random weights."
        raise UsageError("benchmark.teacher", kind, problem, "Give the path of a model.")
    if kind not in ("base", "trained"):
        try:
            pretrained.source(kind)
        except UsageError as error:
            problem = error.problem
            fix = f"{error.fix.rstrip('.')}; or trained, base or none."
            raise UsageError("benchmark.teacher", kind, problem, fix) from error
    if kind != "trained":
        return
    width, layers = text.teacher_width, text.teacher_layers
    try:
        Architecture("transformer", layers=layers, width=width).policy(VOCAB, 1)
    except UsageError as error:
        raise UsageError(
            f"benchmark.teacher_{error.field}", error.value, error.problem, error.fix
        ) from error


def _check_methods(config: Config) -> None:
    if not config.methods:
        raise UsageError(
            "methods",
            (),
            "there is nothing to compare.",
            "Name at least one, such as --methods sft gail.",
        )
    names = [objectives.canonical(name) for name in config.methods]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("methods", name, "is named twice.", "Name each method once.")
    _refuse_same(config)
    for name, method in resolve(config).items():
        with prefixed(**objectives.parts(method)):
            method.check()
        _check_groups(config, name, method)
        if config.budget.epochs * config.budget.minibatches > 1 and not method.reusable:
            problem = f"{name} learns from samples of the policy as it is, good for one step."
            value = (config.budget.epochs, config.budget.minibatches)
            raise UsageError(
                "epochs, minibatches",
                value,
                problem,
                f"Leave both at 1, or leave {name} out.",
            )


def _refuse_same(config: Config) -> None:
    """Raise `UsageError` for two names of one method: all their runs would be the same."""
    known: list[tuple[str, Method]] = []
    for name, method in resolve(config).items():
        if method.charges and method.penalty is None:
            method = dataclasses.replace(method, penalty=config.penalty)  # which it is charged by
        other = next((other for other, earlier in known if earlier == method), None)
        if other is not None:
            problem = f"is {other} by another name, with these flags: the same runs twice."
            raise UsageError("methods", name, problem, f"Name {other} or {name}, not both.")
        known.append((name, method))


def _check_groups(config: Config, name: str, method: Method) -> None:
    """A batch holds whole groups of answers to one prompt."""
    group = getattr(getattr(method, "following", method), "group", None)
    if group and config.budget.batch_size % group:
        problem = f"does not divide into {name}'s groups of {group} answers to a prompt."
        raise UsageError(
            "batch_size", config.budget.batch_size, problem, f"Give a multiple of {group}."
        )
