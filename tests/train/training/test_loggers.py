"""Loggers get the same numbers: metrics.jsonl, TensorBoard's events, Weights & Biases offline."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.training import loggers

EVENTS = [(1, {"loss": 3.25, "grad_norm": 0.5}), (2, {"loss": 3.125, "grad_norm": 0.25}),
          (2, {"held_out_loss": 3.0625})]  # fmt: skip
"""With values that float32 holds."""
WRITE = """
import sys
from pathlib import Path
from tests.train.training.test_loggers import EVENTS
from train.training import loggers

started = loggers.start(("jsonl", "tensorboard", "wandb"), Path(sys.argv[1]), 0, {"a": {"b": 1}})
try:
    for event in EVENTS:
        started.write(*event)
finally:
    started.close()
"""
READ = '''
import json, struct, sys
from wandb.proto import wandb_internal_pb2

def contents(data, at=7, size=2**15):
    """Of a log of LevelDB behind a header of 7 bytes: blocks of parts, some for each record."""
    held = b""
    while at + 7 <= len(data):
        if size - at % size < 7:
            at += size - at % size
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield held
            held = b""

rows, config, ids = [], {}, []
for content in contents(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(content)
    for item in record.run.config.update:
        config[item.key] = json.loads(item.value_json)
    ids += [record.run.run_id] if record.run.run_id else []
    items = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
    if items:
        rows.append(items)
print(json.dumps({"rows": rows, "config": config, "ids": ids}))
'''


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def scalars(workdir):
    found = EventAccumulator(str(workdir / "tensorboard"))
    found.Reload()
    names = found.Tags()["scalars"]
    return {(e.step, name): e.value for name in names for e in found.Scalars(name)}


def by_step(rows, step="step"):
    return {
        (row[step], name): value
        for row in rows
        for name, value in row.items()
        if name != step and not name.startswith("_")
    }


EXPECTED = {(step, name): value for step, values in EVENTS for name, value in values.items()}


def test_lines_and_events_have_the_same_numbers(tmp_path):
    started = loggers.start(("jsonl", "tensorboard"), tmp_path, 0, {})
    for event in EVENTS:
        started.write(*event)
    started.close()
    assert by_step(lines(tmp_path)) == EXPECTED
    assert scalars(tmp_path) == EXPECTED
    alone = tmp_path / "alone"
    alone.mkdir()
    loggers.start(("jsonl",), alone, 0, {}).close()
    assert [file.name for file in alone.iterdir()] == ["metrics.jsonl"]


def test_a_missing_package_is_refused_by_name(monkeypatch):
    loggers.require(("jsonl", "wandb"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    loggers.require(("jsonl", "tensorboard"))
    with pytest.raises(ValueError, match=r"'wandb'.*pip install 'tera-jax\[wandb\]'"):
        loggers.require(("jsonl", "wandb"))


def run(program, *arguments):
    root = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_wandb_has_them_offline_and_a_resumed_run_has_its_id(tmp_path):
    run(WRITE, tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = json.loads(run(READ, file).splitlines()[-1])
    assert by_step(found["rows"], "_step") == EXPECTED
    assert by_step(lines(tmp_path)) == scalars(tmp_path) == EXPECTED
    assert found["config"]["a"] == {"b": 1}
    kept = json.loads((tmp_path / "wandb.json").read_text())
    assert {*found["ids"]} == {kept["id"]}
    run(WRITE, tmp_path)
    assert json.loads((tmp_path / "wandb.json").read_text()) == kept
