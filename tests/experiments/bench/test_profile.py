"""Where time goes: events within events, what a compiler says of its operations, and a real
trace."""

import dataclasses
import os
from importlib import metadata
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import profile, works
from experiments.bench.profile import Event

PROGRAM = """
HloModule jit_f

FileNames
1 "/somewhere/site-packages/flax/linen/module.py"
2 "/somewhere/fdiv/lm/block.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=133 end_line=133 column=1 end_column=2}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}
3 {file_location_id=1 parent_frame_id=3}


%fused_computation (param_0: f32[4,4]) -> f32[4,4] {
  %param_0 = f32[4,4]{1,0} parameter(0)
  %copy.1 = f32[4,4]{1,0} copy(%param_0), metadata={op_name="jit(f)/while/body/reshape"}
  ROOT %dot.2 = f32[4,4]{1,0} dot(%copy.1, %param_0), metadata={op_name="jit(f)/jit(main)/transpose(jvp(mlp))/dot_general" stack_frame_id=2}
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  ROOT %fusion.7 = f32[4,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_computation
}
"""  # noqa: E501


def test_an_operation_has_its_own_time_alone():
    """A loop of 10 holds two bodies of 3, of which one holds 1; then 5 by itself."""
    events = [
        Event("loop", 0, 10), Event("body", 1, 3), Event("inner", 2, 1), Event("body", 5, 3),
        Event("alone", 20, 5),
    ]  # fmt: skip
    assert profile.own_times(events[::-1]) == {
        "loop": (1, 4),
        "body": (2, 5),
        "inner": (1, 1),
        "alone": (1, 5),
    }


def test_threads_are_added_and_the_costliest_comes_first():
    threads = [[Event("a", 0, 1e9)], [Event("a", 0, 1e9), Event("b", 2e9, 6e9)]]
    first, second = profile.costliest(threads, {"b": "a product"})
    assert first == ("b", 1, 6.0, 0.75, "a product")
    assert second == ("a", 2, 2.0, 0.25, "")


def test_a_fusion_is_called_by_what_costs_in_it():
    said = profile.described(PROGRAM)
    assert said["fusion.7"] == "f32[4,4] mlp/dot_general backward fdiv/lm/block.py:133"
    assert said["copy.1"] == "f32[4,4] f/reshape"
    assert profile._places(PROGRAM) == {
        "1": "fdiv/lm/block.py:133",
        "2": "fdiv/lm/block.py:133",
        "3": "",
    }


def test_a_real_trace(tmp_path):
    """Ten products in a loop are most of it."""
    product = lambda x, n: jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ x), x)
    x = jnp.full((128, 128), 0.01)
    compiled = jax.jit(product).lower(x, 10).compile()
    compiled(x, 10).block_until_ready()
    threads = profile.traced(lambda: compiled(x, 10).block_until_ready(), tmp_path)
    operations = profile.costliest(threads, profile.described(compiled.as_text()))
    assert sum(x.share for x in operations) == pytest.approx(1)
    assert max(x.count for x in operations) >= 10
    assert any("dot_general" in x.what for x in operations[:3])


def test_operations_of_a_line_are_taken_together():
    """Of two layers, 3 s and 1 s of 8; what is elsewhere by itself, the way back too."""
    what = "f32[2] mlp/dot_general fdiv/lm/block.py:7"
    back = "f32[2] mlp/dot_general backward fdiv/lm/block.py:7"
    each = [(3, what), (1, what), (2, back), (2, "f32[2] add")]
    operations = [
        profile.Operation(f"x.{i}", 10, seconds, seconds / 8, what)
        for i, (seconds, what) in enumerate(each)
    ]
    assert [(x.name, x.count, x.share) for x in profile.lines(operations)] == [
        ("fdiv/lm/block.py:7", 20, 0.5),
        ("fdiv/lm/block.py:7 backward", 10, 0.25),
        ("elsewhere", 10, 0.25),
    ]


@pytest.mark.parametrize(
    ("plugins", "flags", "then"),
    [([], "--a=1", "--a=1"), (["xla_tpu"], "", ""),
     (["xla_cuda13"], "--a=1", "--a=1 --xla_gpu_enable_command_buffer="),
     (["xla_rocm7"], "", "--xla_gpu_enable_command_buffer="),
     (["xla_cuda13"], "--xla_gpu_enable_command_buffer=FUSION",
      "--xla_gpu_enable_command_buffer=FUSION")],
)  # fmt: skip
def test_a_gpu_names_its_operations(plugins, flags, then, monkeypatch):
    named = [metadata.EntryPoint(name, "", "jax_plugins") for name in plugins]
    monkeypatch.setattr(metadata, "entry_points", lambda group: named)
    monkeypatch.setenv("XLA_FLAGS", flags)
    profile.show_operations()
    assert os.environ["XLA_FLAGS"] == then


@pytest.mark.wide
def test_the_table_of_a_preset(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profile, "SECONDS", 0.05)
    assert profile.main("two-template:sft", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "of operations an update" in " ".join(printed.split())
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.wide
def test_the_table_of_a_work(tmp_path, capsys, monkeypatch):
    """Sampling of a small model, in the precision that was asked for: its products are among the
    costliest."""
    small = dataclasses.replace(works.SHAPES["w64"], width=16, hidden=48, batch=2, new=4)
    monkeypatch.setitem(works.SHAPES, "w64", small)
    monkeypatch.setattr(profile, "SECONDS", 0.05)
    with mock.patch.object(profile, "_work", wraps=profile._work) as built:
        assert profile.main("sampling:w64", tmp_path, precision="bfloat16", over=1) == 0
    assert built.call_args.args[1] == dataclasses.replace(small, precision="bfloat16")
    printed = capsys.readouterr().out
    assert "sampling, w64:" in printed
    assert "dot_general" in printed
