"""The benchmark of loading: its checkpoint is one, and it sees memory that is taken."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loading
from benchmarks.steps import TINY
from tera_jax.llama import load_pretrained


def test_the_checkpoint_is_in_several_files_and_of_the_model_s_shapes(tmp_path):
    loading.write(tmp_path / "a", TINY, shard_bytes=100_000)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 3
    model, params = load_pretrained(tmp_path / "a", jnp.bfloat16)
    assert model.config.hidden_size == TINY["hidden_size"]
    assert all(jnp.std(leaf) > 0 for leaf in jax.tree.leaves(params))


def test_memory_that_is_taken_is_seen():
    before = loading.resident()
    with loading.highest() as peak:
        taken = np.ones(2**24)
        del taken
    assert 2**26 < peak[0] - before < 2**29


def test_the_command_prints_a_line_for_each_kind(tmp_path, monkeypatch, capsys):
    arguments = ["--model=tiny", f"--directory={tmp_path / 'a'}", "--block=32"]
    monkeypatch.setattr(sys, "argv", ["loading", *arguments])
    loading.main()
    *_, plain, quantized = capsys.readouterr().out.splitlines()
    arrays = [int(line.split("|")[3].replace(",", "")) for line in (plain, quantized)]
    assert plain.startswith("| none |")
    assert quantized.startswith("| nf4 |")
    assert arrays[1] < arrays[0]
