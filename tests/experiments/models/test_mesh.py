"""A language model's stacked parameters are parted by the names that every transformer's have."""

import jax
import pytest
from jax.sharding import PartitionSpec
from language_models import spec_of

from experiments.devices.mesh import MeshLayout
from fdiv.lm import model

EXPECTED = {
    "embedding": (None, "tensor", "fsdp"),
    "head": (None, "tensor", "fsdp"),
    "layers/attention/query/kernel": (None, None, "fsdp", "tensor", None),
    "layers/attention/out/kernel": (None, None, "tensor", None, "fsdp"),
    "layers/mlp/gate/kernel": (None, None, "fsdp", "tensor"),
    "layers/mlp/down/kernel": (None, None, "tensor", "fsdp"),
    "layers/norm_mlp/scale": (),
    "norm/scale": (),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_are_kept_whole_and_the_rest_is_parted(name):
    layout = MeshLayout(1, jax.devices(), {"data": 1, "fsdp": 1, "tensor": 1})
    params = jax.eval_shape(
        jax.vmap(model.policy(spec_of("llama")).init), jax.random.split(jax.random.key(0), 1)
    )
    leaves, _ = jax.tree_util.tree_flatten_with_path(layout._shardings(params))
    specs = {"/".join(key.key for key in path[1:]): leaf.spec for path, leaf in leaves}
    assert specs[name] == PartitionSpec(*EXPECTED[name])
