"""A run goes on with the records that it was started with, and with no others."""

import json

import jax
import jax.numpy as jnp
import pytest

from train.training.checkpoint import Checkpoints, Meta
from train.training.data_identity import keep_data_identity, kept_counts, require_same_data
from train.training.steps.step import State

FIELD, OTHER = "config.data.path", "config.data.validation_path"
META = Meta(7, frozen_fingerprint="f" * 16, base_fingerprint="b" * 16, config={})
MESSAGE = f"was made with records of identity aaaa in {FIELD}, but these have bbbb; give those"


def test_other_records_are_refused_before_long_work(tmp_path):
    require_same_data(tmp_path / "none", {FIELD: "aaaa"})
    keep_data_identity(tmp_path, {FIELD: "aaaa", OTHER: "cccc"})
    require_same_data(tmp_path, {FIELD: "aaaa", OTHER: "cccc"})
    with pytest.raises(ValueError, match=MESSAGE):
        require_same_data(tmp_path, {FIELD: "bbbb", OTHER: "cccc"})
    with pytest.raises(ValueError, match=f"identity cccc in {OTHER}"):
        require_same_data(tmp_path, {FIELD: "aaaa", OTHER: "dddd"})
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_counts_of_records_are_kept_and_not_compared(tmp_path):
    keep_data_identity(tmp_path, {FIELD: "aaaa"})
    assert kept_counts(tmp_path) == {}
    keep_data_identity(tmp_path, {FIELD: "aaaa"}, {FIELD: 12})
    assert kept_counts(tmp_path) == {FIELD: 12}
    require_same_data(tmp_path, {FIELD: "aaaa"})
    (tmp_path / "data.json").write_text('{"records": ["x"]}')
    assert kept_counts(tmp_path) == kept_counts(tmp_path / "none") == {}


@pytest.mark.parametrize("content", ["", "{", "7", "[]", '{"config.data.path": 3}'])
def test_a_damaged_file_is_written_again(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    require_same_data(tmp_path, {FIELD: "aaaa"})
    keep_data_identity(tmp_path, {FIELD: "aaaa"})
    assert json.loads((tmp_path / "data.json").read_text()) == {FIELD: "aaaa"}


def test_a_checkpoint_of_other_records_is_refused(tmp_path):
    state = State(jnp.asarray(3, jnp.int32), {"q": [jnp.ones(3)]}, (jnp.zeros(3),))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META._replace(data={FIELD: "aaaa"}), None)
        restored, meta = checkpoints.restore(3, state, META._replace(data={FIELD: "aaaa"}))
        assert meta.data == {FIELD: "aaaa"}
        assert jax.tree.all(jax.tree.map(jnp.array_equal, restored, state))
        checkpoints.restore(3, state, META)  # where they are not compared, as for an export
        with pytest.raises(ValueError, match=rf"checkpoint 3 of .* {MESSAGE}"):
            checkpoints.restore(3, state, META._replace(data={FIELD: "bbbb"}))


def test_a_checkpoint_of_before_goes_on(tmp_path, monkeypatch):
    state = State(jnp.asarray(3, jnp.int32), {"q": [jnp.ones(3)]}, (jnp.zeros(3),))
    old = META._asdict()
    del old["data"]
    monkeypatch.setattr(Meta, "_asdict", lambda _: old)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META, None)
        monkeypatch.undo()
        _, meta = checkpoints.restore(3, state, META._replace(data={FIELD: "bbbb"}))
    assert meta.data == {}
