"""Tables of evaluated runs in the layout of the TeRA paper, and a test of significance.

    python -m train.report runs/tera-0 runs/tera-1 runs/vera-0 runs/vera-1 --output=report
    python -m train.report --paper --exact

Reads ``<run>/evaluation/<task>/summary.json`` of each run, which ``train.evaluate`` writes. Runs of
the same model, method and count of trainable parameters are one row, with mean and sample standard
deviation over their seeds. Prints Markdown; ``--output`` also gets ``report.md`` and
``report.csv``, which has a line for each cell, unrounded. A run that has not been evaluated, or
whose summary cannot be read, is left out with a line on stderr. ``--paper`` needs no runs: it
repeats the tests of the paper's Appendix H on the scores that the paper prints.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tera_jax.atomic import write_text

from . import command
from .evaluation.summaries import read_possible
from .evaluation.tables import comma_separated, markdown, paper


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report, and write it."""
    parser = command.parser(main)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="directories of runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for report.md and report.csv")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare each other method with this one only"
    )
    parser.add_argument(
        "--exact", action="store_true", help="p values of the exact test too, whatever the ties"
    )
    parser.add_argument(
        "--paper", action="store_true", help="the paper's Appendix H, from its printed scores"
    )
    args = parser.parse_args(argv)
    if args.paper:
        if args.runs or args.output or args.baseline:
            parser.error("--paper reports no runs; leave out RUN, --output and --baseline")
        print(paper(args.exact))
        return
    if not args.runs:
        parser.error("name the directories of runs, or give --paper")

    files = [args.output / name for name in ("report.md", "report.csv")] if args.output else []
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists; remove it or choose another --output")
    summaries, left_out = read_possible(args.runs)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    if not summaries:
        raise SystemExit("error: none of the runs can be reported")
    text = markdown(summaries, args.baseline, args.exact)
    print(text)
    for file, content in zip(files, (text + "\n", comma_separated(summaries)), strict=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, content)


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
