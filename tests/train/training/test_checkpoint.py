import jax
import jax.numpy as jnp
import pytest

from train.training.checkpoint import Checkpoints, Meta, last_sealed
from train.training.steps.step import State

CONFIG = {"loop": {"steps": 9}}
META = Meta(7, frozen_fingerprint="f" * 16, base_fingerprint="b" * 16, config=CONFIG)


def state(step):
    d = {"q_proj": [jnp.full(3, float(step)), jnp.ones(2)]}
    return State(jnp.asarray(step, jnp.int32), d, (jnp.zeros(3),))


def save(workdir, losses):
    with Checkpoints(workdir) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(state(step), META._replace(position=10 * step), loss)


def steps(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def test_the_last_two_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: None})
    assert steps(tmp_path) == {2, 4, 5}
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (5, 2)
        assert checkpoints.loss(2) == 1.0
        assert checkpoints.loss(5) is None


def test_the_best_may_be_the_last(tmp_path):
    save(tmp_path, {1: 3.0, 2: 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (2, 2)


def test_without_an_evaluation_the_last_is_the_best(tmp_path):
    save(tmp_path, {1: None, 2: None})
    assert steps(tmp_path) == {1, 2}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == 2


def test_an_empty_directory_has_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (None, None)


def test_state_and_position_come_back(tmp_path):
    save(tmp_path, {4: 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(4, state(0), META)
    assert meta.position == 40
    assert meta.config == CONFIG
    for a, b in zip(*map(jax.tree.leaves, (restored, state(4))), strict=True):
        assert jnp.array_equal(a, b)
    assert not jnp.array_equal(restored.d["q_proj"][0], state(0).d["q_proj"][0])


def test_another_frozen_network_or_base_is_refused(tmp_path):
    save(tmp_path, {4: 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="frozen network of fingerprint ffff"):
            checkpoints.restore(4, state(0), META._replace(frozen_fingerprint="0" * 16))
        with pytest.raises(ValueError, match="base of fingerprint bbbb"):
            checkpoints.restore(4, state(0), META._replace(base_fingerprint="0" * 16))


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    save(tmp_path, {1: 1.0})
    partial = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "state").write_text("torn")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1


def damage(path, how):
    """To the longest file below a checkpoint."""
    file = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    file.unlink() if how == "missing" else file.write_bytes(content[: -1 if how == "cut" else None])
    return file.relative_to(path)


@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, how):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0})
    file = damage(tmp_path / "checkpoints" / "3", how)
    said = []
    with Checkpoints(tmp_path, said.append) as checkpoints:
        assert checkpoints.whole == 2
        restored, meta = checkpoints.restore(2, state(0), META)
    assert (int(restored.step), meta.position) == (2, 20)
    assert len(said) == 1
    assert said[0].startswith("checkpoint 3 is not used: its file ")
    assert str(file) in said[0]
    assert (tmp_path / "damaged" / "3").is_dir()
    save(tmp_path, {3: 2.5})
    with Checkpoints(tmp_path, said.append) as checkpoints:
        assert checkpoints.whole == 3
        assert checkpoints.loss(3) == 2.5
    assert len(said) == 1


def test_a_checkpoint_that_was_not_written_to_its_end_is_not_used(tmp_path):
    save(tmp_path, {1: 1.0, 2: 2.0})
    (tmp_path / "checksums" / "2.json").unlink()
    said = []
    with Checkpoints(tmp_path, said.append) as checkpoints:
        assert last_sealed(tmp_path) == 1
        assert checkpoints.whole == 1
    assert "checkpoint 2 is not used: it has no checksums" in said[0]


def test_the_best_gives_way_to_the_next_best_when_damaged(tmp_path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5})
    damage(tmp_path / "checkpoints" / "2", "cut")
    with Checkpoints(tmp_path, lambda _: None) as checkpoints:
        assert checkpoints.best == 2
        assert checkpoints.best_whole == 3
    damage(tmp_path / "checkpoints" / "3", "cut")
    damage(tmp_path / "checkpoints" / "4", "cut")
    with Checkpoints(tmp_path, lambda _: None) as checkpoints:
        assert checkpoints.best_whole is None
        assert checkpoints.whole is None


def test_checksums_of_checkpoints_that_are_gone_are_forgotten(tmp_path):
    save(tmp_path, {1: None, 2: None, 3: None})
    assert {file.name for file in (tmp_path / "checksums").iterdir()} == {"2.json", "3.json"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_best_is_never_one_without_a_number(tmp_path, value):
    """As versions before this one could save them."""
    save(tmp_path, {1: 3.0, 2: value, 3: 4.0, 4: None, 5: value})
    assert 1 in steps(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == 1


def test_without_a_number_none_is_the_best(tmp_path):
    save(tmp_path, {1: float("nan"), 2: float("nan")})
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best, checkpoints.latest) == (None, 2)


def test_a_base_that_differs_below_bfloat16_is_refused(tmp_path):
    exact = META._replace(base_exact="e" * 16)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(4), exact, 1.0)
        checkpoints.restore(4, state(0), exact)
        checkpoints.restore(4, state(0), META)  # of a caller that has none
        with pytest.raises(ValueError, match=r"base of exact fingerprint eeee.* load that base"):
            checkpoints.restore(4, state(0), META._replace(base_exact="0" * 16))


def test_checkpoints_of_before_the_exact_fingerprint_are_read(tmp_path):
    save(tmp_path, {4: 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        _, meta = checkpoints.restore(4, state(0), META._replace(base_exact="0" * 16))
    assert meta.base_exact == ""
