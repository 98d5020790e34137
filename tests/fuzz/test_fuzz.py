"""Every reader on damaged files; ``python -m tests.fuzz --seconds=600`` for more of them."""

import time

import pytest

from tests.fuzz import fuzz, readers

NAMES = (
    "adapter.json",
    "adapter arrays",
    "PEFT config",
    "PEFT arrays",
    "config.json",
    "index",
    "arrays",
    "tokenizer.json",
    "tokenizer config",
    "GGUF",
    "records",
    "gzipped records",
    "CSV",
    "parquet",
    "chats",
)
COUNT = 15
"""Damaged copies of each file."""


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return {reader.name: reader for reader in readers.make(tmp_path_factory.mktemp("fuzz"))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_loads_or_is_refused_by_one_clear_error(name, known, tmp_path):
    assert set(NAMES) == set(known)
    outcome = fuzz.fuzz(known[name], tmp_path / "copy", count=COUNT)
    print(fuzz.line(known[name], outcome))
    assert outcome.faults == []
    assert outcome.read + outcome.refused == COUNT
    assert outcome.refused > 4


def test_a_raw_exception_a_hang_and_too_much_memory_are_faults(known, tmp_path, monkeypatch):
    def found(read):
        reader = known["records"]._replace(read=read)
        place = tmp_path / read.__name__
        return fuzz.fuzz(reader, place, count=1).faults

    def raises(path):
        return {}[path]

    def hangs(path):
        time.sleep(30)

    def grows(path):
        return bytearray(b"x") * 2**25

    monkeypatch.setattr(fuzz, "HARD_STOP", 0.1)
    monkeypatch.setattr(fuzz, "MEMORY", -1)
    assert "KeyError" in found(raises)[0]
    assert "no answer in 0 s" in found(hangs)[0]
    assert "GiB" in found(grows)[0]
