"""The directory of a run, and which configuration it belongs to."""

import json

import pytest

from train.config import parse
from train.training import lock
from train.training.workdir import VERSION, init_workdir, require_workdir, saved_config


def test_a_workdir_belongs_to_one_configuration(tmp_path, tiny_config):
    init_workdir(tmp_path / "run", parse(tiny_config))
    init_workdir(tmp_path / "run", parse(tiny_config))
    tiny_config.mesh.data = 2
    tiny_config.loop.max_hours = 3.0
    tiny_config.model.unroll = True
    require_workdir(tmp_path / "run", parse(tiny_config))
    tiny_config.optim.learning_rate = 0.5
    with pytest.raises(FileExistsError, match=r"config.optim.learning_rate: 0.03 -> 0.5"):
        require_workdir(tmp_path / "run", parse(tiny_config))


def test_a_directory_with_something_else_is_refused(tmp_path, tiny_config):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        init_workdir(tmp_path, parse(tiny_config))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_saved_configuration_is_read_back(tmp_path, tiny_config):
    config = parse(tiny_config)
    init_workdir(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text())["version"] == VERSION == 2
    assert parse(saved_config(tmp_path)) == config
    other = parse(saved_config(tmp_path, mesh="data=2"))
    assert other != config
    assert other.mesh.data == 2


@pytest.mark.parametrize(("version", "named"), [(None, 1), (1, 1), (3, 3)])
def test_a_run_of_another_version_is_refused(tmp_path, tiny_config, version, named):
    init_workdir(tmp_path, parse(tiny_config))
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    del saved["version"]
    file.write_text(json.dumps(saved if version is None else {**saved, "version": version}))
    for read in (saved_config, lambda path: init_workdir(path, parse(tiny_config))):
        with pytest.raises(ValueError, match=f"a run of version {named} .* version 2: ") as caught:
            read(tmp_path)
        text = str(caught.value)
        assert "\n" not in text
        assert "finish and export it with the program that began it, or train again" in text


@pytest.mark.parametrize("text", ["", "{", "7"])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not JSON .*choose another --workdir"):
        saved_config(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("loop", "log_every", 1),
        ("loop", "eval_every", 3),
        ("loop", "checkpoint_every", 2),
        ("evaluate", "path", None),
        ("evaluate", "limit", 2),
        ("decoding", "max_new_tokens", 4),
        ("data", "allow_cut_responses", True),
    ],
)
def test_what_leaves_the_trained_numbers_alone_may_change(
    tmp_path, tiny_config, section, key, value
):
    init_workdir(tmp_path, parse(tiny_config))
    tiny_config[section][key] = value
    tiny_config.export = ("adapter",)
    init_workdir(tmp_path, parse(tiny_config))
    assert parse(saved_config(tmp_path)) == parse(tiny_config)  # what train.evaluate reads


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("loop", "seed", 1),
        ("loop", "batch_size", 16),
        ("loop", "grad_accum_steps", 2),
        ("data", "max_response", 7),
        ("data", "validation_rows", 8),
        ("optim", "warmup_steps", 4),
        ("optim", "schedule", "constant"),
        ("method", "gain", 8.0),
        ("model", "quantize", "nf4"),
    ],
)
def test_what_changes_the_trained_numbers_is_locked_and_named(
    tmp_path, tiny_config, section, key, value
):
    init_workdir(tmp_path, parse(tiny_config))
    before = (tmp_path / "config.json").read_text()
    tiny_config[section][key] = value
    tiny_config.loop.log_every = 1
    with pytest.raises(FileExistsError) as caught:
        init_workdir(tmp_path, parse(tiny_config))
    assert f"trained under other values: config.{section}.{key}: " in str(caught.value)
    assert "log_every" not in str(caught.value)
    assert "train.export" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == before


def test_a_decay_locks_the_steps_and_says_how_to_go_on(tmp_path, tiny_config):
    init_workdir(tmp_path, parse(tiny_config))
    tiny_config.loop.steps = 24
    with pytest.raises(FileExistsError) as caught:
        require_workdir(tmp_path, parse(tiny_config))
    text = str(caught.value)
    assert "config.loop.steps: 12 -> 24" in text
    assert f"python -m train.export --workdir={tmp_path} --format=hf --output=MERGED" in text
    assert "--config.model.path=MERGED" in text


def test_a_constant_schedule_lets_a_run_be_longer_but_not_undone(tmp_path, tiny_config):
    tiny_config.optim.schedule = "constant"
    init_workdir(tmp_path, parse(tiny_config))
    (tmp_path / "checksums").mkdir()
    (tmp_path / "checksums" / "12.json").write_text("{}")
    tiny_config.loop.steps = 24
    init_workdir(tmp_path, parse(tiny_config))
    tiny_config.loop.steps = 11
    with pytest.raises(ValueError, match=r"loop.steps is 11, but the run in .* has taken 12"):
        require_workdir(tmp_path, parse(tiny_config))


def test_a_run_from_before_a_field_has_its_default(tmp_path, tiny_config):
    init_workdir(tmp_path, parse(tiny_config))
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    del saved["optim"]["schedule"]
    file.write_text(json.dumps(saved))
    require_workdir(tmp_path, parse(tiny_config))
    tiny_config.optim.schedule = "constant"
    with pytest.raises(FileExistsError, match=r"optim.schedule: 'linear' -> 'constant'"):
        require_workdir(tmp_path, parse(tiny_config))


def test_a_start_that_found_no_room_is_not_in_the_way(tmp_path, tiny_config):
    """An empty config.json of a version that wrote it in place, and what the writer leaves."""
    (tmp_path / "config.json").write_text("")
    (tmp_path / ".config.json.part").write_text("{")
    with lock.held(tmp_path):
        init_workdir(tmp_path, parse(tiny_config))
    assert parse(saved_config(tmp_path)) == parse(tiny_config)
