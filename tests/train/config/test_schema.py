import importlib.util
import json
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from train.config import Config, default, differences, parse, to_dict

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/[!_]*.py"))


def filled():
    config = default("tera")
    config.model.path = "some/model"
    config.data.path = "records.json"
    return config


def test_defaults_are_the_papers_setting():
    config = parse(filled())
    assert (config.optim.weight_decay, config.optim.warmup_steps) == (0, 100)
    assert (config.loop.batch_size, config.loop.eval_every) == (32, 80)
    assert config.method.targets == ("q_proj", "v_proj")
    assert config.method.settings.tensorization((4096, 4096)).num_trainable * 64 == 264_192


def test_a_config_survives_json():
    config = filled()
    config.method.tensorizations = ("576|24x24",)
    config.loop.steps = 5
    parsed = parse(config)
    assert parse(json.loads(json.dumps(to_dict(parsed)))) == parsed
    config.loop.steps = 6
    assert parse(config) != parsed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    for section in (config.model, config.data):
        if section.path is None:
            section.path = "given"
    assert isinstance(parse(config), Config)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ([], (1, 1, 1)),
        (["--config.mesh=data=2,fsdp=4"], (2, 4, 1)),
        (["--config.mesh.fsdp=8"], (1, 8, 1)),
        (["--config.mesh=tensor=2", "--config.mesh.data=4"], (4, 1, 2)),
    ],
)
def test_the_mesh_is_a_flag_as_a_whole_or_by_axis(arguments, sizes, monkeypatch):
    mesh = parse(from_flags(arguments, monkeypatch)).mesh
    assert (mesh.data, mesh.fsdp, mesh.tensor) == sizes


def test_a_mesh_flag_with_an_unknown_axis_is_refused(monkeypatch):
    with pytest.raises(flags.IllegalFlagValueError, match="an axis 'fdsp'; the axes are data"):
        from_flags(["--config.mesh=fdsp=8"], monkeypatch)


def from_flags(arguments, monkeypatch):
    """A ``ConfigDict`` as the command line changes it."""
    given = ["program", *arguments]
    monkeypatch.setattr("sys.argv", given)  # where the names of the overrides are looked up
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", filled(), flag_values=values)
    values(given)
    return values.config


def changed(path, value):
    tree = to_dict(parse(filled()))
    *parents, key = path.split(".")
    node = tree
    for name in parents:
        node = node[name]
    node[key] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.learning_rat", 1e-3, r"unknown config key config.optim.learning_rat; did you mean"),
        ("wandb", True, r"unknown config key config.wandb; the keys are"),
        ("method.rank", 8, r"unknown config key config.method.rank"),
        ("method.name", "nora", r"config.method.name 'nora'; choose one of"),
        ("method.gain", -1.0, r"config.method: gain -1.0"),
        ("data.packed_tokens", 100, r"config.data.packed_tokens is 100, but a record may have 272"),
        ("loop.accumulate", 5, r"config.loop.batch_size \d+ is not a multiple of loop.accumulate"),
        ("method.tensorizations", ["8|8|8"], r"not of the form"),
        ("model.dtype", "float8", r"config.model.dtype is 'float8'; choose one of"),
        ("model.path", None, r"config.model.path is not set; pass --config.model.path="),
        ("loop.batch_size", 0, r"config.loop.batch_size is 0; it must be at least 1"),
        ("loop.batch_size", 3.5, r"config.loop.batch_size is 3.5, a float"),
        ("loop.batch_size", True, r"config.loop.batch_size is True, a bool"),
        ("loop.epochs", 0.0, r"config.loop.epochs is 0.0"),
        ("optim.learning_rate", 0.0, r"config.optim.learning_rate is 0.0"),
        ("mesh", "fdsp=8", r"mesh 'fdsp=8' has an axis 'fdsp'; the axes are data, fsdp, tensor"),
        ("mesh", "data=3", r"batch_size 32 is not a multiple of mesh data x fsdp = 3"),
        ("mesh.data", 3, r"batch_size 32 is not a multiple of mesh data x fsdp = 3"),
        ("export", ["onnx"], r"config.export has 'onnx'"),
    ],
)
def test_bad_values_are_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message):
        parse(changed(path, value))


def test_a_missing_key_is_refused_by_name():
    tree = to_dict(parse(filled()))
    del tree["data"]["path"]
    with pytest.raises(ValueError, match=r"config.data.path is missing"):
        parse(tree)


def test_differences_name_key_and_both_values():
    a, b = to_dict(parse(filled())), changed("optim.learning_rate", 0.5)
    assert differences(a, a) == []
    assert differences(a, b) == ["config.optim.learning_rate: 0.001 -> 0.5"]
