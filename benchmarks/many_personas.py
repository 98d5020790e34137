r"""Many adapters in one run beside a run for each: personas of ConvAI2, their times and losses.

    python -m benchmarks.many_personas --dialogues=train_self_original_no_cands.txt \
        --model=SmolLM2-135M-Instruct.gguf --workdir=runs/personas

A persona is the set of its sentences. Those with the most dialogues are taken. The last dialogue of
each is held out, and the others are its training records. First ``train.many`` trains all personas
in one run. Then ``train.main``'s pipeline trains ``--checked`` of them in turn, each in a directory
of its own, under the same settings.

The table has the held-out loss of both, in nats a target token, and the seconds of each run in turn
from its beginning to its end: loading, compiling, training and measuring. Below it stand the
mean losses of all personas before and after, the seconds of the one run, and those that a run for
each persona takes at the mean of those in turn.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import command, many, many_adapters, pipeline
from train.many_adapters import specification
from train.training import kept

_OWN = "your persona: "


def personas(text: str) -> dict[tuple[str, ...], list[str]]:
    """The dialogues of each persona, in ParlAI's format; the persona with the most comes first."""
    dialogues: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if line.partition(" ")[0] == "1":
            dialogues.append([])
        dialogues[-1].append(line)
    found: dict[tuple[str, ...], list[str]] = {}
    for lines in dialogues:
        said = (line.partition(" ")[2].strip() for line in lines)
        persona = tuple(sorted(x.removeprefix(_OWN) for x in said if x.startswith(_OWN)))
        found.setdefault(persona, []).append("".join(lines))
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def write(found: dict[tuple[str, ...], list[str]], count: int, place: Path) -> Path:
    """The files of ``count`` personas with two dialogues or more, and the file of the adapters.

    Raises:
        ValueError: when there are fewer.
    """
    several = [dialogues for dialogues in found.values() if len(dialogues) > 1][:count]
    if len(several) < count:
        raise ValueError(
            f"{len(several)} personas have two dialogues or more; give --count={len(several)}"
        )
    place.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, dialogues in enumerate(several):
        name = f"persona-{number:02d}"
        data, validation = place / f"{name}.txt", place / f"{name}-held-out.txt"
        data.write_text("".join(dialogues[:-1]), encoding="utf-8")
        validation.write_text(dialogues[-1], encoding="utf-8")
        line = {"name": name, "data": str(data), "validation": str(validation), "seed": number}
        lines.append(json.dumps(line) + "\n")
    file = place / "personas.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def last_held_out(workdir: Path) -> float:
    """The held-out loss of a run's last step."""
    rows = kept.lines(workdir / "metrics.jsonl")
    return [row["held_out_loss"] for row in rows if "held_out_loss" in row][-1]


def table(base: dict[str, Any], file: Path, args: argparse.Namespace) -> Iterator[str]:
    """Train both ways; Markdown."""
    start = time.perf_counter()
    progress = many_adapters.train(base, file, args.workdir / "many", args.active)
    together = time.perf_counter() - start
    failed = [each.name for each in progress if each.status == "failed"]
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed; lower --learning-rate")
    losses = {each.name: each for each in progress}
    yield "| persona | before | in one run | alone | difference | seconds alone |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    seconds = []
    for found in specification.read(file, base)[: args.checked]:
        place = args.workdir / found.name
        start = time.perf_counter()
        pipeline.train(found.config, place)
        seconds.append(time.perf_counter() - start)
        mine, alone = losses[found.name], last_held_out(place)
        assert mine.before is not None
        assert mine.after is not None
        cells = (mine.before, mine.after, alone, mine.after - alone)
        shown = " | ".join(f"{cell:.5f}" for cell in cells)
        yield f"| {found.name} | {shown} | {seconds[-1]:.1f} |"
    yield ""
    measured = [
        (x.before, x.after) for x in progress if x.before is not None and x.after is not None
    ]
    lower = sum(after < before for before, after in measured)
    means = " -> ".join(f"{sum(part) / len(part):.5f}" for part in zip(*measured, strict=True))
    yield f"mean held-out loss of {len(progress)}: {means}; lower for {lower}"
    yield f"one run of {len(progress)} adapters: {together:.1f} s"
    if seconds:
        mean = sum(seconds) / len(seconds)
        yield (
            f"{len(progress)} runs in turn, at the mean of {len(seconds)}: "
            f"{len(progress) * mean:.1f} s, {len(progress) * mean / together:.2f} times as long"
        )


def main() -> None:
    """Write the files, train, print the table."""
    parser = command.parser(main)
    parser.add_argument("--dialogues", type=Path, required=True, help="a file of ConvAI2")
    parser.add_argument("--model", required=True, help="the base")
    parser.add_argument("--workdir", type=Path, required=True, help="absent or empty")
    parser.add_argument("--count", type=int, default=32, help="personas")
    parser.add_argument("--checked", type=int, default=4, help="of them trained alone too")
    parser.add_argument("--active", type=int, default=32, help="personas in one step")
    parser.add_argument("--steps", type=int, default=50, help="of each")
    parser.add_argument("--batch-size", type=int, default=4, help="rows of each in a step")
    parser.add_argument("--method", default="tera")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    if args.workdir.exists() and any(args.workdir.iterdir()):
        raise FileExistsError(f"{args.workdir} is not empty; choose another --workdir")
    fields = {
        "model.dtype": args.dtype,
        "loop.steps": args.steps,
        "loop.batch_size": args.batch_size,
        "loop.eval_every": args.steps,
        "evaluate.batch_size": 8,  # a dialogue has 7 to 9 records
        "optim.learning_rate": args.learning_rate,
        "optim.warmup_steps": 10,
    }
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    base = many.base_config(f"convai2:{args.method}", args.model, given)
    text = args.dialogues.read_text(encoding="utf-8")
    file = write(personas(text), args.count, args.workdir / "data")
    for line in table(base, file, args):
        print(line, flush=True)


if __name__ == "__main__":
    command.run(main)
