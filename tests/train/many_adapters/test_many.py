"""Many adapters in one run are what each of them is when it is trained alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tera_jax
from tera_jax.llama import load_pretrained, stacking
from tests.margins import within
from tests.train.many_adapters import worlds
from train import data, many
from train.many_adapters import loop, specification
from train.training import run as runs
from train.training.stops import Stopped

STEPS = (50, 21, 35, 12)
"""Of the adapters in turn."""
BAD = {"name": "bad", "learning_rate": 1e38}
"""The gradient of its first steps sends d beyond float32."""


class Recorder:
    """The slots' step, which looks at every state before and after."""

    def __init__(self, make, *args):
        self.step, self.kept, self.moved = make(*args), [], []

    def __call__(self, state, params, frozen, batch, rate_G, active_G):
        before = jax.device_get((state.d, state.opt))
        state, metrics = self.step(state, params, frozen, batch, rate_G, active_G)
        after = jax.device_get((state.d, state.opt))
        for slot, active in enumerate(active_G):
            pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
            same = all(a[slot].tobytes() == b[slot].tobytes() for a, b in pairs)
            (self.moved if active else self.kept).append(same)
        return state, metrics


def people(place, model, count, bad=False):
    """Adapters in a file, and the arguments that train them."""
    file = worlds.write_people(place / "people", count)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["steps"] = STEPS[number % len(STEPS)]
    if bad:
        rows.insert(1, {**rows[0], **BAD})
    return worlds.write_lines(file, rows)


def ended(workdir):
    lines = (workdir / "results.jsonl").read_text().splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory):
    """A run of five adapters of which one fails, three in a step: its place, and what was seen."""
    place = tmp_path_factory.mktemp("many")
    file = people(place, tiny_llama, 4, bad=True)
    given = worlds.arguments(tiny_llama, file, place / "run", "tera")
    recorders = []
    make = loop.make_slot_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop,
            "make_slot_step",
            lambda *args: recorders.append(Recorder(make, *args)) or recorders[-1],
        )
        with pytest.raises(SystemExit) as end:
            many.main(given)
    assert end.value.code == 1
    return place, file, given, recorders[0]


@pytest.fixture(scope="module")
def base(trained):
    _, file, given, _ = trained
    found = {each.name: each for each in specification.read(file, worlds.base(*given))}
    return runs.build(found["p0"].config), found


def test_an_adapter_is_what_it_is_alone_also_after_another_in_its_slot(trained, base):
    place, *_ = trained
    run, found = base
    loaded, _, last = worlds.require_alone(run, found["p3"], place / "run")
    _, other = tera_jax.load_adapter(place / "run" / "adapters" / "p0", run.params)
    assert worlds.distance(other["d"], last) > 0.1  # another adapter's d is another
    model, _ = load_pretrained(run.config.model.path, dtype=jnp.float32)
    adapter = runs.make_adapter(found["p3"].config, run.model)
    tokens_BL = jnp.arange(8, dtype=jnp.int32)[None]
    apply = jax.jit(lambda d, loaded: adapter.apply(model, {**loaded, "d": d}, tokens_BL)[0])
    logits, expected, base_ = (
        np.asarray(apply(d, loaded)) for d in (loaded["d"], last, runs.init_d(run))
    )
    within(np.abs(logits - expected).max(), 1e-4)
    assert np.abs(logits - base_).max() > 1e-2


def test_each_adapter_has_a_model_card_of_its_own(trained, base):
    place, _, _, _ = trained
    run, found = base
    rows = ended(place / "run")
    for name in ("p0", "p1"):
        text = (place / "run" / "adapters" / name / "README.md").read_text()
        before, after = (rows[name][key] for key in ("held_out_loss_before", "held_out_loss"))
        records = len(Path(found[name].config.data.path).read_text().splitlines())
        for line in (
            f"| held-out loss, nats a token | {before:.4f} | {after:.4f} |",
            f"| data.path | `{name}.jsonl`, {records} records, identity `",
            f"| step | {rows[name]['steps']} |",
            f'"learning_rate": {found[name].config.optim.learning_rate}',
            f"fingerprint `{run.meta.base_fingerprint}`",
        ):
            assert line in text
        assert str(place) not in text


def test_one_trace_serves_the_whole_run_and_what_is_not_trained_keeps_every_bit(trained):
    *_, recorder = trained
    assert recorder.step._cache_size() == 1
    assert recorder.kept
    assert all(recorder.kept)
    # Of the failed adapter's steps the first, at a rate of 0, and its last ones move nothing of d.
    assert sum(recorder.moved) <= 3
    assert len(recorder.moved) > sum(STEPS)


def test_an_adapter_that_is_not_finite_stops_alone_and_is_named(trained):
    place, *_ = trained
    rows = ended(place / "run")
    assert [*rows] == ["p0", "bad", "p1", "p2", "p3"]
    assert rows["bad"]["status"] == "failed"
    assert rows["bad"]["steps"] < 5
    assert "lower its learning_rate" in rows["bad"]["error"]
    assert not (place / "run" / "adapters" / "bad").exists()
    for number, steps in enumerate(STEPS):
        row = rows[f"p{number}"]
        assert (row["status"], row["steps"]) == ("finished", steps)
        assert row["held_out_loss"] < row["held_out_loss_before"] - 0.1
        assert row["train_loss"] < row["held_out_loss_before"]
        assert row["seconds"] > 0


def test_a_finished_run_is_reported_again_and_a_lost_adapter_trained_again(
    trained, tmp_path, capsys
):
    place, _, given, _ = trained
    before = worlds.arrays(place / "run")
    (place / "run" / "adapters" / "p1").rename(tmp_path / "p1")
    with pytest.raises(SystemExit, match="1"):
        many.main(given)
    assert worlds.arrays(place / "run") == before
    said = capsys.readouterr().out
    assert "held-out before" in said
    assert "1 of 5 adapters failed: bad" in said


def test_a_stopped_run_goes_on_to_the_same_bits(trained, tiny_llama, tmp_path, monkeypatch):
    place, file, _, _ = trained
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", "tera")
    feed, fed = data.DataIterator.__next__, []

    def feed_until(stream):
        fed.append(1)
        if len(fed) == 81:
            os.kill(os.getpid(), signal.SIGTERM)
        return feed(stream)

    with monkeypatch.context() as patch:
        patch.setattr(data.DataIterator, "__next__", feed_until)
        with pytest.raises(Stopped) as stopped:
            many.main(given)
    assert stopped.value.code == 75
    saved = sorted((tmp_path / "run" / "checksums").iterdir())
    assert len(saved) == 1
    assert set(worlds.arrays(tmp_path / "run")) < set(worlds.arrays(place / "run"))
    with pytest.raises(SystemExit, match="1"):
        many.main(given)
    assert worlds.arrays(tmp_path / "run") == worlds.arrays(place / "run")
    rows, expected = ended(tmp_path / "run"), ended(place / "run")
    timed = {name: {**row, "seconds": 0, "adapter": ""} for name, row in rows.items()}
    assert timed == {n: {**row, "seconds": 0, "adapter": ""} for n, row in expected.items()}


def test_layers_are_unrolled_on_a_gpu_and_adapters_the_same(trained, base, tmp_path, monkeypatch):
    place, file, given, _ = trained
    run, found = base
    rows = map(json.loads, file.read_text().splitlines())
    two = [row for row in rows if row["name"] in ("p1", "p3")]
    worlds.write_lines(tmp_path / "two.jsonl", two)
    replaced = {"--adapters": tmp_path / "two.jsonl", "--workdir": tmp_path / "run"}
    words = [word.partition("=") for word in given]
    gpu = SimpleNamespace(on_gpu=lambda: True, device_kind=lambda: "a GPU")
    monkeypatch.setattr(runs, "dispatch", gpu)
    made, make = [], loop.make_slot_step
    monkeypatch.setattr(loop, "make_slot_step", lambda *args: made.append(args[0]) or make(*args))
    many.main([f"{name}={replaced.get(name, value)}" for name, _, value in words])
    (trained_run,) = made
    assert trained_run.model.unroll
    assert stacking.is_split(trained_run.params)
    for each in (found["p1"], found["p3"]):  # the second goes on after the first was written
        (_, ours), (_, theirs) = (
            tera_jax.load_adapter(workdir / "adapters" / each.name, run.params)
            for workdir in (tmp_path / "run", place / "run")
        )
        own = run._replace(adapter=runs.make_adapter(each.config, run.model), config=each.config)
        moved = worlds.distance(runs.init_d(own), theirs["d"])
        assert worlds.distance(ours["d"], theirs["d"]) > 0  # another program
        within(worlds.distance(ours["d"], theirs["d"]), 1e-4 * moved)


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(tiny_llama, tmp_path):
    file = worlds.write_people(tmp_path / "people", 4, steps=7)
    killed = str(Path(__file__).with_name("run_killed.py"))

    def arguments(workdir):
        more = ("--config.loop.checkpoint_every=2",)
        return worlds.arguments(tiny_llama, file, tmp_path / workdir, "tera", *more)

    def run(*program):
        return subprocess.run(
            [sys.executable, *program, *arguments("run")],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            env=dict(os.environ),
            timeout=280,
            check=False,
        )

    # One batch fills empty slots and a step takes three, so that the 18th is one of step 6.
    assert run(killed, "18").returncode == -signal.SIGKILL
    done = run("-m", "train.many")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 4" in done.stdout + done.stderr
    many.main(arguments("whole"))
    assert worlds.arrays(tmp_path / "run") == worlds.arrays(tmp_path / "whole")
