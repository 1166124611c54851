"""python -m experiments.compare two-template

The misspecified class of Markov policies on the two-template language: every method but fairl
within .005 nats of the best that the class can do for its own divergence, in about a minute on two
cores. Add `--policy.name full` and the differences between divergences vanish: they are differences
of policy class. Recorded numbers: python -m experiments.reproduce two-template."""

from experiments.config import make_config

PRESETS = {
    "two-template": (
        "Two noisy templates behind a latent choice; strings enumerated.",
        make_config(),
    )
}
