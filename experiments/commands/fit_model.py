"""What would training a model take on each device? `python -m experiments.fit_model MODEL [flags]`

Compiles one update of likelihood training over a mesh, for as many devices as are asked for, and
prints the memory that it takes on each, what the devices send each other, and how long an update
would take of devices of a stated pace. Nothing is trained and no weights are read: of the model a
config.json is enough, and the devices are made up from this machine's processors. The plan is that
of XLA's compiler for them, so an accelerator's differs by its own kernels. Exit code 0, or 2 where
it cannot be done, with the reason."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import cli
from fdiv.checks import at_least, positive
from fdiv.types import UsageError

if TYPE_CHECKING:
    from fdiv.lm.spec import Spec

MOST = 512  # devices that are made up


def _llama(width: int, hidden: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """The config of a Llama 3."""
    return {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": width // heads,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "torch_dtype": "bfloat16",
        **more,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": _llama(2048, 8192, 16, 32, tie_word_embeddings=True),  # of Llama 3.2 1B
    "llama-8b": _llama(4096, 14_336, 32, 32),  # of Llama 3.1 8B
    "llama-70b": _llama(8192, 28_672, 80, 64),
}
SHAPES["llama-1b"]["rope_scaling"]["factor"] = 32.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an update over a mesh and print its memory."""

    model: Annotated[str, tyro.conf.Positional]
    """A folder with a config.json, a GGUF file, or llama-1b, llama-8b, llama-70b."""
    data: int = 1
    """Parts of each batch."""
    fsdp: int = 8
    """Parts of each batch and of each parameter."""
    tensor: int = 1
    """Parts of each layer's heads and hidden units."""
    batch_size: int = 8
    """Strings of an update."""
    length: int = 1024
    """Tokens of a string."""
    rank: int = 8
    """Of adapters on all seven kernels; 0: all weights are trained."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of products."""
    pace: float = 989.0
    """TFLOP/s of a device, as its maker states them (of an H100 in bfloat16)."""
    node: int = 8
    """Devices of a node."""
    node_link: float = 450.0
    """GB/s that a device sends within its node, as stated (of an H100)."""
    link: float = 50.0
    """GB/s that it sends to other nodes, as stated (400 Gbit/s)."""


def main(argv: list[str] | None = None) -> int:
    """Print the memory; `USAGE_EXIT` where there can be none."""
    return cli.script("python -m experiments.fit_model", Options, __doc__, fit, argv)


def _check(options: Options) -> int:
    """The number of devices."""
    for name in ("data", "fsdp", "tensor", "batch_size", "node"):
        at_least(name, getattr(options, name), 1)
    at_least("rank", options.rank, 0)
    at_least("length", options.length, 2)
    positive("pace", options.pace)
    positive("link", options.link)
    positive("node_link", options.node_link)
    count = options.data * options.fsdp * options.tensor
    if count > MOST:
        problem = f"times data and tensor are more than {MOST} devices."
        raise UsageError("fsdp", options.fsdp, problem, "Give less.")
    return count


def fit(options: Options) -> int:
    """Compile and print."""
    count = _check(options)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from experiments.devices import MeshLayout, memory

    if len(jax.devices()) < count:
        problem = f"are more devices than the {len(jax.devices())} that jax was begun with."
        raise UsageError("fsdp", count, problem, "Begin a new process.")
    spec = _spec(options.model)
    axes = {"data": options.data, "fsdp": options.fsdp, "tensor": options.tensor}
    layout = MeshLayout(1, jax.devices(), axes)
    trained, frozen, program = _compiled(options, spec, layout)
    plan = program.memory_analysis()
    whole = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    whole += plan.output_size_in_bytes - plan.alias_size_in_bytes
    print(f"{options.model}: {spec.family}, {spec.layers} layers; {trained:,} numbers are trained")
    print(f"and {frozen:,} frozen, in {spec.dtype if frozen else 'float32'}; {layout}")
    print(
        f"an update of {options.batch_size} x {options.length} tokens, products in "
        f"{options.precision}: {memory.spelled(whole)} on each device, of which "
        f"{memory.spelled(plan.argument_size_in_bytes)} before it begins"
    )
    _print_step(options, spec, count, program.as_text())
    return 0


def _print_step(options: Options, spec: Spec, count: int, text: str) -> None:
    """What devices send each other, and an update's time where nothing else held it up."""
    from experiments.devices import collectives, memory
    from experiments.models import counts

    sent = collectives.read(text, options.node)
    each = ", ".join(
        f"{sent.count[kind]:,} {kind} {memory.spelled(size)}" for kind, size in sent.bytes.items()
    )
    print(
        f"each device sends {memory.spelled(sent.total)}, {memory.spelled(sent.within)} of it "
        f"within its node of {options.node}: {each or 'nothing'}"
    )
    d = counts.Dimensions.of(spec)
    length, rank = options.length, options.rank or None
    needed = counts.training(d, options.batch_size, length, length - 1, rank).flops / count
    again = counts.forward(d, options.batch_size, length, 0).flops / count  # layers, once more
    working = (needed + again) / (1e12 * options.pace)
    sending = sent.within / (1e9 * options.node_link)
    sending += (sent.total - sent.within) / (1e9 * options.link)
    print(
        f"{needed + again:.3g} operations on each, {again / (needed + again):.0%} of them layers "
        f"computed again: {1e3 * working:,.0f} ms at {options.pace:,.0f} TFLOP/s; "
        f"{1e3 * sending:,.0f} ms of sending at {options.node_link:,.0f} GB/s within a node and "
        f"{options.link:,.0f} GB/s beyond it"
    )
    least, most = max(working, sending), working + sending
    useful = needed / (1e12 * options.pace)
    print(
        f"an update: {1e3 * least:,.0f} ms where sending hides behind computing, "
        f"{1e3 * most:,.0f} ms where it does not; {useful / most:.0%} to "
        f"{useful / least:.0%} of the stated pace"
    )


def _spec(model: str) -> Spec:
    from experiments.models import pretrained
    from fdiv.lm.spec import from_config

    return from_config(SHAPES[model]) if model in SHAPES else pretrained.source(Path(model)).spec


def _compiled(options: Options, spec: Spec, layout: Any) -> tuple[int, int, Any]:
    """(numbers trained, numbers frozen, an update's program), from shapes alone."""
    import jax
    import jax.numpy as jnp
    import optax

    from fdiv.learner import learner
    from fdiv.lm import lora, model
    from fdiv.lm.block import Compute
    from fdiv.objectives.max_likelihood import max_likelihood
    from fdiv.types import LearnerState, Params, Policy, Sequences

    own = model.policy(spec, Compute(options.precision, remat=True))
    key = jax.random.key(0)
    weights = jax.eval_shape(own.init, key)
    base: Params = ()
    if options.rank:
        narrow = lambda x: jax.ShapeDtypeStruct(x.shape, spec.dtype)
        base = layout.shaped(jax.tree.map(narrow, weights), runs=0)

    def policy_over(base: Params) -> Policy:
        if not options.rank:
            return own
        return lora.policy(own, base, spec, lora.Lora(options.rank).adapters())

    def update(base: Params, state: LearnerState, batch: Sequences) -> LearnerState:
        objective = max_likelihood(policy_over(base), spec.vocab)
        return learner(objective, optax.adam(1e-4)).update(state, layout.rows(batch))[0]

    def begun(key: jax.Array) -> LearnerState:
        params = policy_over(base).init(key)
        step = jnp.zeros((), jnp.int32)
        return LearnerState(step, key, params, optax.adam(1e-4).init(params), ())

    # one run, which is the first dimension
    state = jax.eval_shape(jax.vmap(begun), jax.random.split(key, 1))
    rows = (options.batch_size, options.length)
    of: Any = jax.ShapeDtypeStruct
    batch = Sequences(of(rows, jnp.int32), of(rows, bool), of(rows[:1], jnp.float32))
    program, _ = layout.compile(
        update, base, layout.shaped(state, runs=1), batch, shared=(0, 2), donate=(1,)
    )
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    return count(state.params), count(base), program


if __name__ == "__main__":
    sys.exit(main())
