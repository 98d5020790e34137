"""The patches apply to today's files, and name tests that are there and are quick.

``python -m tests.mutations`` runs them; it takes long.
"""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from tests.mutations.__main__ import PATCHES, ROOT, patched_text
from tests.mutations.patch import Patch


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.what)
def test_a_patch_applies_and_its_test_is_quick(patch):
    text = (ROOT / patch.file).read_text(encoding="utf-8")
    ast.parse(patched_text(text, patch))
    file, _, name = patch.test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    marks = [ast.unparse(mark) for mark in tests[name.partition("[")[0]].decorator_list]
    marks += [ast.unparse(node) for node in tree.body if "pytestmark" in ast.unparse(node)]
    assert not any("mark.long" in mark for mark in marks)


@pytest.mark.long
def test_every_case_that_a_patch_names_is_there_and_quick():
    tests = sorted({patch.test for patch in PATCHES})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist"]
    found = subprocess.run(
        [*command, "-m", "not long", *tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    collected = {line for line in found.stdout.splitlines() if "::" in line}
    functions = {line.partition("[")[0] for line in collected}
    assert not [test for test in tests if test not in collected | functions]


def test_each_kind_has_two_patches_at_least_and_no_two_are_alike():
    assert len(PATCHES) >= 24
    assert min(Counter(patch.kind for patch in PATCHES).values()) >= 2
    assert len({(patch.file, patch.old, patch.new) for patch in PATCHES}) == len(PATCHES)


def test_a_patch_whose_text_is_gone_or_doubled_is_refused():
    patch = Patch("kind", "what", "file", "a = 1", "a = 2", "test")
    assert patched_text("a = 1\nb = 1\n", patch) == "a = 2\nb = 1\n"
    for text in ("b = 1\n", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match="correct the patch"):
            patched_text(text, patch)
