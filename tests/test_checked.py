"""The import hook of ``conftest.py`` reaches every module of the library and the application."""

import importlib.util
import pkgutil

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

import tera_jax
import train
from tera_jax import quantize
from train import tasks


def test_every_module_is_loaded_with_its_annotations_checked():
    packages = (tera_jax, train)
    names = [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    assert len(names) > 100
    loaders = {name: type(importlib.util.find_spec(name).loader).__name__ for name in names}
    assert {name for name, loader in loaders.items() if "Jaxtyping" not in loader} == set()


@pytest.mark.parametrize(
    "call", [lambda: quantize.check("int8", "64"), lambda: tasks.task(jnp.zeros(1))]
)
def test_a_wrong_type_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
