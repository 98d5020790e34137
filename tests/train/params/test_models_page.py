"""docs/models.md has the families that are read, and the sizes that are known by name."""

import re
from pathlib import Path

import pytest

from tera_jax.llama.checkpoint.pre_tokenizers import CUTS
from tera_jax.llama.family.families import ARCHITECTURES
from tera_jax.llama.family.gguf_rows import ROWS
from train.params.count import count
from train.params.shapes import MODELS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "models.md").read_text()


def rows(heading):
    """The cells of the table below a heading."""
    section = re.split(r"^## ", PAGE.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return {
        cells[0].strip("`"): cells[1:]
        for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
        if cells[0] != "`--model`"
    }


def test_the_families_are_those_that_are_read():
    families = rows("Families")
    assert set(families) == set(ARCHITECTURES)
    architectures = {row.model_type: f"`{name}`" for name, row in ROWS.items()}
    assert {name: cells[0] for name, cells in families.items()} == architectures | {
        "mistral": "as `llama`"
    }


def test_the_pre_tokenizers_are_those_that_are_built():
    names = [name.strip("` ") for cells in rows("GGUF files") for name in cells.split(",")]
    assert sorted(names) == sorted(CUTS)


def test_the_files_that_hold_the_claims_are_there():
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_sizes_are_those_of_the_names():
    assert set(rows("Sizes")) == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_a_row_is_what_the_command_counts(model):
    sizes, counted = MODELS[model], count(model, "tera", {})
    parameters, layers, width, mlp, heads, vocabulary, trained = rows("Sizes")[model]
    assert (parameters, trained) == (f"{counted.base:,}", f"{counted.trained:,}")
    assert layers == str(sizes["num_hidden_layers"])
    assert (width, mlp) == (f"{sizes['hidden_size']:,}", f"{sizes['intermediate_size']:,}")
    assert heads == f"{sizes['num_attention_heads']}, {sizes['num_key_value_heads']}"
    assert vocabulary == f"{sizes['vocab_size']:,}"
