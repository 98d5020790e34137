import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tera_jax import load_adapter
from tera_jax.io.orbax import load_orbax
from tera_jax.llama import load_pretrained
from tests.margins import within
from train import export
from train.config import EXPORTS, default, parse
from train.training import run as runs

TOKENS = np.random.default_rng(0).integers(3, 1000, (2, 24))


@pytest.fixture
def trained(finished):
    run, workdir = finished
    _, d = runs.restore_best(run, workdir)
    return run, run.variables(d)


def logits(run, variables):
    scores, _ = jax.jit(lambda v: run.adapter.apply(run.model, v, TOKENS.astype(np.int32)))(
        variables
    )
    return np.asarray(scores)


def call(workdir, kind, output, *more):
    export.main([f"--workdir={workdir}", f"--format={kind}", f"--output={output}", *more])


def test_the_merged_export_gives_the_same_logits_in_torch(finished, trained, tmp_path, capsys):
    run, variables = trained
    call(finished[1], "hf", tmp_path / "hf")
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "hf"
    assert report["step"] == 12
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        found = loaded(torch.tensor(TOKENS)).logits.numpy()
    expected = logits(run, variables)
    within(np.abs(found - expected).max(), 2e-4 * np.ptp(expected))
    base, _ = run.model.apply({"params": run.params}, TOKENS.astype(np.int32))
    assert np.abs(found - np.asarray(base)).max() > 1e-2 * np.ptp(expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "cat: red?"
    assert tokenizer(text)["input_ids"] == run.tokenizer(text)["input_ids"]
    sampling = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (sampling.do_sample, sampling.eos_token_id) == (False, run.eos_ids[0])


def test_the_orbax_export_restores_to_the_merged_bits(finished, trained, tmp_path):
    run, variables = trained
    call(finished[1], "orbax", tmp_path / "orbax")
    found = load_orbax(tmp_path / "orbax", run.params)
    merged = jax.jit(run.adapter.merge)(variables)
    for a, b in zip(*map(jax.tree.leaves, (found, merged)), strict=True):
        assert jnp.array_equal(a, b)
    config = json.loads((tmp_path / "orbax" / "config.json").read_text())
    assert config["model_type"] == "llama"
    kernels = [tree["layers"]["self_attn"]["q_proj"]["kernel"] for tree in (found, run.params)]
    assert not jnp.array_equal(*kernels)


@pytest.mark.parametrize("more", [[], ["--with-frozen"]])
def test_the_adapter_export_round_trip_is_exact(finished, trained, tmp_path, more):
    run, variables = trained
    call(finished[1], "adapter", tmp_path / "adapter", *more)
    model, params = load_pretrained(run.config.model.path)
    adapter, found = load_adapter(tmp_path / "adapter", params)
    assert adapter == run.adapter
    for a, b in zip(*map(jax.tree.leaves, (found, variables)), strict=True):
        assert jnp.array_equal(a, b)
    scores, _ = jax.jit(lambda v: adapter.apply(model, v, TOKENS.astype(np.int32)))(found)
    assert np.array_equal(scores, logits(run, variables))
    description = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    assert description["base"]["name"] == "tiny"


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_output_that_is_not_empty_is_refused_before_anything_is_loaded(
    finished, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(runs, "build", None)
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        call(finished[1], kind, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.long
def test_an_export_from_another_mesh_is_the_same_to_rounding(finished, tmp_path, capsys):
    _, workdir = finished
    for name, mesh in (("one", "data=1"), ("many", "fsdp=2,tensor=2")):
        call(workdir, "hf", tmp_path / name, f"--mesh={mesh}")
    one, many = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "many"))
    assert one.keys() == many.keys()
    changed = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_allclose(many[changed], one[changed], atol=1e-6)
    plain = [key for key in one if "q_proj" not in key and "v_proj" not in key]
    assert all(one[key].tobytes() == many[key].tobytes() for key in plain)
    assert len(plain) < len(one)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; name the --workdir"):
        call(tmp_path, "hf", tmp_path / "hf")


def inode(path):
    return (path / "adapter.safetensors").stat().st_ino


def test_a_run_exports_once(trained, tmp_path):
    run, variables = trained
    d = variables["d"]
    path = export.export_once(run, d, "adapter", tmp_path)
    first = inode(path)
    assert export.export_once(run, d, "adapter", tmp_path) == path
    assert inode(path) == first
    other = jax.tree.map(lambda leaf: leaf + 1, d)  # of a run that was made longer
    export.export_once(run, other, "adapter", tmp_path)
    _, found = load_adapter(path, run.params)
    for a, b in zip(*map(jax.tree.leaves, (found["d"], other)), strict=True):
        assert jnp.array_equal(a, b)
    assert inode(tmp_path / "earlier" / "adapter") == first


@pytest.mark.parametrize("how", ["empty", "cut", "missing", "no record", "torn record", "killed"])
def test_what_is_not_finished_is_not_taken_for_an_export(trained, tmp_path, how):
    run, variables = trained
    path, record = tmp_path / "adapter", tmp_path / "exports.json"
    if how in ("empty", "killed"):
        (tmp_path / ("adapter" if how == "empty" else ".adapter.partial")).mkdir()
    if how == "killed":
        (tmp_path / ".adapter.partial" / "adapter.json").write_text("{")
    else:
        export.export_once(run, variables["d"], "adapter", tmp_path)
    if how == "cut":
        (path / "adapter.json").write_text("")
    if how == "missing":
        (path / "adapter.safetensors").unlink()
    if how == "no record":
        record.unlink()
    if how == "torn record":
        record.write_text(record.read_text()[:-9])
    export.export_once(run, variables["d"], "adapter", tmp_path)
    _, found = load_adapter(path, run.params)
    for a, b in zip(*map(jax.tree.leaves, (found["d"], variables["d"])), strict=True):
        assert jnp.array_equal(a, b)
    moved = how in ("cut", "missing", "no record", "torn record")
    assert (tmp_path / "earlier" / "adapter").is_dir() == moved
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("method", "format", "message"),
    [
        ("tera", "peft", "'peft' of method 'tera', which PEFT has not: written are lora,"),
        ("toplora", "hf", "'hf' of method 'toplora', which no merged weights can hold"),
        ("toplora", "orbax", "'orbax' of method 'toplora'"),
        ("toplora", "gguf", "'gguf' of method 'toplora', which no merged weights can hold"),
        ("prompt", "hf", "'hf' of method 'prompt'"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_anything_is_loaded(method, format, message):
    config = default(method)
    config.model.path, config.data.path, config.export = "model", "records.json", (format,)
    with pytest.raises(ValueError, match=message):
        export.require_possible(parse(config))
    config.export = ("adapter",)
    export.require_possible(parse(config))
