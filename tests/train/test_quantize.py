"""Runs on a quantised base: trained, decoded, exported; and SmolLM2's loss on one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import float8, quantize
from tera_jax.llama import load_pretrained
from tests.margins import within
from train import data, export
from train.config import default, parse, to_dict
from train.data import records
from train.generation.inference_model import inference_model
from train.training import run as runs
from train.training.loop import fit, held_out_loss, to_device
from train.training.steps.step import make_eval_step, make_train_step

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
TOKENS_BL = np.random.default_rng(0).integers(3, 1000, (2, 24)).astype(np.int32)


@pytest.fixture
def quantised(tiny_config):
    """A ``ConfigDict`` of a run of a few seconds on a base of two layers in nf4."""
    tiny_config.model.quantize = "nf4"
    tiny_config.model.block = 16
    tiny_config.model.remat = "dots"
    return tiny_config


def examples(run):
    train, valid = records.split(run.config.data)
    return [data.tokenize(part, run.tokenizer, run.config.data) for part in (train, valid)]


@pytest.mark.long
def test_a_run_trains_decodes_and_exports(quantised, tmp_path):
    run = runs.build(parse(quantised))
    assert "layers in nf4" in runs.describe(run)
    assert f"{quantize.size(quantize.dequantize(run.params)):,} parameters" in runs.describe(run)
    train, valid = examples(run)
    eval_step = make_eval_step(run.model, run.adapter, run.mesh, run.params)
    with jax.set_mesh(run.mesh):
        state, _ = runs.init_train_state(run, 1)
        before = held_out_loss(run, eval_step, state.d, valid)
        fit(run, tmp_path / "run", train, valid)
        step, d = runs.restore_best(run, tmp_path / "run")
        after = held_out_loss(run, eval_step, d, valid)
    assert step == 12
    assert after < before - 0.5

    # The model for inference leaves the base as it is, and does what the merged weights do.
    _, variables, apply = inference_model(run, d)
    assert quantize.any_quantized(variables["params"])
    merged = jax.jit(run.adapter.merge)(run.variables(d))
    expected, _ = run.model.apply({"params": merged}, TOKENS_BL)
    found, _ = apply(variables, TOKENS_BL)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.ptp(expected), rtol=1e-4)

    export.export(run, d, "hf", tmp_path / "hf")
    _, loaded = load_pretrained(tmp_path / "hf")
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(merged), strict=True):
        assert jnp.array_equal(a, b)
    plain = quantize.dequantize(run.params)["layers"]["self_attn"]["q_proj"]["kernel"]
    assert not jnp.array_equal(loaded["layers"]["self_attn"]["q_proj"]["kernel"], plain)


def test_a_run_in_fp8_learns_and_exports_what_it_stands_for(quantised, tmp_path):
    quantised.model.update(quantize="fp8", block=quantize.BLOCK)
    run = runs.build(parse(quantised))
    assert "layers in fp8" in runs.describe(run)
    train, _ = examples(run)
    state, optimizer = runs.init_train_state(run, 8)
    step = make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
    stream = data.DataIterator(train, run.config.loop.batch_size, 0, run.config.data)
    losses = []
    with jax.set_mesh(run.mesh):
        for _ in range(8):
            state, metrics = step(state, run.params, run.frozen, to_device(next(stream), run))
            losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] - 0.1
    # Decoding multiplies the base as it is; an export is merged in float32 and rounds no inputs.
    _, variables, _ = inference_model(run, state.d)
    assert quantize.in_fp8(variables["params"])
    export.export(run, state.d, "hf", tmp_path / "hf")
    _, loaded = load_pretrained(tmp_path / "hf")
    plain = quantize.dequantize(run.params)
    merged = jax.jit(run.adapter.merge)({**run.variables(state.d), "params": plain})
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(merged), strict=True):
        assert jnp.array_equal(a, b)
    query = loaded["layers"]["self_attn"]["q_proj"]["kernel"]
    assert not jnp.array_equal(query, plain["layers"]["self_attn"]["q_proj"]["kernel"])


def test_training_in_both_layouts_changes_nothing_that_is_kept(quantised):
    quantised.model.update(quantize="fp8", block=quantize.BLOCK)
    built = runs.build(parse(quantised))
    quantised.model.fp8_layouts = 2
    other = runs.build(parse(quantised))
    assert other.meta._replace(config={}) == built.meta._replace(config={})
    assert jax.tree.structure(other.params) == jax.tree.structure(built.params)
    state, optimizer = runs.init_train_state(built, 8)
    batch = to_device(data_batch(built), built)
    found = []
    for run, layouts in ((built, 1), (runs.unrolled(other), 2)):
        arrays = jax.tree.leaves(run.params["layers"])
        assert sum(leaf.dtype == float8.E4M3 for leaf in arrays) == 7 * layouts
        step = make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
        with jax.set_mesh(run.mesh):
            first = jax.tree.map(jnp.copy, state)
            found.append(step(first, run.params, run.frozen, batch)[1])
        other = run
    assert jax.device_get(found[0]) == jax.device_get(found[1])
    assert jax.tree.structure(runs.rolled(other).params) == jax.tree.structure(built.params)


def data_batch(run):
    train, _ = examples(run)
    return next(data.DataIterator(train, run.config.loop.batch_size, 0, run.config.data))


def test_layouts_are_those_of_fp8(quantised):
    quantised.model.fp8_layouts = 2
    with pytest.raises(ValueError, match=r"config.model.fp8_layouts is 2, but quantize is 'nf4'"):
        parse(quantised)
    quantised.model.update(quantize="fp8", block=quantize.BLOCK, fp8_layouts=3)
    with pytest.raises(ValueError, match=r"config.model.fp8_layouts is 3; choose 1 or 2"):
        parse(quantised)


@pytest.mark.long
def test_a_sharded_run_equals_one_device(quantised):
    def losses(**mesh):
        quantised.mesh.update(mesh)
        quantised.model.block = 8
        run = runs.build(parse(quantised))
        state, optimizer = runs.init_train_state(run, 3)
        step = make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
        stream = data.DataIterator(examples(run)[0], run.config.loop.batch_size, 0, run.config.data)
        found = []
        with jax.set_mesh(run.mesh):
            for _ in range(3):
                batch = to_device(next(stream), run)
                state, metrics = step(state, run.params, run.frozen, batch)
                found.append(float(metrics.loss))
        return found, run.params["layers"]["mlp"]["gate_proj"]["kernel"].values

    one, whole = losses()
    many, values = losses(data=2, fsdp=2, tensor=2)
    np.testing.assert_allclose(many, one, rtol=2e-5)
    assert values.addressable_shards[0].data.size == whole.size // 4
    np.testing.assert_array_equal(values, whole)
    assert len(set(one)) == 3


def losses_by_kind(run, rows, **options):
    state, _ = runs.init_train_state(run, 1)
    losses = {}
    for kind in ("none", "int8", "nf4"):
        params = run.params if kind == "none" else quantize.quantize(run.params, kind, **options)
        kept = run._replace(params=params)
        eval_step = make_eval_step(run.model, run.adapter, run.mesh, params)
        with jax.set_mesh(run.mesh):
            losses[kind] = held_out_loss(kept, eval_step, state.d, rows)
    assert len(set(losses.values())) == 3
    return losses


def test_a_small_base_keeps_its_loss_in_few_bits(quantised):
    quantised.model.quantize = "none"
    run = runs.build(parse(quantised))
    losses = losses_by_kind(run, examples(run)[1], block=16)
    within(abs(losses["int8"] / losses["none"] - 1), 0.005)
    within(abs(losses["nf4"] / losses["none"] - 1), 0.05)


@pytest.mark.long
@pytest.mark.smollm2
def test_smollm2_keeps_its_loss_in_few_bits(smollm2_path):
    config = default("tera")
    config.model.path = str(smollm2_path)
    config.model.dtype = "float32"  # a CPU has no products of bfloat16
    config.data.path = str(QUICKSTART / "train.json")
    config.data.validation_path = str(QUICKSTART / "validation.json")
    config.data.max_prompt = 72
    config.data.max_response = 8
    config.evaluate.batch_size = 16
    run = runs.build(parse(config))
    train, valid = examples(run)
    rows = [*train[:48], *valid]  # of 16 rows the loss moves by 5 % either way
    losses = losses_by_kind(run, rows)
    within(abs(losses["int8"] / losses["none"] - 1), 0.005)
    within(abs(losses["nf4"] / losses["none"] - 1), 0.05)


def test_what_a_quantised_base_cannot_do_is_refused_before_it_is_loaded(quantised):
    quantised.model.quantize = "fp4"
    with pytest.raises(
        ValueError, match=r"config.model.quantize is 'fp4'; choose one of \('none',"
    ):
        parse(quantised)
    quantised.model.quantize = "nf4"
    quantised.model.block = 15
    with pytest.raises(ValueError, match=r"config.model.block is 15; it must be even"):
        parse(quantised)
    quantised.model.quantize = "fp8"
    quantised.model.block = 16
    with pytest.raises(ValueError, match=r"config.model.block is 16, but quantize 'fp8' has one"):
        parse(quantised)
    quantised.model.block = quantize.BLOCK
    assert parse(quantised).model.quantize == "fp8"
    quantised.model.quantize = "nf4"
    quantised.model.block = 16
    tree = to_dict(parse(quantised))
    tree["method"] = {"name": "full", "targets": ()}
    with pytest.raises(ValueError, match="'full' trains the base's own weights, which"):
        parse(tree)
    assert parse(tree | {"model": tree["model"] | {"quantize": "none"}})
