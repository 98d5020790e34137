"""Damaged files for every reader, for as long as is wanted.

    python -m tests.fuzz --seconds=600
    python -m tests.fuzz --only GGUF --seed=7

A file must load or be refused by one clear error, in 20 s and 1 GiB. The exit status is 1 where one
is not; the line says by which name ``tests.fuzz.fuzz`` damages it again.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz import fuzz, readers


def main() -> int:
    """Print a line for each reader; how many files were at fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="READER", help="such as GGUF")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as place:
        directory = Path(place)
        known = readers.make(directory / "whole")
        chosen = [
            reader for reader in known if reader.name in (args.only or {r.name for r in known})
        ]
        if not chosen:
            parser.error(f"choose among {[reader.name for reader in known]}")
        faults = 0
        for number, reader in enumerate(chosen):
            outcome = fuzz.fuzz(
                reader,
                directory / str(number),
                count=10**9,
                seed=args.seed,
                seconds=args.seconds / len(chosen),
            )
            print(fuzz.line(reader, outcome), *outcome.faults, sep="\n    ", flush=True)
            faults += len(outcome.faults)
    return faults


if __name__ == "__main__":
    sys.exit(bool(main()))
