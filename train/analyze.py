"""What runs have learned: ranks, spectra and directions of their updates, as figures and tables.

    python -m train.analyze runs/tera-0 runs/tera-1 runs/lora-0 --output=analysis

Reads the best checkpoint of each run. ΔW of every kernel is computed in float64 from d and the
frozen arrays. Runs of one method, settings and task are seeds of one setting; their order does not
matter. All runs are of one base, which is loaded.

Writes ``analysis.json``, a PNG, an SVG and a CSV for each figure and task, and ``index.html`` with
all figures in it. A figure for which the runs lack data, and a run without updates of kernels, as
of prompts and TopLoRA, is left out with a line.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tera_jax import disk

from . import command, pictures
from .analysis import figures, report
from .analysis.analysed import analyse
from .analysis.members import read


def main(argv: Sequence[str] | None = None) -> None:
    """Check, compute, write."""
    parser = command.parser(main)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directories of runs")
    parser.add_argument("--output", type=Path, required=True, help="absent or empty")
    text = "measure the kernels of one layer of so many; by default of all"
    parser.add_argument("--every", type=int, default=1, metavar="N", help=text)
    args = parser.parse_args(argv)
    disk.require_empty(args.output)
    pictures.require()
    members, without = read(args.runs)
    for line in without:
        print(f"left out: {line}", file=sys.stderr)
    if not members:
        raise ValueError("none of the runs has updates of kernels; give runs of other methods")
    found = analyse(members, every=args.every)
    args.output.mkdir(parents=True, exist_ok=True)
    drawn, lacking = figures.write(found, args.output)
    for line in lacking:
        print(f"left out: {line}", file=sys.stderr)
    report.write(found, drawn, [*without, *lacking], args.output)
    print(f"figures: {len(drawn)}, runs: {len(found)}, page: {args.output / report.PAGE}")


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
