"""The site builds without a warning, and its API reference has every public name."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = ("tera_jax", "tera_jax.llama", "tera_jax.methods", "tera_jax.io.peft")
"""The modules of the library that have an ``__all__``."""


def identifiers():
    """The names that the reference describes."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    return re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)


def test_all_public_modules_are_known():
    files = (ROOT / "tera_jax").rglob("*.py")
    found = [file.relative_to(ROOT) for file in files if "__all__ = [" in file.read_text()]
    assert {".".join(file.parent.parts) for file in found} == set(PUBLIC)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module):
    names = importlib.import_module(module).__all__
    assert {f"{module}.{name}" for name in names} <= set(identifiers())


def test_the_reference_has_each_name_once():
    found = identifiers()
    assert len(found) == len(set(found))


def build(root, site):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}"],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_the_site_builds(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "tera_jax" / "index.html").read_text()
    assert all(f'id="{name}"' in page for name in identifiers() if name.count(".") == 1)
    text = re.sub(r"<[^>]+>", "", page).replace("&#34;", '"')
    assert 'Shaped[jax.Array, "J1 J2"]' in " ".join(text.split())
    assert ":func:" not in page


@pytest.mark.long
@pytest.mark.parametrize(
    "wrong", ["[a](none.md)", "[a](using.md#none)", "::: tera_jax.none"], ids=str
)
def test_a_wrong_page_fails_the_build(wrong, tmp_path):
    for name in ("docs", "tera_jax"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "train", tmp_path / "train")
    with (tmp_path / "docs" / "reference" / "methods.md").open("a") as file:
        file.write(f"\n{wrong.replace('(', '(../') if '(' in wrong else wrong}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "none" in done.stderr
