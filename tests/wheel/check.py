"""The installed package does its work in a directory of the user's.

    python -m tests.wheel.check .venv-wheel/bin

The argument is the folder of an environment's Python and scripts. A small model and records are
made here, and everything else runs there, beside a ``train.py`` and a ``configs/`` of the user's.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import parts

_TRAIN = 'raise RuntimeError("the train.py of the user was imported")\n'
_CONFIG = """import tera_jax


def get_config():
    config = tera_jax.default_config("tera")
    config.model.update(path={model!r}, dtype="float32", remat="none")
    config.data.update(path={records!r}, validation_rows=16, max_prompt=40, max_response=8)
    config.method.num_modes = 2
    config.loop.update(batch_size=8, steps=3, eval_every=3)
    config.evaluate.batch_size = 8
    return config
"""
_PYTHON = """import tera_jax
from tera_jax.llama import load_pretrained
import jax.numpy as jnp

model, params = load_pretrained("merged", dtype=jnp.float32)
adapter, variables = tera_jax.load_adapter("run/adapter", load_pretrained({model!r})[1])
print(sorted(tera_jax.published_config("lora").keys()), adapter.name)
tuned = tera_jax.finetune({model!r}, {records!r}, workdir="tuned", steps=2, packed_length=64)
print("answer", repr(tuned.generate("red?", max_new_tokens=4)))
"""


def check(place: Path, directory: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Train, train many, evaluate, compare, export, report and answer: scripts and Python.

    Args:
        place: of the Python and of the scripts.
        directory: empty; becomes the user's.
        environment: of the processes.

    Raises:
        RuntimeError: for a command that fails; it has its output.
    """
    model = str(parts.tiny_llama(directory / "model"))
    records = str(parts.records(directory / "records.json"))
    user = directory / "user"
    (user / "configs").mkdir(parents=True)
    (user / "train.py").write_text(_TRAIN)
    (user / "configs" / "mine.py").write_text(_CONFIG.format(model=model, records=records))
    (user / "task").mkdir()
    (user / "load.py").write_text(_PYTHON.format(model=model, records=records))

    def run(program: str, *arguments: str) -> str:
        found = subprocess.run(
            [str(place / program), *arguments],
            cwd=user,
            env={**environment, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            said = f"{found.stdout}\n{found.stderr}"
            raise RuntimeError(f"{program} {arguments} ended with {found.returncode}: {said}")
        return found.stdout

    assert "264,192" in run("tera-params", "--model=llama-2-7b", "--method=tera")
    assert "config.method.rank = 32" in run(
        "tera-train", "--config=commonsense:lora", "--print-config"
    )
    run("tera-train", "--config=configs/mine.py", "--workdir=run", "--config.export=('adapter',)")
    lines = (user / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [one["step"] for one in metrics if "held_out_loss" in one] == [3]
    rows = json.loads(Path(records).read_text())[:4]
    test = [{**row, "answer": "true"} for row in rows]
    (user / "task" / "test.json").write_text(json.dumps(test))
    run("tera-evaluate", "--workdir=run", "--tasks", "boolq=task/test.json")
    assert "BoolQ" in run("tera-report", "run")
    study = ["--steps=2", "--seeds=1", "--rates=1e-2", "--set=data.packed_length=64"]
    compared = run(
        "tera-compare",
        f"--model={model}",
        f"--data={records}",
        "--methods=lora:rank=2",
        "--output=study",
        *study,
    )
    assert "| `lora:rank=2` | q_proj+v_proj | 448 |" in compared
    planned = run("tera-plan-scheme", "--model=smollm2-135m", "--budget=40000", "--rows=1")
    assert "schemes within 40,000 trainable parameters" in planned
    run("tera-export", "--workdir=run", "--format=hf", "--output=merged")
    line = {"name": "one", "data": records, "steps": 2}
    (user / "adapters.jsonl").write_text(json.dumps(line) + "\n")
    run(
        "tera-many",
        "--adapters=adapters.jsonl",
        f"--model={model}",
        "--workdir=many",
        "--config.model.dtype=float32",
        "--config.data.packed_length=64",
        "--config.method.num_modes=2",
    )
    assert (user / "many" / "adapters" / "one" / "adapter.safetensors").is_file()
    run("tera-generate", "--workdir=run", "--prompt=red?", "--max-new-tokens=4")
    said = run("python", "load.py")
    assert "tera" in said
    assert "answer '" in said


def main() -> None:
    """Check one environment."""
    parser = argparse.ArgumentParser(prog="python -m tests.wheel.check", description=__doc__)
    parser.add_argument("place", type=Path, help="the folder of its Python and scripts")
    args = parser.parse_args()
    with TemporaryDirectory() as directory:
        check(args.place.absolute(), Path(directory))
    print(f"the package in {args.place} trains, evaluates, reports, exports and loads")


if __name__ == "__main__":
    main()
