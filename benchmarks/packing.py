r"""How full packed rows are: in the order of the records, and in that of train/data/packing.py.

    python -m benchmarks.packing --records=commonsense_161k.jsonl.gz \
        --tokenizer=SmolLM2-135M-Instruct.gguf

A step has 4,096 positions, in rows of each length. Records are a random sample.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.batches import commonsense, read_examples
from train import command, data
from train.config import DataConfig
from train.data import Example, packing
from train.data.packing import Row, Size

PLACES = 4096
LENGTHS = (512, 1024, 2048)


def filled(sizes: Sequence[Size], order: Iterable[int], row: Row) -> float:
    """The part of the positions of all steps that has a token."""
    steps = packing.batches((sizes[i] for i in order), PLACES // row.tokens, row)
    tokens = sum(size.tokens for size in sizes)
    return tokens / (sum(1 for _ in steps) * PLACES)


def table(examples: Sequence[Example], settings: DataConfig) -> Iterator[str]:
    """Markdown."""
    yield "| tokens of a row | as they come | as train/data/packing.py has them |"
    yield "| ---: | ---: | ---: |"
    for length in LENGTHS:
        packed = dataclasses.replace(settings, packed_length=length)
        sizes, row = data.measure(examples, packed, virtual=0)
        parts = (
            filled(sizes, order, row) for order in (range(len(sizes)), packing.order(sizes, row))
        )
        yield f"| {length:,} | {' | '.join(f'{part:.1%}' for part in parts)} |"


def main() -> None:
    """Print the table."""
    parser = command.parser(main)
    parser.add_argument("--records", required=True, help="a file of commonsense records")
    parser.add_argument("--tokenizer", required=True, help="a model whose tokenizer reads them")
    parser.add_argument("--count", type=int, default=6000, help="records in the sample")
    args = parser.parse_args()
    settings = commonsense()
    examples = read_examples(args.records, args.tokenizer, args.count, settings)
    print(*table(examples, settings), sep="\n")


if __name__ == "__main__":
    command.run(main)
