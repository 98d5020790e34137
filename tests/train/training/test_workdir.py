"""The directory of a run, and which configuration it belongs to."""

import json

import pytest

from train.config import parse
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
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        saved_config(tmp_path)
