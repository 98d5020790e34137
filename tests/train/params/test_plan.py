"""What a device holds, against arrays that lie on devices, and against sums by hand."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import pytest

from tera_jax import sharding
from tera_jax.llama import Llama
from tera_jax.llama.sharding import parameter_shardings
from tests.marks import quick_only
from train.config import OptimConfig
from train.params import count, plan
from train.params.shapes import MODELS, parts
from train.training.optim import optimizer
from train.training.steps import step as steps

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return str(tmp_path)


def held(tree):
    """Bytes on the first device."""
    first = jax.devices()[0]
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == first)


MIXED = "data=2,fsdp=2,tensor=2"
PLANS = list(itertools.product(["tera", "lora", "full"], ["data=8", MIXED, "fsdp=8"]))


@pytest.mark.parametrize(
    ("method", "mesh"),
    quick_only([("tera", "fsdp=8")], PLANS, names=2),
)
def test_the_plan_is_what_a_device_then_holds(tiny, method, mesh, monkeypatch):
    monkeypatch.setattr(sharding, "REPLICATED_BYTES", 2000)
    given = parts(tiny, method, {"num_modes": 2} if method == "tera" else {}, ["q_proj", "v_proj"])
    planned = plan.plan(given, mesh)
    devices = sharding.make_mesh(**sharding.parse_mesh(mesh))
    model = Llama(given.config, dtype=jnp.bfloat16)

    layout = parameter_shardings(given.params, devices)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 2), jnp.int32))["params"])
    base = jax.device_put(init(jax.random.key(0)), layout)
    layout = sharding.frozen_shardings(given.frozen, devices)
    frozen = jax.jit(given.adapter.init_frozen, out_shardings=layout)(base)
    adamw = optimizer(OptimConfig(), 5)
    state = steps.init_state(given.adapter.init_d(base, frozen), adamw)
    layout = steps.state_shardings(state, given.adapter, adamw, devices)
    state = jax.device_put(state, layout)
    trees = {"params": base, "frozen": frozen, "d": state.d, "optimizer": state.opt}
    assert planned.devices == 8
    assert planned.per_device == {name: held(tree) for name, tree in trees.items()}
    if method == "tera" and mesh == "fsdp=8":
        assert planned.per_device["frozen"] < planned.whole["frozen"]


def test_the_70b_on_eight_devices(capsys):
    count.main(["--model=llama-3-70b", "--mesh=fsdp=8", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["whole"]["params"] == 2 * 70_553_706_496
    # All but the scales of the norms are split.
    scales = 2 * 8192 * (2 * 80 + 1)
    assert found["per_device"]["params"] == (found["whole"]["params"] - scales) // 8 + scales
    assert found["per_device"]["d"] == found["whole"]["d"]


def test_the_405b_on_four_hosts_of_eight(capsys):
    count.main(["--model=llama-3.1-405b", "--mesh=fsdp=4,tensor=8"])
    text = capsys.readouterr().out
    assert "mesh data 1, fsdp 4, tensor 8: 32 devices" in text
    assert parts("llama-3.1-405b", "lora", {}, ["q_proj"]).config.num_layers == 126
    assert f"{2 * 405_853_388_800:,}" in text
    replicas = plan.plan(parts("llama-3.1-405b", "tera", {}, ["q_proj"]), "data=8,fsdp=4")
    assert replicas.devices == 32
    assert replicas.per_device["params"] > 200e9


def test_full_fine_tuning_splits_its_state(tiny):
    given = parts(tiny, "full", {}, [])
    one, many = (plan.plan(given, mesh).per_device for mesh in ("fsdp=1", "fsdp=8"))
    for name in ("params", "d", "optimizer"):
        assert many[name] < one[name] / 7


@pytest.mark.long
def test_the_step_is_compiled_from_shapes(tiny, capsys):
    argv = [f"--model={tiny}", "--set", "num_modes=2", "--compile", "--length=16"]
    count.main([*argv, "--mesh=fsdp=8"])
    text = capsys.readouterr().out
    assert "the compiled step on cpu: bytes of each device" in text
    given = parts(tiny, "tera", {"num_modes": 2}, ["q_proj", "v_proj"])
    memory, gathered = plan.compiled(given, "fsdp=8", length=16)
    assert "gathered at most: 64x128" in text or "gathered at most: 128x64" in text
    assert max(map(math.prod, gathered)) == 64 * 128  # a kernel of one layer
    assert plan.compiled(given, "data=8", length=16).gathered == []
    # The arguments are what stays on a device, the count of steps, and a row of the batch.
    batch = 4 * (16 + 3 * plan._TARGETS)
    assert memory["arguments"] == sum(plan.plan(given, "fsdp=8").per_device.values()) + 4 + batch
    assert plan.compiled(given, "fsdp=8", length=48).memory["temporary"] > memory["temporary"] > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mesh=fdsp=8"], "an axis 'fdsp'; the axes are data, fsdp, tensor"),
        (["--mesh=fsdp=3"], "fsdp=3 does not divide an axis of length 4096"),
        (["--mesh=fsdp=16", "--compile"], "force_host_platform_device_count=16"),
        (["--mesh=fsdp=8", "--compile", "--rows=9"], "--rows 9 is not a positive multiple"),
        (["--compile"], "--compile needs a --mesh"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(argv, message):
    with pytest.raises(ValueError, match=message):
        count.main(argv)


def test_the_shapes_of_the_large_models_are_the_published_ones():
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    published = {"llama-3-70b": (8192, 28672, 80, 64), "llama-3.1-405b": (16384, 53248, 126, 128)}
    for model, sizes in published.items():
        assert tuple(MODELS[model][name] for name in names) == sizes
        assert (MODELS[model]["num_key_value_heads"], MODELS[model]["vocab_size"]) == (8, 128256)
