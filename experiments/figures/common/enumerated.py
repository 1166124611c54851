"""A components in which every expectation is a sum over all strings, against an expert of the policy's own
class."""

from __future__ import annotations

from typing import Any

from fdiv import exact
from fdiv import tokens as tk
from fdiv.types import Components, Model, Policy, TokenMDP


def components(space: exact.Space, policy: Policy, expert: Any) -> Components:
    """For objectives whose exact gradients are wanted; `expert` are the expert's params.
    Demonstrations are never asked for."""
    none = lambda key, n: tk.empty_prompts(n)
    mdp = TokenMDP(space.vocab, space.horizon, space.eos, none, none, none, Model(policy, expert))
    return Components(policy, mdp, exact.enumerator(space))
