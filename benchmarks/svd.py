r"""What a LoRA of each rank loses of a trained adapter: error of ΔW and held-out NLL.

    python -m benchmarks.svd runs/tera runs/hira --ranks 8 16 32 64 128 256 --output=svd.csv

Each argument is the directory of a run. ΔW of every layer is cut off behind its largest singular
values (:mod:`tera_jax.adapters.truncation`). A kernel with a shorter side than a rank keeps all of
its ΔW. The error is that of all layers together, and the worst of one layer. The NLL is of the
run's own held-out records, in nats a target token, with ΔW merged into weights of the run's type.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from tera_jax import atomic
from tera_jax.adapters import combine as sums
from tera_jax.adapters.truncation import decompose
from tera_jax.llama import load_tokenizer
from train import combine, command, data
from train.config import Config
from train.data import records
from train.evaluation.nll import Nll
from train.training import run as runs

RANKS = (8, 16, 32, 64, 128, 256)
COLUMNS = ("run", "method", "rank", "relative error", "worst layer", "share kept", "NLL")


def rows(workdir: Path, ranks: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The lines of one run: the base, the run itself, and each rank.

    Raises:
        FileNotFoundError: when there is no run.
        ValueError: for a method that is no ΔW of kernels, or a rank above that of every kernel.
    """
    source = combine.source(str(workdir))
    if source.config is None or source.adapter is None:
        raise ValueError(f"{workdir} is an adapter; name the directory of a run")
    combine.require_possible([source], "lora", 1)
    most = max(min(layer.kernel_shape) for layer in source.adapter.layers)
    if not all(1 <= rank <= most for rank in ranks):
        raise ValueError(f"ranks {list(ranks)}; those of {workdir} are from 1 to {most}")
    config = combine.base_config([source])
    tokenizer = load_tokenizer(config.model.path)
    valid = held_out(source.config, tokenizer)
    base = runs.build(config, tokenizer=tokenizer)
    with jax.set_mesh(base.mesh):
        terms = [combine.term(source, base)]
        nll, found = Nll(base, valid), decompose(terms, max(ranks))
        name = (workdir.name, source.adapter.name)
        yield (*name, "base", 1.0, 1.0, 0.0, nll(base.params))
        yield (*name, "exact", 0.0, 0.0, 1.0, nll(sums.merged(terms)))
        for rank in ranks:
            adapter, d = found.lora(rank)
            merged = sums.merged([sums.Term(1.0, adapter, {**base.variables(d), "frozen": {}})])
            worst, total = max(each.error for each in found.errors(rank)), found.total(rank)
            yield (*name, rank, total.error, worst, total.share, nll(merged))


def held_out(config: Config, tokenizer: Any) -> Sequence[data.Example]:
    """The held-out records of a run."""
    sources = records.sources(config.data)
    _, chosen = records.split(config.data, sources)
    place = [*sources.values()][-1].place
    return data.tokenize(chosen, tokenizer, config.data, place=place)


def markdown(found: Sequence[Sequence[Any]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"| {' | '.join('---' for _ in COLUMNS)} |"
    for run, method, rank, error, worst, share, nll in found:
        cells = (run, method, rank, f"{error:.4f}", f"{worst:.4f}", f"{share:.2%}", f"{nll:.4f}")
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure, print, write."""
    args = _parser().parse_args()
    found = [row for workdir in args.workdirs for row in rows(workdir, args.ranks)]
    print("\n".join(markdown(found)))
    if args.output is not None:
        with atomic.replacing(args.output) as part, part.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *found])


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(main)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="RUN", help="a finished run")
    parser.add_argument("--ranks", nargs="+", type=int, default=[*RANKS])
    parser.add_argument("--output", type=Path, help="a CSV file for the table")
    return parser


if __name__ == "__main__":
    command.run(main)
