"""What an import loads and prints, seen from a process of its own."""

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import tera_jax
import tera_jax.llama
import train

HEAVY = ["transformers", "datasets", "orbax", "gguf", "huggingface_hub", "torch", "lm_eval"]
STAGES = f"""
import json, sys
def loaded():
    return [name for name in {HEAVY} if name in sys.modules]
stages = []
for line in sys.argv[1:]:
    exec(line)
    stages.append(loaded())
print(json.dumps(stages))
"""


def run(code, *argv):
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)


def test_importing_the_library_prints_nothing_and_loads_little():
    """Neither do its names or the model load what reads files of others."""
    lines = [
        "import tera_jax; assert 'tera_jax.methods' not in sys.modules",
        "tera_jax.methods.tera.init_frozen",
        "from tera_jax import *; adapt, save_adapter, fold, generate, finetune",
        "from tera_jax.llama import Llama, LlamaConfig, generate",
    ]
    found = run(STAGES, *lines)
    assert found.stderr == ""
    assert found.stdout.splitlines() == [json.dumps([[]] * len(lines))]


def test_what_reads_files_is_loaded_when_it_is_asked_for():
    found = run(
        STAGES, *(f"from tera_jax.llama import load_{x}" for x in ("pretrained", "tokenizer"))
    )
    weights, tokenizer = json.loads(found.stdout.splitlines()[-1])
    assert {"gguf", "huggingface_hub"} <= {*weights}
    assert "transformers" in {*tokenizer} - {*weights}


@pytest.mark.parametrize("package", [tera_jax, tera_jax.llama])
def test_every_public_name_is_the_one_that_type_checkers_see(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (choice,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: line.module
        for line in choice.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert {*package.__all__} - {"__version__"} == {*seen}
    for name, module in seen.items():
        assert getattr(package, name) is getattr(sys.modules[module], name)
    with pytest.raises(
        AttributeError, match=f"module '{package.__name__}' has no attribute 'adpt'"
    ):
        package.adpt  # noqa: B018


@pytest.mark.long
def test_the_harness_tells_its_flags_without_lm_eval():
    blocked = """
import runpy, sys
sys.modules["lm_eval"] = None
sys.argv[0] = "harness"
runpy.run_module("train.harness", run_name="__main__")
"""
    assert "--num_fewshot" in run(blocked, "--help").stdout
    found = run(blocked, "--workdir=.", "--tasks=piqa", "--output=there.json")
    assert found.returncode == 2
    assert found.stderr.startswith("error: train.harness needs lm-evaluation-harness")
    assert "Traceback" not in found.stderr


def test_no_module_imports_itself_through_others():
    """Also not in a function or for type checkers; ``lint-imports`` asks the same of rooms."""
    graph = grimp.build_graph("tera_jax", "train", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert {"tera_jax.ops.numerics", "tera_jax.trees"} & imports["tera_jax.io.peft.layers"]
    graphlib.TopologicalSorter(imports).prepare()
    imports["tera_jax.trees"] = {"tera_jax.io.peft.layers"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports).prepare()


def absolute_imports(package):
    """The lines that name the package itself."""
    return [
        line
        for path in Path(package.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith((f"import {package.__name__}", f"from {package.__name__}"))
    ]


def test_the_application_imports_itself_by_relative_names():
    """So that it can be installed under another name."""
    assert absolute_imports(train) == []
    assert absolute_imports(tera_jax)
