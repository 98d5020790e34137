"""The flags of a configuration, and what a wrong one prints."""

import sys

import pytest
from absl import flags

from train.config import default, flag, parse

FILE = """
from train.config import default

def get_config(method="tera"):
    config = default(method)
    config.model.path, config.data.path = "some/model", "records.json"
    return config
"""


@pytest.fixture
def from_flags(tmp_path, monkeypatch):
    """A ``ConfigDict`` as the command line changes it."""
    path = tmp_path / "recipe.py"
    path.write_text(FILE)

    def read(*arguments, config=str(path)):
        given = ["program", f"--config={config}", *arguments]
        monkeypatch.setattr(sys, "argv", given)  # where the names of the overrides are looked up
        values = flags.FlagValues()
        flag.define("config", values)
        values(given)
        return values.config

    return read


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ([], (1, 1, 1)),
        (["--config.mesh=data=2,fsdp=4"], (2, 4, 1)),
        (["--config.mesh.fsdp=8"], (1, 8, 1)),
        (["--config.mesh=tensor=2", "--config.mesh.data=4"], (4, 1, 2)),
    ],
)
def test_the_mesh_is_a_flag_as_a_whole_or_by_axis(arguments, sizes, from_flags):
    mesh = parse(from_flags(*arguments)).mesh
    assert (mesh.data, mesh.fsdp, mesh.tensor) == sizes


def test_a_mesh_flag_with_an_unknown_axis_is_refused(from_flags):
    with pytest.raises(flags.IllegalFlagValueError, match="an axis 'fdsp'; the axes are data"):
        from_flags("--config.mesh=fdsp=8")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.learning_rat=1", "did you mean config.optim.learning_rate?"),
        ("--config.optim.batch_size=1", "config.evaluate.batch_size or config.loop.batch_size?"),
        ("--config.optm.learning_rte=1", "did you mean config.optim.learning_rate?"),
        ("--config.method.num_mods=3", "did you mean config.method.num_modes?"),
        ("--noconfig.data.append_eso", "did you mean config.data.append_eos?"),
        ("--config.method.parts=3", "it is called config.method.num_modes now"),
        ("--config.method.wide=fast", "it is called config.method.structure now"),
        ("--config.loop.accumulate=2", "it is called config.loop.grad_accum_steps now"),
        ("--config.evaluate.rows=2", "it is called config.evaluate.limit now"),
        ("--config.wandb=1", "the keys of config are data, decoding, evaluate"),
        ("--config.wandb.project=1", "the keys of config are data, decoding, evaluate"),
    ],
)
def test_a_wrong_flag_is_one_line_with_the_nearest_keys(argument, message, from_flags):
    with pytest.raises(flags.Error) as caught:
        from_flags(argument)
    key = argument.lstrip("-").removeprefix("no").partition("=")[0]
    text = str(caught.value)
    assert text.startswith(f"unknown config key {key}; ")
    assert message in text
    assert "\n" not in text


def test_right_flags_change_their_fields(from_flags):
    config = parse(from_flags("--config.optim.learning_rate=0.5", "--config.method.num_modes=2"))
    assert config.optim.learning_rate == 0.5
    assert config.method.settings.num_modes == 2
    assert parse(default_with_paths()).optim.learning_rate != 0.5


def default_with_paths():
    config = default("tera")
    config.model.path, config.data.path = "some/model", "records.json"
    return config


def test_a_file_that_gives_no_config_is_one_line(from_flags, tmp_path):
    recipe = tmp_path / "recipe.py"
    with pytest.raises(flags.Error, match=r"^--config=no\.py: no\.py does not exist; name a file"):
        from_flags(config="no.py")
    with pytest.raises(flags.Error, match=r": method 'nora'; choose one of") as caught:
        from_flags(config=f"{recipe}:nora")
    assert "\n" not in str(caught.value)
    recipe.write_text(FILE.replace('method="tera"', "").replace("(method)", '("tera")'))
    with pytest.raises(flags.Error, match=r"recipe\.py takes nothing after a colon$"):
        from_flags(config=f"{recipe}:lora")
