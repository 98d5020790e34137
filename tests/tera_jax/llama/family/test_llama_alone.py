"""What other families need is not in the program of a Llama, whose speed so stays what it was."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from tera_jax.llama import Llama, LlamaConfig
from tests.marks import quick_only

CONFIG = LlamaConfig(*(128, 64, 96, 4, 4, 2, 16, 256, 1e-5))
FORWARD = {
    "mul": 18,
    "add": 10,
    "dot_general": 10,
    "rsqrt": 3,
    "cos": 1,
    "sin": 1,
    "concatenate": 2,
}
FORWARD |= {"tanh": 0, "logistic": 1, "select_n": 4, "div": 4, "scan": 1, "dynamic_slice": 0}
GRADIENT = {"mul": 60, "add": 11, "dot_general": 30, "rsqrt": 3, "cos": 1, "sin": 1}
GRADIENT |= {"concatenate": 4, "tanh": 0, "select_n": 5, "div": 11, "scan": 2, "dynamic_slice": 0}
"""The primitives of a Llama's loss and of its gradient, as they were before there were families."""
_SOME = (True, False, True, False)
FEATURES = {
    "caps of scores": {"attention_soft_cap": 5.0},
    "cap of logits": {"logit_soft_cap": 5.0},
    "scaled embedding": {"scaled_embedding": True},
    "embedding multiplier": {"embedding_multiplier": 2.0},
    "residual multiplier": {"residual_multiplier": 0.5},
    "logit divisor": {"logit_divisor": 2.0},
    "norm offset": {"norm_offset": 1.0},
    "norms on both sides": {"norms": "both"},
    "GELU": {"activation": "gelu_tanh"},
    "q and k norms": {"qk_norm": True},
    "biases": {"attention_bias": True},
    "windows in some layers": {"sliding_window": 3, "sliding_layers": _SOME},
    "layers without positions": {"nope_layers": _SOME},
    "a part of each head": {"rotary_share": 0.5},
}


def counts(jaxpr):
    """Primitives by name, those of inner programs too."""
    found = collections.Counter()
    for eqn in jaxpr.eqns:
        found[eqn.primitive.name] += 1
        for value in jax.tree.leaves([*eqn.params.values()], is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += counts(inner)
    return found


def program(config, gradient=False):
    model, tokens_BL = Llama(config), np.ones((2, 8), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens_BL)["params"]

    def loss(params):
        return model.apply({"params": params}, tokens_BL)[0].sum()

    return counts(jax.make_jaxpr(jax.grad(loss) if gradient else loss)(params).jaxpr)


@pytest.mark.parametrize(("gradient", "expected"), [(False, FORWARD), (True, GRADIENT)])
def test_a_llama_computes_what_it_computed_before(gradient, expected):
    found = program(CONFIG, gradient)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("feature", quick_only(["caps of scores"], FEATURES))
def test_a_feature_of_another_family_would_show(feature):
    found = program(dataclasses.replace(CONFIG, **FEATURES[feature]))
    assert {name: found[name] for name in FORWARD} != FORWARD
