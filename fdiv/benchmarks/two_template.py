"""The two-template language: the smallest task on which divergences disagree, because no Markov
policy can express it.

Expert over V^T strings: `w T_A + (1-w) T_B`. In T_A each position is token 0 with probability 1 -
noise, else uniform over the others; T_B is the same with token 1. The template is a latent chosen
once per string. `valid`: at most one position differs from all-0, or at most one from all-1;
`mode_b`: at most one differs from all-1."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import tokens as tk
from fdiv.ranges import LONGEST, MOST_SYMBOLS, check_ranges, ranged
from fdiv.types import PAD, Model, Policy, Sequences, ShortWay, TokenMDP


@dataclasses.dataclass(frozen=True)
class TwoTemplate:
    """Two noisy templates behind a latent choice."""

    vocab: int = ranged(3, least=2, most=MOST_SYMBOLS)
    """Number of tokens V (at least 2)."""
    horizon: int = ranged(6, least=1, most=LONGEST)
    """Length T of every string."""
    weight: float = ranged(0.6, above=0, below=1)
    """Probability w of template A."""
    noise: float = ranged(0.1, above=0, below=1)
    """Probability that a position leaves its template."""

    def build(self) -> TokenMDP:
        """The task, its expert known exactly."""
        check_ranges(self)
        return TokenMDP(
            vocab=self.vocab,
            horizon=self.horizon,
            eos=None,
            prompts=lambda key, n: tk.empty_prompts(n),
            demos=self._sample,
            held_out=self._sample,
            expert=Model(_expert(), self._parameters()),
            statistics={
                "valid": _valid,
                "mode_b": lambda x: (_misses(x, 1) <= 1).astype(jnp.float32),
            },
        )

    def _parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """log prior [2] and log emission [2, V], float64 so that exact work in double precision is
        exact."""
        emission = np.full((2, self.vocab), np.log(self.noise / (self.vocab - 1)))
        emission[[0, 1], [0, 1]] = np.log1p(-self.noise)
        return np.log([self.weight, 1 - self.weight]), emission

    def _sample(self, key: jax.Array, n: int) -> Sequences:
        latent_key, noise_key, token_key = jax.random.split(key, 3)
        template = jax.random.bernoulli(latent_key, 1 - self.weight, (n, 1)).astype(jnp.int32)
        leaves = jax.random.bernoulli(noise_key, self.noise, (n, self.horizon))
        shift = 1 + _integers(token_key, (n, self.horizon), self.vocab - 1)
        return tk.completions(jnp.where(leaves, (template + shift) % self.vocab, template), None)


def _integers(key: jax.Array, shape: tuple[int, ...], end: int) -> jax.Array:
    """`jax.random.randint` from 0 to `end` - 1. It draws two words for each number, of which the
    first has no say where `end` is a power of two: there the second alone is drawn."""
    if end & (end - 1):
        return jax.random.randint(key, shape, 0, end, jnp.int32)
    _, second = jax.random.split(key)
    return (jax.random.bits(second, shape, jnp.uint32) % np.uint32(end)).astype(jnp.int32)


def _misses(x: Sequences, template: int) -> jax.Array:
    return (x.mask & (x.tokens != template)).sum(1)


def _valid(x: Sequences) -> jax.Array:
    return ((_misses(x, 0) <= 1) | (_misses(x, 1) <= 1)).astype(jnp.float32)


def _expert() -> Policy:
    """The mixture as an autoregressive law: the posterior over the latent, then its emission."""

    def evidence(params, token):
        """log p(token | latent), 0 at padding. [..., 2]; of no token, NaN."""
        rows = tk.real(params[1]).T.at[jnp.maximum(token, 0)]
        own = rows.get(mode="fill", fill_value=jnp.nan)
        return jnp.where((token == PAD)[..., None], 0.0, own)

    def posterior(params, log_joint):
        prior = tk.real(params[0])
        return jax.nn.log_softmax(log_joint + prior.reshape([1] * (log_joint.ndim - 1) + [2]))

    def predict(params, log_joint):
        emission = jnp.expand_dims(tk.real(params[1]), range(log_joint.ndim - 1))
        return jax.nn.logsumexp(posterior(params, log_joint)[..., None] + emission, axis=-2)

    def trunk(params, tokens):
        return jnp.cumsum(evidence(params, tk.previous(tokens)), axis=1)

    def taken(params, tokens):
        of_each = posterior(params, trunk(params, tokens)) + evidence(params, tokens)
        return jax.nn.logsumexp(of_each, axis=-1)

    def step(params, log_joint, token):
        log_joint = log_joint + evidence(params, token)
        return log_joint, predict(params, log_joint)

    def start(params, prompts, horizon):
        return jnp.zeros((prompts.tokens.shape[0], 2))

    return Policy(
        init=lambda key: (),
        trunk=trunk,
        head=predict,
        start=start,
        step=step,
        short=ShortWay(trunk, predict, taken),
    )
