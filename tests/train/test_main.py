"""What train.main refuses before it loads a model."""

import errno
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from safetensors.numpy import load_file, save_file

from train import evaluate, main
from train.config import default, parse
from train.data import records
from train.training import lock
from train.training import run as runs
from train.training.data_identity import keep_data_identity
from train.training.stops import Stopped
from train.training.workdir import init_workdir, saved_config


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("model.path", "no/such/model", FileNotFoundError, "no/such/model"),
        ("method.targets", ("x_proj",), ValueError, "target 'x_proj' names no linear layer"),
        ("method.tensorizations", ("32|5x7",), ValueError, r"'32\|5x7' folds a kernel \(32, 35\)"),
        ("mesh.data", 16, ValueError, "needs 16 devices, but JAX sees 8"),
        ("mesh.tensor", 3, ValueError, "mesh axis tensor=3 does not divide an axis of length 16"),
    ],
)
def test_a_run_that_cannot_be_is_refused_by_name(tiny_config, field, value, error, message):
    tiny_config.loop.batch_size = tiny_config.evaluate.batch_size = 16
    section, key = field.split(".")
    tiny_config[section][key] = value
    with pytest.raises(error, match=message):
        runs.build(parse(tiny_config))


def test_missing_data_is_refused_by_name(tiny_config, tmp_path):
    tiny_config.data.path = str(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        records.split(parse(tiny_config).data)


class BuiltError(Exception):
    """The base was to be loaded."""


@pytest.fixture
def start(tiny_config, tmp_path, monkeypatch):
    """``train.main`` up to where the base would be loaded."""

    def build(*_):
        raise BuiltError

    monkeypatch.setattr(main.config_flags, "get_config_filename", lambda _: "tiny.py")
    monkeypatch.setattr(main, "_PRINT_CONFIG", SimpleNamespace(value=False))
    monkeypatch.setattr(main, "_WORKDIR", SimpleNamespace(value=str(tmp_path / "run")))
    for name in ("_COORDINATOR", "_NUM_PROCESSES", "_PROCESS_ID"):
        monkeypatch.setattr(main, name, SimpleNamespace(value=None))
    monkeypatch.setattr(runs, "build", build)

    def start(rows):
        (tmp_path / "records.json").write_text(json.dumps(rows))
        tiny_config.data.path = str(tmp_path / "records.json")
        tiny_config.evaluate.path = None
        monkeypatch.setattr(main, "_CONFIG", SimpleNamespace(value=tiny_config))
        main.main([])

    return start


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_ends_with_its_status_also_where_the_log_lies_on_it(start, monkeypatch, full):
    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "build", no_room)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # to have it back
    if full:
        monkeypatch.setattr(main.distributed, "log", no_room)
    with pytest.raises(Stopped) as stopped:
        start(ROWS)
    assert stopped.value.code == 74
    assert "the disk is full" in stopped.value.message
    assert "there is no checkpoint yet; make room, and the same command" in stopped.value.message


def test_a_second_command_is_refused_before_anything_is_read(start, tmp_path):
    with lock.held(tmp_path / "run"), pytest.raises(FileExistsError, match="in use by process"):
        start(ROWS)
    with pytest.raises(BuiltError):
        start(ROWS)


def test_a_workdir_that_cannot_be_written_to_is_refused_first(start, monkeypatch):
    monkeypatch.setattr(lock.os, "access", lambda *_: False)
    monkeypatch.setattr(records, "sources", None)
    with pytest.raises(ValueError, match=r"cannot be written to .*; choose another --workdir"):
        start(ROWS)


def test_an_export_that_cannot_be_is_refused_first(start, tiny_config, monkeypatch):
    monkeypatch.setattr(records, "sources", None)
    tiny_config.export = ("peft",)
    with pytest.raises(ValueError, match="'peft' of method 'tera', which PEFT has not"):
        start(ROWS)


ROWS = [{"instruction": f"question {i}", "output": "true"} for i in range(40)]


def test_what_is_read_and_cut_is_said_before_the_base_is_loaded(start, capsys):
    with pytest.raises(BuiltError):
        start([{**row, "note": ""} for row in ROWS])
    said = capsys.readouterr().out
    assert "40 records of kind alpaca (instruction, output); not used: note\n" in said
    rows = [line.split()[:2] for line in said.splitlines()]
    assert ["training", "24"] in rows
    assert ["held-out", "16"] in rows


def test_bad_records_are_refused_before_the_base_is_asked_for(start, tiny_config):
    tiny_config.model.path = "no/such/model"
    with pytest.raises(ValueError, match=r"record 0 of .* has no text in field 'output'"):
        start([{"instruction": "a", "output": ""}])
    with pytest.raises(FileNotFoundError, match="no/such/model"):
        start(ROWS)


def test_too_many_cut_responses_are_refused_before_the_base_is_loaded(start, tiny_config):
    rows = [{**row, "output": "true " * 12} for row in ROWS]
    with pytest.raises(ValueError, match="max_response=14, which cuts none, or"):
        start(rows)
    tiny_config.data.max_response = 14
    with pytest.raises(BuiltError):
        start(rows)


def test_changed_records_are_refused_before_the_base_is_loaded(start, tiny_config, tmp_path):
    with pytest.raises(BuiltError):
        start(ROWS)
    workdir, identity = tmp_path / "run", records.read(tiny_config.data.path).identity
    init_workdir(workdir, parse(tiny_config))
    keep_data_identity(workdir, {"config.data.path": identity})
    with pytest.raises(BuiltError):
        start(ROWS)
    changed = [*ROWS[:-1], {**ROWS[-1], "output": "fals"}]
    message = f"was made with records of identity {identity} in config.data.path"
    with pytest.raises(ValueError, match=message):
        start(changed)
    with pytest.raises(ValueError, match=message):
        evaluate.main([f"--workdir={workdir}"])


def test_a_foreign_or_truncated_model_file_is_refused(tiny_config, tiny_llama, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_llama / name).read_bytes())
    whole = (tiny_llama / "model.safetensors").read_bytes()
    tiny_config.model.path = str(tmp_path)
    for content in (whole[:-100], whole[:50], b"\x80\x04pickle"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            runs.build(parse(tiny_config))


def test_the_description_counts_base_and_trained_numbers(finished):
    run, _ = finished
    text = runs.describe(run)
    trained = sum(
        site.stack[0] * run.config.method.settings.tensorization(site.kernel_shape).num_trainable
        for site in run.adapter.layers
    )
    assert f"{trained:,} trainable" in text
    assert "tera on q_proj, v_proj" in text
    assert text.endswith("\n  q_proj: 2 of 32x32\n  v_proj: 2 of 32x16")


def test_frozen_arrays_that_no_seed_regenerates_are_kept_with_the_run(
    tiny_llama, records_path, tmp_path, capsys
):
    config = default("pissa")
    config.model.path, config.model.dtype = str(tiny_llama), "float32"
    config.data.path = str(records_path)
    run = runs.build(parse(config), tmp_path)
    runs.keep_frozen(run, tmp_path)
    kept = tmp_path / "frozen.safetensors"
    arrays = {key: -value for key, value in load_file(kept).items()}
    save_file(arrays, kept)  # A0 and B0 with the other sign: as good, and another SVD's
    again = runs.build(parse(config), tmp_path)
    for a, b in zip(*map(jax.tree.leaves, (again.frozen, run.frozen)), strict=True):
        assert jnp.array_equal(a, -b)
    assert again.meta.frozen_fingerprint != run.meta.frozen_fingerprint
    kept.write_bytes(kept.read_bytes()[:-9])  # of a disk that was full
    again = runs.build(parse(config), tmp_path)
    assert f"{kept} cannot be read; it is made again" in capsys.readouterr().out
    assert again.meta.frozen_fingerprint == run.meta.frozen_fingerprint
    runs.keep_frozen(again, tmp_path)
    assert runs.build(parse(config), tmp_path).meta == run.meta
    assert "made again" not in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["configs/sft.py", "sft", "sft:lora"])
def test_a_run_without_a_directory_has_that_of_its_recipe_and_method(recipe):
    assert main.default_workdir(recipe, "tera") == Path("runs/sft")
    assert main.default_workdir(recipe, "lora") == Path("runs/sft-lora")


def test_the_run_wrote_its_configuration(finished):
    run, workdir = finished
    assert parse(saved_config(workdir)) == run.config
