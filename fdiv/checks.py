"""What a field must satisfy, said in one way."""

from __future__ import annotations

import functools
from typing import Any, TypeVar, get_args

import jax
import jax.numpy as jnp

from fdiv.ranges import LARGEST_SEED, Range, check_value
from fdiv.types import Components, Method, Model, Params, Policy, TokenMDP, UsageError


def at_least(field: str, value: float, least: float) -> None:
    """`value >= least`, finite and of a size that devices hold, or a `UsageError`."""
    check_value(field, value, None, Range(least=least))


def between(field: str, value: float, low: float, high: float) -> None:
    """`low < value < high`, or a `UsageError`."""
    check_value(field, value, None, Range(above=low, below=high))


def share(field: str, value: float) -> None:
    """`0 <= value <= 1`, or a `UsageError`."""
    check_value(field, value, None, Range(least=0, most=1))


def positive(field: str, value: float) -> None:
    """Finite and above zero, or a `UsageError`."""
    check_value(field, value, None, Range(above=0))


def seeding(field: str, value: int) -> None:
    """A number that a random key keeps whole, or a `UsageError`."""
    check_value(field, value, int, Range(least=0, most=LARGEST_SEED))


def one_of(field: str, value: str, choices: Any) -> None:
    """One of a `Literal`'s values, or a `UsageError`."""
    if value not in get_args(choices):
        raise UsageError(
            field, value, "is not a choice.", f"Use one of {', '.join(get_args(choices))}."
        )


def known_expert(mdp: TokenMDP, method: str) -> None:
    """The expert's law is there to be asked, or a `UsageError`."""
    if mdp.expert is None:
        fix = "Train a teacher, or use sft or an adversarial method."
        raise UsageError(
            "methods",
            method,
            "needs an expert whose probabilities are known, and here there is none.",
            fix,
        )


Value = TypeVar("Value")


def present(value: Value | None, what: str) -> Value:
    """The value, which is there: a task or components without it were to be refused before. Raises
    `ValueError` where it is not."""
    if value is None:
        raise ValueError(f"there is no {what} here")
    return value


def buildable(method: Method, components: Components) -> None:
    """The method's fields can be, and its components speak of the same symbols, or a
    `UsageError`."""
    method.check()
    one_vocabulary(components)


def one_vocabulary(components: Components) -> None:
    """Policy, expert and reference all give a law over the task's V symbols, or a `UsageError`."""
    mdp = components.mdp
    own = Model(components.policy, _initial(components.policy))
    reference = None if mdp.regulariser is None else mdp.regulariser.reference
    models = {"policy": own, "expert": mdp.expert, "reference": reference}
    for name, model in models.items():
        if model is not None and (size := _symbols(model)) != mdp.vocab:
            problem = f"has a law over that many symbols, and the task {mdp.vocab}."
            raise UsageError(
                f"{name}.vocab", size, problem, f"Give a {name} over the same vocabulary."
            )


def _symbols(model: Model) -> int:
    """V of a model's next-token laws, without computing any."""
    leaves, tree = jax.tree.flatten(model.params)
    return _symbols_of(
        model.policy, tree, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    )


# a deep network is slow to trace, and all methods of a run ask for the same


@functools.lru_cache(maxsize=32)
def _initial(policy: Policy) -> Params:
    """The shapes of a policy's parameters."""
    return jax.eval_shape(policy.init, jax.random.key(0))


@functools.lru_cache(maxsize=32)
def _symbols_of(policy: Policy, tree: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> int:
    params = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    if policy.readout is not None:  # which a network gives without its layers
        return jax.eval_shape(policy.readout, params).weights.shape[0]
    read = lambda params, tokens: policy.head(params, policy.trunk(params, tokens))
    return jax.eval_shape(read, params, jnp.zeros((1, 1), jnp.int32)).shape[-1]
