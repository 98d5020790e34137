"""Split GGUF files: all parts from any of them, and what is wrong with them by name."""

import shutil

import gguf
import numpy as np
import pytest

from tera_jax.llama import load_pretrained, load_tokenizer
from tera_jax.llama.checkpoint.resolve import locate
from tests.tera_jax.llama.checkpoint.gguf_conversion import convert


@pytest.fixture(scope="module")
def split(tiny_path, tmp_path_factory):
    """Three parts of nine tensors at most, and the whole."""
    directory = tmp_path_factory.mktemp("split")
    convert(tiny_path("qwen2"), directory / "x.gguf", split_max_tensors=9)
    return directory, convert(tiny_path("qwen2"), tmp_path_factory.mktemp("whole") / "x.gguf")


@pytest.fixture
def parts(split, tmp_path):
    return [shutil.copy(file, tmp_path / file.name) for file in sorted(split[0].iterdir())]


@pytest.mark.parametrize("given", [0, 1, 2, None])
def test_any_part_and_the_directory_give_the_whole(given, split, parts, tmp_path, assert_same):
    assert len(parts) == 3
    path = tmp_path if given is None else parts[given]
    (model, params), (whole, expected) = load_pretrained(path), load_pretrained(split[1])
    assert model.config == whole.config
    assert_same(params, expected)


def test_a_missing_part(parts, tmp_path):
    parts[1].unlink()
    for path in (parts[0], parts[2], tmp_path):
        with pytest.raises(FileNotFoundError, match=r"1 of its 3 parts are missing .*x-00002-of-0"):
            load_pretrained(path)
    with pytest.raises(FileNotFoundError, match=r"x-00002-of-00003"):
        load_tokenizer(parts[0])


def test_a_part_of_another_place(parts):
    shutil.copy(parts[0], parts[1])
    with pytest.raises(
        ValueError, match=r"x-00002-of-00003.gguf is named as part 2 of 3, but .* 1 of"
    ):
        load_pretrained(parts[0])


def test_a_part_of_another_model(parts, tiny_path, tmp_path):
    """One with another count of tensors, and one whose split is elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    convert(tiny_path("tinyllama"), other / "x.gguf", split_max_tensors=11)
    shutil.copy(other / parts[1].name, parts[1])
    with pytest.raises(ValueError, match=r"x-00002-of-00003.gguf is a part of another model than"):
        load_pretrained(parts[0])
    convert(tiny_path("qwen2"), other / "y.gguf", split_max_tensors=10)
    shutil.copy(other / "y-00002-of-00003.gguf", parts[1])
    with pytest.raises(
        ValueError, match=r"tensor .* is in .*x-00002-of-00003.gguf and in .*x-00003"
    ):
        load_pretrained(parts[0])


def test_a_file_that_is_no_part(parts, split):
    shutil.copy(split[1], parts[2])
    with pytest.raises(
        ValueError, match=r"x-00003-of-00003.gguf is named as part 3 of 3, but .* 1 of 1"
    ):
        load_pretrained(parts[0])


def test_parts_of_other_names(parts, tmp_path):
    path = parts[1].rename(tmp_path / "renamed.gguf")
    with pytest.raises(
        ValueError, match=r"renamed.gguf is part 2 of 3 .*renamed-00001-of-00003.gguf"
    ):
        load_pretrained(path)


def test_two_models_in_a_directory(parts, tmp_path):
    assert locate(tmp_path) == parts[0]
    shutil.copy(parts[0], tmp_path / "y-00001-of-00003.gguf")
    with pytest.raises(ValueError, match=r"holds no config.json and 4 .gguf files"):
        locate(tmp_path)


def test_too_few_tensors(parts):
    reader = gguf.GGUFReader(parts[2])
    total = reader.get_field("split.tensors.count").contents()
    writer = gguf.GGUFWriter(parts[2], "qwen2")
    writer.add_key_value("split.no", 2, gguf.GGUFValueType.UINT16)
    writer.add_key_value("split.count", 3, gguf.GGUFValueType.UINT16)
    writer.add_key_value("split.tensors.count", total, gguf.GGUFValueType.INT32)
    writer.add_tensor(reader.tensors[0].name, np.array(reader.tensors[0].data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=rf"3 parts of .* have \d+ tensors, .* say {total}; fetch"):
        load_pretrained(parts[0])
