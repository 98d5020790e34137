import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tera_jax.ops import dispatch

ROOT = Path(__file__).parents[3]
QUESTIONS = {"default_backend", "device_kind", "compute_capability"}


def chosen(x):
    return x + (1.0 if dispatch.takes_kernel(False) else 0.0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_what_is_traced_inside_sees_it_though_it_was_traced_before(wrap):
    function = jax.jit(wrap(chosen))
    x = jnp.zeros(2)
    assert function(x).tolist() == [0, 0]
    with dispatch.forced(True):
        assert function(x).tolist() == [1, 1]
        with dispatch.forced(False):
            assert function(x).tolist() == [0, 0]
            with dispatch.forced(None):
                assert not dispatch.takes_kernel(False)
                assert dispatch.takes_kernel(True)
        assert function(x).tolist() == [1, 1]
    assert function(x).tolist() == [0, 0]


def test_an_error_inside_ends_it():
    with pytest.raises(RuntimeError, match="inside"), dispatch.forced(True):
        raise RuntimeError("inside")
    assert not dispatch.takes_kernel(False)


def test_one_gpu_is_a_gpu_under_no_mesh_or_one_of_one_device(monkeypatch):
    assert not dispatch.on_gpu()
    assert not dispatch.on_one_gpu()
    assert dispatch.interpret()
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)
    assert not dispatch.interpret()
    assert dispatch.on_one_gpu()
    for devices in (1, 2):
        mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
        with jax.set_mesh(mesh):
            assert dispatch.on_one_gpu() == (devices == 1)


def test_half_precision_is_16_bits():
    halves = [
        name for name in ("float16", "bfloat16", "float32", "int16") if dispatch.is_half(name)
    ]
    assert halves == ["float16", "bfloat16"]


def test_nobody_else_asks():
    asking = {
        str(path.relative_to(ROOT))
        for package in ("tera_jax", "train")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in QUESTIONS
        and getattr(node.value, "id", "") != "dispatch"
    }
    assert asking == {"tera_jax/ops/dispatch.py"}
