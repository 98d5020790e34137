"""What a user may get wrong, and the one line that says so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tera_jax import adapt, quantize, save_adapter
from tera_jax.adapters.quantized_merge import merge_quantized
from tera_jax.llama import Llama, stacking
from tera_jax.methods import TABLE
from tests.tera_jax.adapters.small_llama import CONFIG

pytestmark = pytest.mark.usefixtures("unchecked")
MODEL = Llama(CONFIG)
TOKENS_BL = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 5)), jnp.int32)
PARAMS = jax.jit(MODEL.init)(jax.random.key(0), TOKENS_BL)["params"]
SETTINGS = {
    "lora": {"rank": 4},
    "tera": {"num_modes": 2},
    "prompt": {"num_virtual_tokens": 3},
    "full": {},
}


def made(name):
    config = TABLE[name](**SETTINGS[name])
    adapter = adapt(MODEL, TOKENS_BL, method=name, config=config)
    frozen = adapter.init_frozen(PARAMS)
    return adapter, {"params": PARAMS, "frozen": frozen, "d": adapter.init_d(PARAMS, frozen)}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("missing", ["params", "frozen", "d"])
def test_a_missing_collection_is_named(name, missing, tmp_path):
    adapter, variables = made(name)
    variables = {key: value for key, value in variables.items() if key != missing}
    calls = [
        lambda: adapter.apply(MODEL, variables, TOKENS_BL),
        lambda: adapter.merge(variables),
        lambda: save_adapter(tmp_path / "a", adapter, variables, "base"),
    ]
    if name in ("lora", "tera"):
        calls.append(lambda: adapter.materialize(variables, 10))
        calls.append(lambda: merge_quantized(adapter, variables))
    for call in calls:
        with pytest.raises(ValueError, match=rf"the variables \[.*\] lack {missing}; pass"):
            call()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["lora", "tera", "prompt"])
def test_collections_of_something_else_are_named(name):
    adapter, v = made(name)
    whole = {"params": PARAMS}  # what model.init gives, not its "params"
    parameter = "embedding" if name == "prompt" else "kernel"
    with pytest.raises(ValueError, match=f"params has no {parameter} of layer '.*', but params"):
        adapter.init_d(whole, v["frozen"])
    with pytest.raises(ValueError, match="does not see its arrays in collection 'd'"):
        adapter.apply(MODEL, {**v, "d": {}}, TOKENS_BL)
    if name == "prompt":
        return
    with pytest.raises(ValueError, match="params has no kernel of layer"):
        adapter.merge({**v, "params": whole})
    with pytest.raises(ValueError, match=f"d has no arrays of {name} for layer 'layers/self_attn/"):
        adapter.merge({**v, "d": {}})
    split = stacking.split(PARAMS, keep=True)
    with pytest.raises(ValueError, match=r"layers of params are a list; pass .*stacked\(params\)"):
        adapter.merge({**v, "params": split})
    base = quantize.quantize(PARAMS, "int8", block=16)
    with pytest.raises(ValueError, match=f"d has no arrays of {name}"):
        merge_quantized(adapter, {**v, "params": base, "d": {}})


def test_an_empty_frozen_collection_is_named():
    adapter, v = made("tera")
    for call in (
        lambda: adapter.apply(MODEL, {**v, "frozen": {}}, TOKENS_BL),
        lambda: adapter.merge({**v, "frozen": {}}),
        lambda: adapter.init_d(PARAMS, {}),
    ):
        with pytest.raises(ValueError, match=r"frozen lacks the shared set '32x.*init_frozen"):
            call()


def test_an_nnx_model_is_told_the_way():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"flax\.nnx\..*Linear, not a flax\.linen\.Module.*to_lin"):
        adapt(model, x, targets="*")
    with pytest.raises(ValueError, match=r"is a builtins\.dict, not a"):
        adapt({"params": {}}, x)


def test_keywords_are_the_methods_the_models_or_refused():
    with pytest.raises(ValueError, match=r"rank belongs to the method; .*config=LoRA\(rank=8\)"):
        adapt(MODEL, TOKENS_BL, method="lora", rank=8)
    with pytest.raises(ValueError, match=r"'rank': .*Llama \(tokens_BL, .*\) nor .*TeRA \(tens"):
        adapt(MODEL, TOKENS_BL, rank=8)
    with pytest.raises(ValueError, match=r"'target': .* nor a field of Full \(it has none\)"):
        adapt(MODEL, TOKENS_BL, method="full", target="q_proj")
    adapter = adapt(MODEL, tokens_BL=TOKENS_BL, segment_ids_BL=TOKENS_BL, targets="q_proj")
    assert len(adapter.layers) == 1


def test_a_keyword_that_passes_through_the_model_is_named_too():
    model = nn.Sequential([nn.Dense(3)])  # takes any keyword and hands it on
    with pytest.raises(ValueError, match=r"Sequential does not take these example inputs:.*rnk"):
        adapt(model, jnp.ones((2, 4)), targets="*", rnk=8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "Llama does not take these example inputs: .*'tokens_BL'"),
        ((TOKENS_BL[0],), r"tokens of shape \(5,\); pass rows of them \(B, L\)"),
        (("text",), "Llama does not take these example inputs: .*str"),
        ((TOKENS_BL.astype(jnp.float32),), "token ids are integers, not float32"),
        ((TOKENS_BL,) * 6, "Llama does not take these example inputs: .*positional arguments"),
    ],
)
def test_wrong_example_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        adapt(MODEL, *inputs)


def test_inputs_of_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="Dense does not take these example inputs"):
        adapt(nn.Dense(3), jnp.ones(()), targets="*")


def test_a_text_is_one_pattern():
    one = adapt(MODEL, TOKENS_BL, targets="q_proj", config=TABLE["tera"](num_modes=2))
    assert one == adapt(MODEL, TOKENS_BL, targets=["q_proj"], config=TABLE["tera"](num_modes=2))
    with pytest.raises(ValueError, match="target 'q_prj' names no linear layer"):
        adapt(MODEL, TOKENS_BL, targets="q_prj")


def test_layers_that_no_method_adapts_are_named_where_nothing_matches():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x_BLD):
            x_BLD = nn.Conv(4, (3,), name="conv")(x_BLD)
            x_BC = nn.DenseGeneral(6, axis=(-2, -1), name="both")(x_BLD)
            return nn.Dense(2, name="head")(x_BC)

    x_BLD = jnp.ones((2, 5, 3))
    message = (
        r"'conv' names no linear layer .* are: head; not adapted are both \(DenseGen.*conv \(C"
    )
    with pytest.raises(ValueError, match=message):
        adapt(Net(), x_BLD, targets="conv")
    assert [layer.name for layer in adapt(Net(), x_BLD, targets="*", method="vera").layers] == [
        "head"
    ]


def test_token_ids_out_of_range_are_refused_where_they_are_known():
    adapter, v = made("lora")
    for wrong in (64, 10_000, -1):
        tokens_BL = TOKENS_BL.at[1, 2].set(wrong)
        for call in (
            lambda t: MODEL.apply({"params": PARAMS}, t),
            lambda t: MODEL.apply({"params": PARAMS}, np.asarray(t)),
            lambda t: adapter.apply(MODEL, v, t),
        ):
            with pytest.raises(ValueError, match=rf"token id {wrong} is out of range: .* 0 to 63"):
                call(tokens_BL)
    logits_BLV, _ = MODEL.apply({"params": PARAMS}, jnp.full((1, 2), 63))
    assert jnp.all(jnp.isfinite(logits_BLV))
    # Traced, they are not known: as before, one beyond the vocabulary gives NaN.
    traced, _ = jax.jit(MODEL.apply)({"params": PARAMS}, TOKENS_BL.at[1, 2].set(64))
    assert jnp.all(jnp.isnan(traced[1, 2:]))
    assert jnp.all(jnp.isfinite(traced[0]))


def test_virtual_tokens_are_in_range_under_their_method_alone():
    adapter, v = made("prompt")
    virtual_BP = jnp.broadcast_to(64 + jnp.arange(3), (2, 3))
    tokens_BL = jnp.concatenate([virtual_BP, TOKENS_BL], axis=1)
    found, _ = adapter.apply(MODEL, v, tokens_BL)
    traced, _ = jax.jit(lambda v, t: adapter.apply(MODEL, v, t))(v, tokens_BL)
    np.testing.assert_allclose(found, traced, atol=1e-4 * np.ptp(found))
    assert jnp.all(jnp.isfinite(found))
    with pytest.raises(ValueError, match="token id 64 is out of range"):
        MODEL.apply({"params": PARAMS}, tokens_BL)
    with pytest.raises(ValueError, match=r"token id 67 is out of range: the 67 ids .* 0 to 66"):
        adapter.apply(MODEL, v, tokens_BL.at[0, 0].set(67))
    with pytest.raises(ValueError, match="token id -3 is out of range"):
        adapter.apply(MODEL, v, tokens_BL.at[0, 0].set(-3))
