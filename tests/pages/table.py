"""What in the pages stands for what in the tests, and which commands are not run, and why."""

import re

LIMITS = {
    "train.main": (
        "--config.loop.steps=2",
        "--config.loop.eval_every=2",
        "--config.loop.batch_size=4",
        "--config.evaluate.batch_size=4",
        "--config.data.validation_rows=4",
        "--config.decoding.max_new_tokens=4",
    ),
    "train.many": (
        "--config.loop.epochs=0.1",
        "--config.loop.eval_every=2",
        "--config.evaluate.batch_size=4",
    ),
    "train.evaluate": ("--limit=2", "--max-new-tokens=4"),
    "train.generate": ("--max-new-tokens=4",),
}
"""Behind a command's own flags, which stay as they are printed: the later of two flags counts."""

STANDS_FOR = {
    "MODEL": "path/to/model",
    "NAME": "lora",
    "runs/NAME": "runs/lora",
    "/usr/share/wordnet": "wordnet",
}
"""Parts of words of commands; all other names are files of tests/pages/world.py."""

NOT_RUN = {
    "pip install": "it installs",
    "make ": "it installs, builds or starts these tests",
    "-m pytest": "it starts these tests",
    "bash -c": "it times a process of its own",
    "srun": "a cluster",
    "...": "the dots stand for the reader's flags",
    "--config=configs/quickstart.py": "the real weights; `make quickstart` trains them",
    "-m train.compare": "a study; tests/train/studies runs small ones, their reports too",
    "-m train.harness": "data sets of the hub; tests/train/test_harness.py has its own",
    "-m tests.faults.inject": "runs that are killed; tests/faults/test_faults.py kills others",
    "--compile": "a step of 70B or more; tests/train/params/test_plan.py compiles a small one",
    "--paper": "tests/train/params/test_count.py runs it",
    "-m benchmarks.data": "a million records; tests/benchmarks/test_data.py has fewer",
    "-m benchmarks.fp8_gradient": "the real weights",
    "-m benchmarks.generation": "torch beside the real weights",
    "-m benchmarks.held_out": "a whole study; tests/benchmarks/commonsense has a small one",
    "-m benchmarks.kernels": "a GPU's kernels",
    "-m benchmarks.loading": "the weights of a model of 7B",
    "-m benchmarks.methods --choices": "a whole study",
    "-m benchmarks.methods --quantize": "a whole study",
    "-m benchmarks.mixed_rows": "the weights of a model of 7B",
    "-m benchmarks.packing": "the real records",
    "-m benchmarks.quantized": "the real weights",
    "-m benchmarks.speed": "the weights of a model of 7B",
}
"""Parts of commands whose flags are only read, each with the reason."""


def in_small(word: str) -> str:
    """A word of a command with what the table puts in place of its parts."""
    for name, value in STANDS_FOR.items():
        word = re.sub(rf"(?<![\w./]){re.escape(name)}(?![\w/])", value, word)
    return word
