"""Do the tests catch what is wrong? One patch at a time, on a copy of the working tree.

    python -m tests.mutations
    python -m tests.mutations --only mask "order of d"
    python -m tests.mutations --list

The tests that the patches name are run once as they are, and must pass. Then each patch is made and
its test run, of which an assertion must fail. The exit status is 1 where a mutation survives.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutations import application, library
from tests.mutations.patch import Patch

ROOT = Path(__file__).parents[2]
_PASSED, _FAILED = 0, 1
"""What pytest returns; anything else is that it could not run the tests."""
_ASSERTION = re.compile(r"^E +(AssertionError|assert )", re.MULTILINE)
_RESULTS = {"failed": "caught", "passed": "SURVIVED", "crashed": "CRASHED"}
"""A patch that crashes says nothing of what the test asserts."""


PATCHES = (*library.PATCHES, *application.PATCHES)


def copy_tree(source: Path, target: Path) -> None:
    """The files of a working tree that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():  # not one that was removed since
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def patched_text(text: str, patch: Patch) -> str:
    """The text of its file with the patch.

    Raises:
        ValueError: when the old text is not there exactly once.
    """
    count = text.count(patch.old)
    if count != 1:
        raise ValueError(
            f"{patch.kind} ({patch.what}): {patch.file} has {patch.old!r} {count} times and not "
            "once; correct the patch"
        )
    return text.replace(patch.old, patch.new)


@contextlib.contextmanager
def patched(directory: Path, patch: Patch) -> Iterator[None]:
    """The copy with one patch."""
    file = directory / patch.file
    before = file.read_text(encoding="utf-8")
    file.write_text(patched_text(before, patch), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


def run_tests(directory: Path, tests: Sequence[str]) -> str:
    """``passed``, or ``failed`` by an assertion, or ``crashed`` by anything else.

    Raises:
        RuntimeError: when pytest could not run them, with what it said.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not long", *tests]
    # No bytecode: that of a patch may be as old and as long as that of the next one.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode not in (_PASSED, _FAILED):
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode == _PASSED:
        return "passed"
    return "failed" if _ASSERTION.search(done.stdout) else "crashed"


def line(patch: Patch, result: str) -> str:
    """A row of the table."""
    name = patch.test.rpartition("::")[2]
    return f"{patch.kind:<20}{patch.what:<64}{result:<10}{name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the number of mutations that were not caught."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = list(dict.fromkeys(patch.kind for patch in PATCHES))
    parser.add_argument("--only", nargs="+", choices=kinds, metavar="KIND", default=kinds)
    parser.add_argument("--list", action="store_true", help="print the patches and their tests")
    args = parser.parse_args(argv)
    chosen = [patch for patch in PATCHES if patch.kind in args.only]
    for patch in chosen:
        patched_text((ROOT / patch.file).read_text(encoding="utf-8"), patch)
    if args.list:
        print(*(line(patch, "") for patch in chosen), sep="\n")
        return 0
    with TemporaryDirectory() as place:
        directory = Path(place)
        copy_tree(ROOT, directory)
        tests = list(dict.fromkeys(patch.test for patch in chosen))
        if run_tests(directory, tests) != "passed":
            raise RuntimeError("a test fails without any patch; run the tests first")
        survived = 0
        for patch in chosen:
            with patched(directory, patch):
                result = _RESULTS[run_tests(directory, [patch.test])]
            survived += result != "caught"
            print(line(patch, result), flush=True)
    print(f"{len(chosen)} mutations, {survived} not caught")
    return survived


if __name__ == "__main__":
    sys.exit(bool(main()))
