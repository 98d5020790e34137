import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from train.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    default,
    differences,
    parse,
    to_dict,
)
from train.config.names import RENAMED
from train.config.schema import keys

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
        ("wandb", True, r"unknown config key config.wandb; the keys of config are data, decoding"),
        ("method.rank", 8, r"unknown config key config.method.rank"),
        ("method.name", "nora", r"config.method.name 'nora'; choose one of"),
        ("method.gain", -1.0, r"config.method.gain -1.0; it must be"),
        ("data.packed_length", 100, r"config.data.packed_length is 100, but a record may have 272"),
        (
            "loop.grad_accum_steps",
            5,
            r"config.loop.batch_size \d+ is not a multiple of loop.grad_accum_steps",
        ),
        ("method.tensorizations", ["8|8|8"], r"not of the form"),
        ("model.dtype", "float8", r"config.model.dtype is 'float8'; choose one of"),
        ("model.path", None, r"config.model.path is not set; pass --config.model.path="),
        ("loop.batch_size", 0, r"config.loop.batch_size is 0; it must be at least 1"),
        ("loop.batch_size", 3.5, r"config.loop.batch_size is 3.5, a float"),
        ("loop.batch_size", True, r"config.loop.batch_size is True, a bool"),
        ("loop.epochs", 0.0, r"config.loop.epochs is 0.0"),
        ("loop.requeue_status", 256, r"config.loop.requeue_status is 256; an exit status is from"),
        ("optim.learning_rate", 0.0, r"config.optim.learning_rate is 0.0; it must be above 0"),
        ("optim.learning_rate", float("nan"), r"config.optim.learning_rate is nan"),
        ("optim.learning_rate", float("inf"), r"config.optim.learning_rate is inf"),
        ("optim.weight_decay", -0.1, r"config.optim.weight_decay is -0.1; it must be at least 0"),
        ("optim.clip_norm", -1.0, r"config.optim.clip_norm is -1.0; it must be above 0"),
        ("model.block", 3, r"config.model.block is 3; it must be even"),
        ("evaluate.task", "boolk", r"config.evaluate: unknown task 'boolk'; did you mean 'boolq'"),
        ("decoding.num_beams", 0, r"config.decoding.num_beams=0 must be at least 1"),
        ("mesh", "fdsp=8", r"mesh 'fdsp=8' has an axis 'fdsp'; the axes are data, fsdp, tensor"),
        ("mesh", "data=3", r"batch_size 32 is not a multiple of mesh data x fsdp = 3"),
        ("mesh.data", 3, r"batch_size 32 is not a multiple of mesh data x fsdp = 3"),
        ("export", ["onnx"], r"config.export has 'onnx'"),
    ],
)
def test_bad_values_are_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message):
        parse(changed(path, value))


def test_each_section_checks_itself():
    for make, message in (
        (lambda: OptimConfig(learning_rate=-1.0), "learning_rate is -1.0; it must be above 0"),
        (lambda: LoopConfig(log_every=0), "log_every is 0; it must be at least 1"),
        (lambda: DataConfig("records.json", max_tokens=1), "max_tokens is 1; it must be at least"),
        (lambda: ModelConfig("model", block=0), "block is 0"),
        (lambda: ModelConfig("model", kept_layers=-1), "kept_layers is -1; it must be at least 0"),
        (
            lambda: ModelConfig("model", kept_layers=2, unroll=False),
            "kept_layers is 2, but a loop over layers keeps none",
        ),
        (lambda: ModelConfig("model", kept_layers=2, remat="full"), "kept_layers is 2, but a loop"),
        (lambda: EvaluateConfig(batch_size=0), "batch_size is 0"),
        (lambda: MeshConfig(fsdp=0), "fsdp is 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()


def test_layers_are_kept_where_they_are_unrolled_or_may_be():
    for how in ({}, {"unroll": True}, {"unroll": True, "remat": "full"}):
        assert ModelConfig("model", kept_layers=2, **how).kept_layers == 2


def test_the_whole_checks_what_no_section_can():
    config = parse(filled())
    with pytest.raises(ValueError, match=r"^evaluate.batch_size 3 is not a multiple of mesh"):
        dataclasses.replace(config, evaluate=EvaluateConfig(batch_size=3), mesh=MeshConfig(data=2))
    full = default("full")
    full.model.path, full.data.path, full.model.quantize = "some/model", "records.json", "nf4"
    with pytest.raises(ValueError, match=r"^config.method.name 'full' trains the base's own"):
        parse(full)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_names_its_successor(old, new):
    assert f"config.{new}" in keys("tera")
    assert f"config.{old}" not in keys("tera")
    with pytest.raises(ValueError, match=rf"key config.{old}; it is called config.{new} now$"):
        parse(changed(old, 1))


def test_a_missing_key_is_refused_by_name():
    tree = to_dict(parse(filled()))
    del tree["data"]["path"]
    with pytest.raises(ValueError, match=r"config.data.path is missing"):
        parse(tree)


def test_differences_name_key_and_both_values():
    a, b = to_dict(parse(filled())), changed("optim.learning_rate", 0.5)
    assert differences(a, a) == []
    assert differences(a, b) == ["config.optim.learning_rate: 0.001 -> 0.5"]
