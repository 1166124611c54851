"""Does fdiv compute a model as its authors' program does? `python -m experiments.check_model PATH`

Prints the mean and largest KL of the next token's laws, the largest difference of a logit and how
often the likeliest token is the same, against stored logits (golden.npz in the folder, or --golden)
or against transformers, where the extra hf-test is installed; how far a decoded step is from whole
strings; and on how many varied strings the tokens, and of how many conversations the text, are the
same. In float32 the largest KL has to be at most 1e-5, logits within 2e-3 and every likeliest token
and all words the same. Exit code 0, 1 where that does not hold, 2 where the model cannot be
read."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from experiments import cli

if TYPE_CHECKING:
    from experiments.models.folder import Checkpoint, Source
    from experiments.models.golden import Golden
    from fdiv.lm.spec import Spec

STEP = 1e-4  # nats: a decoded step's log-probs against whole strings', in float32
DECODED = 8  # tokens


@dataclasses.dataclass(frozen=True)
class Options:
    """Hold a model against another program's numbers."""

    path: Annotated[Path, tyro.conf.Positional]
    """A folder in the Hugging Face layout, or a GGUF file."""
    against: Literal["auto", "golden", "transformers"] = "auto"
    """Stored logits or a live transformers; auto: what is stored, where it is."""
    golden: Path | None = None
    """Stored logits; none: golden.npz in the folder."""
    write_golden: Path | None = None
    """A file to store transformers' logits in."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products; bfloat16 shows the floor under every divergence, and no bar is asked of it."""


def main(argv: list[str] | None = None) -> int:
    """Print the comparison; 1 where the bar is missed."""
    return cli.script("python -m experiments.check_model", Options, __doc__, check, argv)


def check(options: Options) -> int:
    """Compare and print."""
    from experiments.models import folder, golden
    from fdiv.lm import parity

    source = folder.source(options.path)
    checkpoint = folder.loaded(source)
    spec = checkpoint.spec
    print(
        f"{options.path}: {spec.family}, {spec.layers} layers, {_parameters(checkpoint):,} numbers"
    )
    reference = _reference(options, spec)
    own, apart = _computed(checkpoint, reference.tokens, options.precision)
    result = parity.compare(*reference.of(own))
    kept = "" if reference.kept is None else f", the {golden.TOP} likeliest tokens and the rest"
    print(f"against {reference.by}{kept}: {result}")
    print(f"a decoded step against whole strings: log-probs within {apart:.1e}")
    same = _words(options, source)
    if options.precision != "float32":
        print("no bar is asked of bfloat16")
        return 0
    holds = result.holds and apart <= STEP and same
    bar = f"a KL of {parity.MAX_KL:g}, logits within {parity.MAX_DIFFERENCE:g}, and 100 %"
    print("holds" if holds else f"does NOT hold: the bar is {bar}")
    return int(not holds)


def _parameters(checkpoint: Checkpoint) -> int:
    import jax

    return sum(x.size for x in jax.tree.leaves(checkpoint.params))


def _live(options: Options) -> bool:
    if options.against == "auto":
        return options.write_golden is not None or not _stored(options).is_file()
    return options.against == "transformers"


def _stored(options: Options) -> Path:
    """The file with another program's numbers: a folder holds its own."""
    if options.golden is not None or options.path.suffix != ".gguf":
        return options.golden or options.path / "golden.npz"
    return options.path.with_suffix(".npz")


def _reference(options: Options, spec: Spec) -> Golden:
    """What ours is held against."""
    from experiments.models import golden, golden_words

    if not _live(options):
        return golden.read(_stored(options))
    length = min(golden.LENGTH, spec.longest or golden.LENGTH)
    tokens = golden.tokens_of(options.path, spec.vocab, length=length)
    logits, by = golden.live(options.path, tokens)
    if options.write_golden is not None:
        more = golden_words.packed(golden_words.live(options.path))
        golden.write(options.write_golden, tokens, logits, by, **more)
    return golden.Golden(tokens, logits, None, by)


def _computed(
    checkpoint: Checkpoint, tokens: np.ndarray, precision: Literal["float32", "bfloat16"]
) -> tuple[np.ndarray, float]:
    """Log-probs of what follows each token [B, T, V], and how far those of the last few tokens are
    from them when decoded one by one."""
    import jax
    import jax.numpy as jnp

    from fdiv import tokens as tk
    from fdiv.lm import model
    from fdiv.lm.block import Compute
    from fdiv.types import PAD, Sequences

    policy = model.policy(checkpoint.spec, Compute(precision))
    strings = jnp.pad(jnp.asarray(tokens), [(0, 0), (0, 1)], constant_values=PAD)
    params = jax.tree.map(jnp.asarray, checkpoint.params)
    whole = np.asarray(jax.jit(lambda p: tk.distributions(policy, p, strings))(params))[:, 1:]
    begin = tokens.shape[1] - DECODED + 1  # the prompt's last token is the first to be given
    prompts = strings[:, :begin]

    @jax.jit
    def decode(params):
        mask = jnp.zeros(prompts.shape, bool)
        cache = policy.start(params, Sequences(prompts, mask, jnp.ones(len(prompts))), DECODED)
        step = lambda cache, token: policy.step(params, cache, token)
        return jax.lax.scan(step, cache, strings[:, begin - 1 : -1].T)[1].swapaxes(0, 1)

    decoded = np.asarray(decode(params))
    return whole, float(np.abs(decoded - whole[:, begin - 1 :]).max())


def _words(options: Options, source: Source) -> bool:
    """Whether varied strings are the same tokens, and conversations the same text, as by another
    program, and print on how many they are. True where there is nothing to compare."""
    from experiments.models import golden_words, words

    if _live(options):
        reference = golden_words.live(options.path)
    else:
        reference = golden_words.unpacked(_stored(options))
    if reference is None:
        return True
    agreement = golden_words.compare(reference, words.read(source))
    print(f"against {reference.by}, {agreement}")
    return agreement.holds


if __name__ == "__main__":
    sys.exit(main())
