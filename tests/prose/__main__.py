"""Print what is not in plain words: sentences that are too long, and names that were renamed.

    python -m tests.prose [ROOT]

The exit status is 1 where there is one.
"""

import sys
from pathlib import Path

from . import code, pages, renamed, sentences

ROOT = Path(__file__).parents[2]


def main(root: Path = ROOT) -> int:
    """Print a line for each; whether there is one."""
    found = sentences.too_long([*pages.pieces(root), *code.pieces(root)])
    for sentence in found:
        print(f"{sentence.file}:{sentence.line}: {sentence.words} words: {sentence.text}")
    old = renamed.found(root)
    for use in old:
        print(f"{use.file}:{use.line}: {use.name} is now {renamed.NAMES[use.name]}: {use.text}")
    print(f"{len(found)} sentences above {sentences.MOST_WORDS} words, {len(old)} old names")
    return int(bool(found or old))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
