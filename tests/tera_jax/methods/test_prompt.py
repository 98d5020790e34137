"""Prompt tuning and P-tuning on a small Llama, against PEFT with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from tera_jax.adapters.factory import adapt
from tera_jax.llama import Llama, LlamaConfig, load_pretrained
from tera_jax.methods import NotMergeableError
from tera_jax.methods.prompt import PromptTuning, PTuning
from tests.margins import within
from train.params.shapes import MODELS

TOKENS = np.random.default_rng(0).integers(3, 96, (2, 7))
CONFIGS = {
    "prompt": PromptTuning(num_virtual_tokens=5),
    "p_tuning": PTuning(num_virtual_tokens=5, hidden_size=24),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    path = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(params=CONFIGS)
def parts(request, base):
    model, params = load_pretrained(base)
    adapter = adapt(
        model, jnp.ones((1, 2), jnp.int32), method=request.param, config=CONFIGS[request.param]
    )
    d = adapter.init_d(params, {})
    return adapter, model, {"params": params, "frozen": {}, "d": d}


def with_virtual(tokens_BL):
    virtual_BP = np.broadcast_to(96 + np.arange(5), (len(tokens_BL), 5))
    return jnp.asarray(np.concatenate([virtual_BP, tokens_BL], axis=1), jnp.int32)


def peft_model(base, name, d):
    """PEFT's model with our numbers in it, and its parameter for each of our arrays."""
    options = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    config = (
        peft.PromptTuningConfig(**options)
        if name == "prompt"
        else peft.PromptEncoderConfig(**options, encoder_hidden_size=24)
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
    )
    encoder = model.prompt_encoder["default"]
    pairs = [(encoder.embedding.weight, d["embedding"])]
    for layer, ours in zip(
        [] if name == "prompt" else encoder.mlp_head[::2], d.get("mlp", []), strict=True
    ):
        pairs += [(layer.weight, ours["kernel"].T), (layer.bias, ours["bias"])]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(torch.tensor(np.asarray(ours)))
    return model, [theirs for theirs, _ in pairs]


def ours_like_theirs(d):
    mlp = [a for layer in d.get("mlp", []) for a in (layer["kernel"].T, layer["bias"])]
    return [d["embedding"], *mlp]


def test_logits_and_gradients_equal_those_of_peft(base, parts):
    adapter, model, variables = parts
    d = variables["d"]["embed_tokens"][adapter.name]
    theirs, parameters = peft_model(base, adapter.name, d)
    weight = np.random.default_rng(1).standard_normal((2, 12, 96)).astype(np.float32)
    logits = theirs(torch.tensor(TOKENS)).logits
    (logits * torch.tensor(weight)).sum().backward()

    @jax.jit
    def loss(d):
        out, _ = adapter.apply(model, {**variables, "d": d}, with_virtual(TOKENS))
        return jnp.sum(out * weight), out

    (_, found), grads = jax.value_and_grad(loss, has_aux=True)(variables["d"])
    expected = logits.detach().numpy()
    within(np.abs(found - expected).max(), 1e-5 * np.abs(expected).max())
    grads = ours_like_theirs(grads["embed_tokens"][adapter.name])
    for ours, parameter in zip(grads, parameters, strict=True):
        gradient = parameter.grad.numpy()
        within(np.abs(ours - gradient).max(), 1e-5 * np.abs(gradient).max())
    without, _ = model.apply({"params": variables["params"]}, jnp.asarray(TOKENS, jnp.int32))
    assert np.abs(found[:, 5:] - without).max() > 1e-2 * np.abs(expected).max()


def test_a_row_without_virtual_tokens_is_the_bases(parts):
    adapter, model, variables = parts
    tokens_BL = jnp.asarray(TOKENS, jnp.int32)
    found, _ = adapter.apply(model, variables, tokens_BL)
    expected, _ = model.apply({"params": variables["params"]}, tokens_BL)
    assert jnp.array_equal(found, expected)


def test_nothing_can_be_merged(parts):
    adapter, _, variables = parts
    assert not adapter.mergeable
    with pytest.raises(NotMergeableError, match="adds tokens, not weights"):
        adapter.merge(variables)


def test_a_prompt_may_begin_as_tokens_of_the_vocabulary(base):
    model, params = load_pretrained(base)
    config = PromptTuning(num_virtual_tokens=3, init="vocabulary")
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method="prompt", config=config)
    prompt_PD = adapter.init_d(params, {}, seed=3)["embed_tokens"]["prompt"]["embedding"]
    table_VD = params["embed_tokens"]["embedding"]
    for row in prompt_PD:
        assert jnp.any(jnp.all(table_VD == row[None, :], axis=1))


def test_counts_on_llama_2_7b():
    """81,920 and 50,425,856: the paper's 0.0012 % and 0.7428 %."""
    config = LlamaConfig.from_hf(MODELS["llama-2-7b"])
    model, tokens = Llama(config), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    counts = {}
    for name in CONFIGS:
        d = jax.eval_shape(adapt(model, tokens, method=name).init_d, params, {})
        counts[name] = sum(leaf.size for leaf in jax.tree.leaves(d))
    assert counts == {"prompt": 81_920, "p_tuning": 50_425_856}


@pytest.mark.parametrize("config", [PromptTuning, PTuning])
def test_a_prompt_of_no_tokens_is_refused(config):
    with pytest.raises(ValueError, match="num_virtual_tokens 0"):
        config(num_virtual_tokens=0)
