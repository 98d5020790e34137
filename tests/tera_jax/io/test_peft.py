"""Adapters cross between this library and PEFT, both ways, with the same logits."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tera_jax import adapt, load_adapter
from tera_jax.io.adapter_files import save_peft
from tera_jax.llama import load_pretrained
from tera_jax.methods import TABLE
from tests import initial
from tests.margins import within
from tests.marks import quick_only
from tests.tera_jax.io.peft_models import (
    NORMS,
    TOKENS,
    made,
    our_base,
    torch_base,
    torch_logits,
    write_bases,
)

pytestmark = NORMS
ONE_COPY = pytest.mark.filterwarnings("ignore:Found missing adapter keys.*randlora_A:UserWarning")
"""PEFT's own file has RandLoRA's bases once for each module, and ours has the shared ones alone."""
TARGETS = ["q_proj", "v_proj"]
SETTINGS = {
    "lora": {"rank": 4, "alpha": 6.0},
    "dora": {"rank": 4, "alpha": 6.0},
    "pissa": {"rank": 4, "alpha": 6.0},
    "hira": {"rank": 3},
    "vera": {"rank": 12},
    "unilora": {"rank": 4, "length": 100, "init_bound": 0.3},
    "unires": {"rank": 4, "init_bound": 0.3},
    "fourierft": {"num_frequencies": 60, "scaling": 40.0},
    "randlora": {"rank": 5, "alpha": 8.0},
    "vblora": {"rank": 3, "num_vectors": 20, "vector_length": 8, "bank_bound": 0.3},
    "ln_tuning": {},
    "prompt": {"num_virtual_tokens": 5},
    "p_tuning": {"num_virtual_tokens": 5, "hidden_size": 24},
}
LORA = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS}
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
THEIRS = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "dora": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "pissa": lambda: peft.LoraConfig(**LORA, init_lora_weights="pissa"),
    "hira": lambda: peft.HiraConfig(r=3, target_modules=TARGETS),
    "vera": lambda: peft.VeraConfig(r=12, target_modules=TARGETS),
    "unilora": lambda: peft.UniLoraConfig(r=4, theta_d_length=100, target_modules=TARGETS),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=60, scaling=40.0, target_modules=TARGETS),
    "randlora": lambda: peft.RandLoraConfig(r=5, randlora_alpha=8, target_modules=TARGETS),
    "vblora": lambda: peft.VBLoRAConfig(
        r=3, num_vectors=20, vector_length=8, target_modules=TARGETS
    ),
    "ln_tuning": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM"),
    "prompt": lambda: peft.PromptTuningConfig(**PROMPT),
    "p_tuning": lambda: peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=24),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("base"))[False]


def our_logits(adapter, model, variables):
    count = adapter.num_virtual_tokens
    virtual_BP = np.broadcast_to(96 + np.arange(count), (len(TOKENS), count))
    tokens_BL = jnp.asarray(np.concatenate([virtual_BP, TOKENS], axis=1), jnp.int32)
    logits_BLV, _ = jax.jit(lambda v: adapter.apply(model, v, tokens_BL))(variables)
    return np.asarray(logits_BLV)


def assert_close(found, expected, base_logits):
    within(np.abs(found - expected).max(), 1e-12 * np.ptp(expected))
    changed = np.abs(expected[:, -base_logits.shape[1] :] - base_logits).max()
    assert changed > 1e-3 * np.ptp(base_logits)


def train(adapter, model, variables, steps=20):
    """Real steps on the next token of a few rows."""
    count = adapter.num_virtual_tokens
    virtual_BP = np.broadcast_to(96 + np.arange(count), (len(TOKENS), count))
    tokens_BL = jnp.asarray(np.concatenate([virtual_BP, TOKENS], axis=1), jnp.int32)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(d, opt):
        def loss(d):
            logits_BLV, _ = adapter.apply(model, {**variables, "d": d}, tokens_BL)
            logp = jax.nn.log_softmax(logits_BLV[:, count:-1])
            return -jnp.mean(jnp.take_along_axis(logp, tokens_BL[:, count + 1 :, None], axis=2))

        value, grads = jax.value_and_grad(loss)(d)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt = optimizer.update(grads, opt)
        return optax.apply_updates(d, updates), opt, value

    d = jax.tree.map(jnp.copy, variables["d"])
    opt, losses = optimizer.init(d), []
    for _ in range(steps):
        d, opt, value = step(d, opt)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    return {**variables, "d": d}


def trained(base, name):
    model, params = our_base(base)
    config, tokens = TABLE[name](**SETTINGS[name]), jnp.ones((1, 2), jnp.int32)
    targets = None if name == "ln_tuning" else TARGETS
    adapter = adapt(model, tokens, method=name, config=config, targets=targets)
    frozen = initial.frozen(adapter, params)
    variables = {"params": params, "frozen": frozen, "d": initial.d(adapter, params, frozen)}
    dtype = jnp.asarray(1.0).dtype
    variables = jax.tree.map(lambda v: v if v.dtype == jnp.int32 else v.astype(dtype), variables)
    return adapter, model, train(adapter, model, variables)


@ONE_COPY
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", quick_only(["lora"], SETTINGS))
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(base, tmp_path, name):
    adapter, model, variables = trained(base, name)
    save_peft(tmp_path / "a", adapter, variables, str(base))
    loaded = peft.PeftModel.from_pretrained(torch_base(base), tmp_path / "a")
    found = torch_logits(loaded)
    assert_close(found, our_logits(adapter, model, variables), torch_logits(torch_base(base)))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", quick_only([*THEIRS][::2], THEIRS))
def test_an_adapter_made_by_peft_gives_the_same_logits_here(base, tmp_path, name):
    expected = torch_logits(made(base, THEIRS[name](), tmp_path / "a"))
    model, params = our_base(base)
    adapter, variables = load_adapter(tmp_path / "a", params)
    assert adapter.name == ("prompt" if name == "p_tuning" else name)
    assert_close(our_logits(adapter, model, variables), expected, torch_logits(torch_base(base)))


KERNEL_METHODS = sorted(set(THEIRS) - {"prompt", "p_tuning"})  # test_prompt.py has those


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", quick_only(["lora", "pissa"], KERNEL_METHODS))
def test_gradients_through_the_whole_model_are_those_of_peft(base, tmp_path, name, monkeypatch):
    """PEFT's gradients, written into its own adapter file, are read as ours are laid out.

    In float64, as all comparisons with PEFT here. In float32 the principal part that PiSSA takes
    out is the worst: each side has its own SVD, and the part of rank R turns by the rounding of
    the kernel over the gap between singular values R and R + 1.
    """
    theirs = made(base, THEIRS[name](), tmp_path / "a").eval()
    model, params = our_base(base)
    adapter, variables = load_adapter(tmp_path / "a", params)
    weight_BLV = np.random.default_rng(1).normal(size=(*TOKENS.shape, 96))

    (theirs(torch.tensor(TOKENS)).logits * torch.tensor(weight_BLV)).sum().backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    monkeypatch.setattr(
        "tera_jax.io.peft.as_lora.require_pissa_base", lambda *_: None
    )  # no PiSSA factors
    _, expected = load_adapter(tmp_path / "gradients", params)

    def weighted(d):
        logits_BLV, _ = adapter.apply(model, {**variables, "d": d}, jnp.asarray(TOKENS, jnp.int32))
        return jnp.sum(logits_BLV * weight_BLV)

    found = jax.jit(jax.grad(weighted))(variables["d"])
    for ours, same in zip(jax.tree.leaves(found), jax.tree.leaves(expected["d"]), strict=True):
        assert np.abs(same).max() > 1e-3
        within(np.abs(ours - same).max(), 1e-12 * np.abs(same).max())


@pytest.fixture
def lora(base, tmp_path):
    """A directory with a LoRA adapter, and the base's params."""
    adapter, _, variables = trained(base, "lora")
    save_peft(tmp_path / "a", adapter, variables, str(base))
    return tmp_path / "a", variables["params"]


def test_missing_and_extra_arrays_are_refused(lora):
    path, params = lora
    arrays = load_file(path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"

    def write(changed):
        save_file(changed, path / "adapter_model.safetensors")

    write({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ValueError, match=f"lacks the array {name}"):
        load_adapter(path, params)
    write({key: value for key, value in arrays.items() if "layers.1." not in key})
    with pytest.raises(ValueError, match=r"lacks the array base_model\.model\.model\.layers\.1"):
        load_adapter(path, params)
    write({**arrays, "base_model.model.model.norm.weight": arrays[name]})
    with pytest.raises(
        ValueError, match=r"has arrays \['base_model\.model\.model\.norm\.weight'\]"
    ):
        load_adapter(path, params)
    write({**arrays, name.replace("layers.1", "layers.2"): arrays[name]})
    with pytest.raises(
        ValueError, match="that lora does not have on the modules that adapter_config"
    ):
        load_adapter(path, params)
    write({**arrays, name: arrays[name][:, :-1].copy()})
    with pytest.raises(ValueError, match=f"{name} in .* has shape"):
        load_adapter(path, params)
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(path, params)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors does not exist"):
        load_adapter(path, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "is of type 'IA3'"),
        ({"bias": "all"}, "sets bias to 'all'"),
        ({"rank_pattern": {"q_proj": 2}}, "q_proj.lora_A.weight in .* has shape .* the rank 2 and"),
        ({"modules_to_save": ["norm"]}, "sets modules_to_save to"),
    ],
)
def test_what_is_not_read_is_refused_by_name(lora, change, message):
    path, params = lora
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load_adapter(path, params)


def test_a_pissa_adapter_on_a_changed_base_is_refused(base, tmp_path):
    torch.manual_seed(1)
    theirs = peft.get_peft_model(torch_base(base), THEIRS["pissa"]())
    theirs.save_pretrained(tmp_path / "a")
    _, params = load_pretrained(base)
    adapter, variables = load_adapter(tmp_path / "a", params)
    zero = jax.tree.map(jnp.zeros_like, variables["d"])
    residual = adapter.merge({**variables, "d": zero})
    with pytest.raises(ValueError, match="the base was changed already"):
        load_adapter(tmp_path / "a", residual)


def test_vera_without_its_projections_is_refused(base, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specified to not save vera_A and vera_B")
        config = peft.VeraConfig(r=12, target_modules=TARGETS, save_projection=False)
        theirs = peft.get_peft_model(torch_base(base), config)
        theirs.save_pretrained(tmp_path / "a")
    _, params = load_pretrained(base)
    with pytest.raises(ValueError, match="save_projection=True"):
        load_adapter(tmp_path / "a", params)


def test_a_method_that_peft_lacks_is_refused(base, tmp_path):
    model, params = load_pretrained(base)
    adapter = adapt(model, jnp.ones((1, 2), jnp.int32), method="tera", targets=TARGETS)
    frozen = initial.frozen(adapter, params)
    variables = {"params": params, "frozen": frozen, "d": initial.d(adapter, params, frozen)}
    with pytest.raises(ValueError, match="PEFT has no method 'tera'"):
        save_peft(tmp_path / "a", adapter, variables, "base")
    assert not (tmp_path / "a").exists()
