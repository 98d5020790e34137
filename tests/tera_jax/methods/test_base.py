import dataclasses
from typing import Literal

import pytest

from tera_jax.methods.base import FullMethod, TargetLayer, bind
from tera_jax.methods.lora import LoRA
from tera_jax.methods.tera import TeRA
from tera_jax.methods.vera import VeRA


@dataclasses.dataclass(frozen=True)
class Settings(FullMethod):
    init: Literal["normal", "uniform"] = "normal"
    gain: float = 1.0


def test_choices_are_checked():
    assert Settings("uniform").init == "uniform"
    with pytest.raises(ValueError, match=r"init 'xavier'; choose one of \('normal', 'uniform'\)"):
        Settings("xavier")


def test_a_layer_is_named_by_its_path():
    assert TargetLayer(("layers", "q_proj"), (4, 4)).name == "layers/q_proj"


def test_bound_layers_know_what_they_share_and_the_largest_sides():
    shapes = {"a/q": (8, 8), "a/v": (8, 8), "a/k": (8, 4), "b/o": (8, 8), "b/down": (16, 8)}
    layers = [TargetLayer(tuple(name.split("/")), shape) for name, shape in shapes.items()]
    assert [layer.num_sharing for layer in bind(TeRA(num_modes=2), layers)] == [2, 2, 1, 1, 1]
    assert [layer.num_sharing for layer in bind(VeRA(), layers)] == [3, 3, 3, 2, 2]
    assert {layer.num_sharing for layer in bind(LoRA(rank=2), layers)} == {1}
    assert {layer.largest for layer in bind(VeRA(), layers)} == {(16, 8)}
    with pytest.raises(ValueError, match="rank 5, but the kernel"):
        bind(LoRA(rank=5), layers)
