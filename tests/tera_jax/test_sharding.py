import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tera_jax.sharding import make_mesh, parameter_shardings


def test_the_mesh_has_three_named_axes():
    mesh = make_mesh(2, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh().size == 1


@pytest.mark.parametrize("sizes", [(3, 3, 1), (16, 1, 1)])
def test_a_mesh_of_more_devices_than_there_are_is_refused(sizes):
    with pytest.raises(ValueError, match="but JAX sees 8"):
        make_mesh(*sizes)


def test_a_mesh_size_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        make_mesh(0, 1, 1)


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
