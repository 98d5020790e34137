r"""Train many adapters of one base in one run: each has rows of every batch.

    python -m train.many --adapters=people.jsonl --model=<model> --workdir=runs/people
    python -m train.many --adapters=people/ --model=<model> --workdir=runs/people \
        --config=sft:lora --active=16 --config.optim.learning_rate=3e-3

``--adapters`` is a file with an object a line, ``{"name": "ana", "data": "ana.jsonl"}``, or a
directory with a file of records for each adapter. A line may also have ``validation``,
``learning_rate``, ``warmup_steps``, ``steps`` or ``epochs``, and ``seed``. All else is inherited
from ``--config`` and the flags ``--config.KEY=VALUE``. docs/many.md says more.

Each adapter is trained as it would be alone, with ``config.loop.batch_size`` rows a step. It is
written to ``<workdir>/adapters/<name>`` when it is finished. The same command goes on after an
interruption. The exit status is 1 where an adapter was stopped by a loss that is not finite.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from . import command, many_adapters
from .config import flag
from .training import distributed, stops

_FAILED = 1


def main(argv: Sequence[str] | None = None) -> None:
    """Read what is to be trained, and train it."""
    parser = command.parser(main)
    parser.add_argument("--adapters", type=Path, required=True, help="a .jsonl file, or a folder")
    parser.add_argument("--model", required=True, help="the base, as config.model.path")
    parser.add_argument("--workdir", type=Path, required=True, help="where the run is kept")
    parser.add_argument("--active", type=int, default=8, help="adapters in one step; by default 8")
    parser.add_argument("--config", default="sft", help="a recipe or a file; by default sft")
    args, fields = parser.parse_known_args(argv)
    for field in fields:
        if not field.startswith(("--config.", "--noconfig.")):
            parser.error(f"unknown argument {field}; the fields are --config.KEY=VALUE")
    logging.set_verbosity(logging.ERROR)  # Orbax warns of each checkpoint without a held-out loss
    base = base_config(args.config, args.model, fields)
    with stops.told():
        found = many_adapters.train(base, args.adapters, args.workdir, args.active)
    failed = [each.name for each in found if each.status == "failed"]
    if failed:
        distributed.log(f"{len(failed)} of {len(found)} adapters failed: {', '.join(failed)}")
        sys.exit(_FAILED)


def base_config(recipe: str, model: str, fields: Sequence[str]) -> dict[str, Any]:
    """A recipe for the model, with fields as the command line has them, as plain values."""
    values = flags.FlagValues()
    argv = ["train.many", f"--config={recipe}", f"--config.model.path={model}", *fields]
    holder = flag.define("config", values, argv)
    values(argv)
    return holder.value.to_dict()


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
