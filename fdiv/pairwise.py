"""Two laws compared by pairs: which of two strings is p's and which is q's?

A pair (x, y) with x of p and y of q has the law p x q, in the other order q x p, and its log-ratio
is s(x) - s(y): a constant in s, which nothing says, is gone. The divergence of the two orders

    D_f(p x q || q x p)
        = max over s of E_{x ~ p, y ~ q}[ witness(s(x) - s(y)) - reward(s(y) - s(x)) ]

is one of p and q, zero where they are equal and nowhere else, and symmetric for a symmetric f. Its
maximum is at s = log p/q plus any constant, and by both laws of `fdiv.divergences`

    grad D = -E_{y ~ q}[ pay(y) grad log q(y) ],
    pay(y) = E_{x ~ p}[ reward(s(y) - s(x)) - witness(s(x) - s(y)) ].

Of js it is the game of the relativistic GAN: the maximum is log 2 less the logistic loss of
differences (also GAD's discriminator and SPIN's loss), pay softplus(s(y) - s(x)) less log 2. Of
either KL it is jeffreys itself, of jeffreys twice that. Sources: Jolicoeur-Martineau 2018 (arXiv
1807.00734) and 2020 (relativistic f-divergences, arXiv 1901.02474); what it is for any f is
computed here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import softplus

from fdiv.types import Divergence

WHOLE = 1 << 20  # pairs that are compared at once; of more, those of a row of strings at a time
# what D_f of the two orders is of single strings, up to a factor, where it is an f-divergence
SINGLE = {"forward_kl": "jeffreys", "reverse_kl": "jeffreys", "jeffreys": "jeffreys"}


def lost(d: Divergence, margin: Array) -> Array:
    """What is lost at s(x) - s(y), elementwise: `reward(-margin) - witness(margin)`; of js as
    published, -log sigmoid(margin), which is that and log 2."""
    return softplus(-margin) if d.name == "js" else d.reward(-margin) - d.witness(margin)


def paid(d: Divergence, real: Array, weight: Array) -> Divergence:
    """The member with `pay` as its reward, s of strings of p [n] and their weights [n] given."""

    def reward(s: Array) -> Array:
        ahead = s[..., None] - real.reshape((1,) * s.ndim + (-1,))
        return (d.reward(ahead) - d.witness(-ahead)) @ weight

    return d._replace(reward=reward)


def measured(d: Divergence, log_q: Array, log_p: Array) -> Array:
    """D_f(p x q || q x p) of two laws given in full, [..., N] each in nats."""
    if log_p.ndim == 1 and log_p.size**2 > WHOLE:
        row = lambda one: d.perspective(one[0] + log_q, one[1] + log_p).sum()
        return jax.lax.map(row, (log_p, log_q), batch_size=WHOLE // log_p.size).sum()
    first, second = log_p[..., :, None], log_q[..., None, :]
    one = first + second
    return d.perspective(one, jnp.swapaxes(one, -1, -2)).sum((-1, -2))
