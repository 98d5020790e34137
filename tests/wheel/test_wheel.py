"""The wheel: one top-level package, beside whatever else the user calls ``train``."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tera_jax
from tera_jax import application
from tests.wheel.check import check

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--wheel-dir={place}", ROOT], check=True)
    (found,) = place.glob("*.whl")
    return found


@pytest.mark.long
def test_it_has_one_top_level_package_and_its_version(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    version = f"tera_jax-{tera_jax.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"tera_jax", version}
    for name in (
        "train/main.py",
        "train/recipes/commonsense.py",
        "train/recipes/studies/smollm2.py",
        "py.typed",
        "serve/http/page/index.html",
        "serve/http/page/page.css",
        "serve/http/page/page.js",
    ):
        assert f"tera_jax/{name}" in names
    assert "tera_jax/train/examples/quickstart/train.json" in names


@pytest.mark.long
def test_it_works_beside_a_train_of_the_users(wheel, tmp_path):
    place = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, f"--target={place}", wheel], check=True)
    python = place / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    check(place / "bin", tmp_path, {**os.environ, "PYTHONPATH": str(place)})


def test_the_application_lies_beside_the_library_in_a_checkout():
    import train.config

    assert application.application("config") is train.config
    assert application.application() is train
    assert tera_jax.default_config("lora").method.rank == 8
    assert tera_jax.published_config("lora").method.rank == 32


def test_another_train_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "train"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"train\.py hides the application of the checkout"):
        application.application("config")


def test_scripts_of_the_package_are_those_of_the_application(tmp_path):
    """Each script has its module, and each says its own name."""
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts.values()) == {"tera_jax.application:command"}
    files = {path.stem for path in (ROOT / "train").glob("*.py")} | {"params", "train"}
    assert {name.removeprefix("tera-").replace("-", "_") for name in scripts} <= files
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tera_jax import application; sys.argv = ['tera-report', '--help'];"
            "application.command()",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("usage: tera-report")
    assert shutil.which("tera-report", path=str(Path(sys.executable).parent))
