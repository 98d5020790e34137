import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tera_jax import sharding
from tera_jax.sharding import (
    frozen_shardings,
    make_mesh,
    parse_mesh,
)


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


def test_several_processes_use_all_devices(monkeypatch):
    assert make_mesh(1, 4, 1).size == 4
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="needs 4 devices, but the 2 processes have 8"):
        make_mesh(1, 4, 1)


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_mesh_is_read_from_a_text():
    assert parse_mesh("data=2,fsdp=4") == {"data": 2, "fsdp": 4, "tensor": 1}
    assert parse_mesh(" tensor=8 ") == {"data": 1, "fsdp": 1, "tensor": 8}
    assert parse_mesh("") == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fdsp=4", "an axis 'fdsp'; the axes are data, fsdp, tensor"),
        ("8", "an axis '8'"),
        ("data=2,data=4", "names data twice"),
        ("data=two", "gives data the size 'two'; write an integer"),
        ("data=2.0", "gives data the size '2.0'"),
        ("data=0", "gives data the size '0'"),
        ("data=-1", "gives data the size '-1'"),
        ("data", "gives data the size ''"),
    ],
)
def test_a_text_that_is_no_mesh_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mesh(text)


def test_frozen_arrays_are_split_when_they_are_large():
    frozen = {
        "shared": {"64x96": {"core": leaf(64, 96, 4), "factors": [leaf(8, 8)]}},
        "layers": {"self_attn": {"q_proj": {"pissa": {"a": leaf(99, 64, 4)}}}},
    }
    mesh = make_mesh(2, 4, 1)
    whole = frozen_shardings(frozen, mesh)
    assert {layout.spec for layout in jax.tree.leaves(whole)} == {P()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "REPLICATED_BYTES", 8 * 8 * 4)
        split = frozen_shardings(frozen, mesh)
        # Axes that 4 devices do not divide leave the array whole.
        odd = frozen_shardings({"shared": {"odd": leaf(99, 97)}}, mesh)
    assert split["shared"]["64x96"]["core"].spec == P(None, "fsdp")
    assert split["shared"]["64x96"]["factors"][0].spec == P()
    # The layers in front stay whole, although there are 99 of them.
    assert split["layers"]["self_attn"]["q_proj"]["pissa"]["a"].spec == P(None, "fsdp")
    assert odd["shared"]["odd"].spec == P()
