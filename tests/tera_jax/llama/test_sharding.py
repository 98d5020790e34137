import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tera_jax import sharding
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.sharding import abstract_mesh, make_mesh, shard_bytes


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_every_path_has_its_layout():
    params = {
        "embed_tokens": {"embedding": leaf(32, 8)},
        "layers": {"self_attn": {"q_proj": {"kernel": leaf(2, 8, 8)}}},
    }
    shardings = parameter_shardings(params, make_mesh(2, 2, 2))
    assert shardings["embed_tokens"]["embedding"].spec == P("tensor", "fsdp")
    assert shardings["layers"]["self_attn"]["q_proj"]["kernel"].spec == P(None, "fsdp", "tensor")


def test_an_uncovered_path_is_refused():
    with pytest.raises(ValueError, match=r"covers parameter 'layers/router/kernel'.*\(8, 8\)"):
        parameter_shardings({"layers": {"router": {"kernel": leaf(8, 8)}}}, make_mesh())


def test_a_mesh_axis_that_does_not_divide_is_refused():
    params = {"lm_head": {"kernel": leaf(9, 8)}}
    with pytest.raises(ValueError, match="fsdp=2 does not divide an axis of length 9"):
        parameter_shardings(params, make_mesh(1, 2, 1))


@pytest.mark.parametrize("make", [make_mesh, abstract_mesh])
def test_bytes_of_a_device_follow_from_the_layout(make):
    params = {"lm_head": {"kernel": leaf(32, 8)}, "norm": {"scale": leaf(32)}}
    mesh = make(1, 4, 2)
    assert shard_bytes(params, parameter_shardings(params, mesh)) == 4 * (32 * 8 // 8 + 32)
    assert shard_bytes(params, jax.tree.map(lambda _: sharding.replicated(mesh), params)) == 4 * 288


def test_an_abstract_mesh_may_be_larger_than_what_is_there():
    params = {"lm_head": {"kernel": leaf(1024, 1024)}}
    layout = parameter_shardings(params, abstract_mesh(1, 64, 8))
    assert layout["lm_head"]["kernel"].shard_shape((1024, 1024)) == (16, 128)


def test_a_kernel_is_split_along_the_axes_that_its_name_says():
    """The two places that say it agree."""
    mesh = abstract_mesh(1, 2, 2)
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    for room, names in (("self_attn", attention), ("mlp", mlp)):
        for name in names:
            kernel = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
            tree = {"layers": {room: {name: {"kernel": kernel}}}}
            (layout,) = jax.tree.leaves(parameter_shardings(tree, mesh))
            assert layout.spec[1:] == sharding.kernel_axes(name)


def test_a_device_has_its_share_of_the_rows():
    assert sharding.rows_of_device(10) == 10
    with jax.set_mesh(make_mesh(2, 2, 2)):
        assert sharding.rows_of_device(12) == 3
        assert sharding.rows_of_device(13) == 4
