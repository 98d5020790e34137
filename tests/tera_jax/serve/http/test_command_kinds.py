"""What the command serves beside a store on one device: PEFT's adapter, fp8, a mesh."""

import functools

import httpx
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from benchmarks.soak_world import make
from tera_jax import load_adapter
from tera_jax.adapters.interceptor import apply_base
from tera_jax.llama import GenerationConfig, load_pretrained, load_tokenizer
from tera_jax.llama.decode.generate import generate, left_pad
from tera_jax.serve import transfer
from tera_jax.serve.store import Store
from tests.tera_jax.serve.http.processes import started

pytestmark = pytest.mark.long
FLAGS = ("--slots=2", "--max-length=32", "--dtype=float32", "--served-name=base")
PROMPT, NEW = "the cat", 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, a store, and an adapter of PEFT's that changes the model."""
    found = tmp_path_factory.mktemp("kinds")
    make(found, 4)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(found / "tiny", dtype="float32")
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(found / "mine")
    return found


def offline(place, directory=None, quantize="none"):
    """The greedy text of an adapter, or of the base, by ``generate``."""
    path = place / "tiny"
    tokenizer = load_tokenizer(path)
    model, params = load_pretrained(path, jnp.float32, quantize=quantize)
    variables, apply = {"params": params}, functools.partial(apply_base, model)
    if directory is not None:
        adapter, variables = load_adapter(directory, params)
        apply = functools.partial(adapter.apply, model)
    given = tokenizer(PROMPT)["input_ids"]
    decoding = GenerationConfig(max_new_tokens=NEW)
    rows = map(jnp.asarray, left_pad([given], 0, len(given)))
    found = generate(model, variables, *rows, decoding, eos_id=(), pad_id=0, apply=apply)
    return tokenizer.decode(np.asarray(found)[0].tolist(), skip_special_tokens=True)


def texts(place, names, *flags):
    """Of a server with these flags."""
    body = {"prompt": PROMPT, "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
    with started(place, *FLAGS, *flags) as (_, address):
        found = [
            httpx.post(f"{address}/v1/completions", json={**body, "model": name}, timeout=120)
            for name in names
        ]
    return [each.json()["choices"][0]["text"] for each in found]


def test_an_adapter_of_peft(place):
    found = texts(place, ("mine", "base"), f"--adapter={place / 'mine'}")
    assert found == [offline(place, place / "mine"), offline(place)]
    assert found[0] != found[1]
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "tiny", dtype="float32")
    model = peft.PeftModel.from_pretrained(base, place / "mine")
    tokenizer = load_tokenizer(place / "tiny")
    given = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    for _ in range(NEW):
        new = model(given).logits[:, -1].argmax(-1, keepdim=True)
        given = torch.cat([given, new], 1)
    assert found[0] == tokenizer.decode(given[0, -NEW:].tolist())


def test_a_quantised_base_with_an_adapter_of_peft(place):
    found = texts(place, ("mine", "base"), f"--adapter={place / 'mine'}", "--quantize=fp8")
    assert found == [offline(place, place / "mine", "fp8"), offline(place, quantize="fp8")]
    assert found != [offline(place, place / "mine"), offline(place)]


def test_a_store_on_a_mesh(place):
    """Of 8 devices: both adapters and the base."""
    with Store.open(place / "store") as store:
        for name in ("n1", "n3"):
            transfer.export(store, name, place / name)
    flags = (f"--store={place / 'store'}", "--mesh=data=2,fsdp=2,tensor=2", "--slots=4")
    found = texts(place, ("n1", "n3", "base"), *flags)
    assert found == [offline(place, place / "n1"), offline(place, place / "n3"), offline(place)]
    assert len({*found}) == 3
