"""A model ready to read and write text: its policy on a device and its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.devices import programs
from experiments.models import folder, words
from experiments.models.symbols import Bounds
from fdiv import rollout
from fdiv import tokens as tk
from fdiv.lm import model
from fdiv.types import Params, Policy, Sequences, UsageError


class Language(Protocol):
    """What text is to a model: `words.Words` and `symbols.Symbols`."""

    @property
    def vocab(self) -> int:
        """Tokens that the model has a law of."""
        ...

    @property
    def bos(self) -> int | None:
        """The token before every text."""
        ...

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end one."""
        ...

    @property
    def biases(self) -> Mapping[str, Any]:
        """Sampling options that come with the model, none of which is used."""
        ...

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Text -> tokens."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Text to continue -> tokens."""
        ...

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Tokens -> text."""
        ...

    def continued(self, prompt: Sequence[int], ids: Sequence[int], special: bool = False) -> str:
        """Tokens after a prompt -> text."""
        ...

    def chat(self, messages: Sequence[Any], **how: Any) -> str:
        """A conversation -> text."""
        ...

    def known(self) -> list[int]:
        """The tokens that stand for something."""
        ...


class Ready(NamedTuple):
    """Strings here are lists of tokens, the token that begins every text among them."""

    policy: Policy
    params: Params
    words: Language
    longest: int | None  # tokens of text that the model was made for
    bounds: Bounds | None = None  # of strings that can be no longer, and end


class Scores(NamedTuple):
    """Of a text of n tokens, in nats."""

    log_probs: np.ndarray  # [n - 1] of each token after the first
    entropy: np.ndarray  # [n] of the law of what follows each token


def read(path: Path) -> Ready:
    """A folder or a GGUF file, computed in float32. Raises `UsageError` where it cannot be read."""
    source = folder.source(path)
    spec = source.spec
    text = words.read(source)  # before the weights, which take the time
    params = jax.tree.map(jnp.asarray, folder.loaded(source).params)
    return Ready(model.policy(spec), params, text, spec.max_length)


def score(ready: Ready, ids: Sequence[int]) -> Scores:
    """What the model says of a text that is there. Raises `UsageError` for one without tokens, and
    where the weights give no finite numbers."""
    if not ids:
        raise UsageError(
            "text", "", "has no tokens, so there is nothing to score.", "Give some text."
        )

    def law(params: Params, tokens: Array) -> tuple[Array, Array]:
        # a column more, so that the law of what follows the last token is made too
        strings = jnp.pad(tokens, [(0, 0), (0, 1)])
        features = ready.policy.trunk(params, strings)[:, 1:]

        def of(x: Array, follows: Array) -> tuple[Array, Array]:
            log_probs = ready.policy.head(params, x)
            finite = jnp.where(jnp.isneginf(log_probs), 0.0, log_probs)
            entropy = -jnp.sum(jnp.exp(log_probs) * finite, axis=-1)
            return jnp.take_along_axis(log_probs, follows[..., None], axis=-1)[..., 0], entropy

        # pyrefly: ignore[bad-return]: as many arrays as `of` returns
        return tk.by_stretches(of, ready.words.vocab, features, strings[:, 1:])

    log_probs, entropy = computed(law, ready.params, jnp.asarray([list(ids)], jnp.int32))
    scores = Scores(np.asarray(log_probs)[0, :-1], np.array(entropy[0]))
    if ready.bounds is not None and ready.bounds.over(ids):
        scores.entropy[-1] = 0  # nothing follows
    _check_finite(np.concatenate(scores))
    return scores


def write(
    ready: Ready,
    prompt: Sequence[int],
    count: int,
    horizon: int,
    temperature: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
) -> list[tuple[list[int], list[float]]]:
    """`count` continuations of a prompt: their tokens, the one that ends a text among them, and the
    log-prob of each under the model at this temperature.

    Rows of the embedding without a token keep their probability in these, and are never chosen.
    Raises `UsageError` where the weights give no finite numbers."""
    if ready.bounds is not None:
        horizon = min(horizon, ready.bounds.room(prompt))
    choose = rollout.likeliest if greedy else rollout.draw
    known = ready.words.known()
    if len(known) < ready.words.vocab:
        choose = rollout.among(jnp.asarray(known), choose)
    policy = ready.policy
    if temperature != 1:
        policy = rollout.tempered(policy, temperature)
    sample = rollout.until_ended(horizon, ready.words.eos or None, choose)
    tokens = jnp.tile(jnp.asarray(list(prompt), jnp.int32), (count, 1))
    prompts = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(count))
    draws = lambda key, params: sample(key, policy, params, prompts)
    drawn = computed(draws, jax.random.key(seed), ready.params)
    strings, log_probs = jax.device_get(drawn)
    _check_finite(log_probs)
    return [
        (row[mask].tolist(), values[mask].tolist())
        for row, mask, values in zip(strings.tokens, strings.mask, log_probs)
    ]


def computed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's values by one compiled program, into which no frozen weights are written."""
    compiled = jax.jit(function)
    opened = programs.opened(compiled.trace(*arguments))
    if opened is None:
        return compiled(*arguments)
    return jax.jit(opened.function)(*opened.closed_over, *arguments)


def _check_finite(numbers: np.ndarray) -> None:
    if not np.all(np.isfinite(numbers)):
        problem = "is among the log-probs that the model gives: its weights are not finite."
        raise UsageError("model", float("nan"), problem, "Fetch the weights again.")
