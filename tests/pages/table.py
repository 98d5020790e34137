"""What in the pages stands for what in the tests, and which commands are not run, and why."""

import re
from collections.abc import Sequence

LIMITS = {
    "-m train.main": (
        "--config.loop.steps=2",
        "--config.loop.eval_every=2",
        "--config.loop.batch_size=4",
        "--config.evaluate.batch_size=4",
        "--config.data.validation_rows=4",
        "--config.decoding.max_new_tokens=4",
    ),
    "--config.optim.schedule=wsd": (
        "--config.optim.warmup_steps=1",
        "--config.optim.decay_steps=1",
    ),
    "-m train.many": (
        "--config.loop.epochs=0.1",
        "--config.loop.eval_every=2",
        "--config.evaluate.batch_size=4",
    ),
    "-m train.evaluate": ("--limit=2", "--max-new-tokens=4"),
    "-m train.generate": ("--max-new-tokens=4",),
    "-m train.compare": ("--rates=1e-2", "--seeds=1", "--steps=2"),
    "-m train.plan_scheme --model=path/to/model --budget=40000 --data": (
        *("--rows=2", "--steps=2", "--seeds=1", "--set", "data.packed_length=128"),
    ),
    "--as=lora": ("--rank=8",),
    "-m benchmarks.data": ("--records=400",),
    "-m benchmarks.fp8_gradient": ("--rows=8", "--batch=8", "--max-prompt=32"),
    "-m benchmarks.fp8_sums": ("--tokens=8", "--inputs=64", "--outputs=48"),
    "-m benchmarks.generation": ("--prompts=2", "--batches=2", "--settings=4 beams"),
    "-m benchmarks.loading": ("--model=tiny", "--block=32"),
    "-m benchmarks.many_personas": ("--count=2", "--checked=1", "--steps=2", "--active=2"),
    "-m benchmarks.methods": ("--only=lora", "--tasks=ConvAI2"),
    "-m benchmarks.methods --schemes --list": ("--only=tera",),
    "-m benchmarks.mixed_rows": ("--tiny", "--repeats=1", "--cases=vera"),
    "-m benchmarks.packing": ("--count=20",),
    "-m benchmarks.soft_caps": (
        "--model=tiny",
        "--layers=1",
        "--rows=2",
        "--length=16",
        "--steps=1",
    ),
    "-m benchmarks.quantized": ("--rows=8", "--batch=8", "--max-prompt=32"),
    "-m benchmarks.quantized --model=SmolLM2-135M-Instruct.gguf --gradients": (
        *("--kinds", "nf4", "fp8:both"),  # tests/benchmarks/test_quantized.py has all kinds
    ),
    "-m benchmarks.quantized --model=SmolLM2-135M-Instruct.gguf --dtype": ("--kinds", "int8"),
    "-m benchmarks.rounding": ("--cases=vera", "--adapters=1", "--rows=1", "--length=4"),
    "-m benchmarks.serving": (
        *("--model=tiny", "--adapters=20", "--requests=4", "--rounds=1", "--concurrency=2"),
        *("--prompt=4", "--answer=4", "--reads=3"),
    ),
    "-m benchmarks.store": ("--count=20", "--numbers=50", "--reads=5"),
    "-m benchmarks.speed": (
        "--model=tiny",
        "--layers=1",
        "--rows=2",
        "--length=16",
        "--steps=2",
        "--packed=512",
    ),
    "-m benchmarks.speed --model=llama-2-7b --quantize=nf4": ("--block=32",),
    "-m benchmarks.speed --model=llama-2-7b --quantize none int8": (
        *("--block=32", "--quantize", "none", "nf4", "--cases", "frozen", "tera:structured"),
    ),
    "-m benchmarks.speed --model=llama-2-7b --layers=8 --mesh data=1 data=2 fsdp=2": (
        *("--mesh", "data=1", "fsdp=2", "--cases", "frozen"),
    ),
}
"""Flags behind those of a command with that part, which stay as they are printed: the later of two
flags counts."""

STANDS_FOR = {
    "MODEL": "path/to/model",
    "NAME": "lora",
    "runs/NAME": "runs/lora",
    "/tmp/synthetic": "synthetic",
    "/usr/share/wordnet": "wordnet",
}
"""Parts of words of commands; all other names are files of tests/pages/world.py."""

WRITTEN = {"--config=plan/winner.py": ("--config=sft", "--config.model.path=m")}
"""Configurations that a command of the page writes, and what stands for them unless it has run."""

NOT_RUN = {
    "pip install": "it installs",
    "make ": "it installs, builds or starts these tests",
    "-m pytest": "it starts these tests",
    "bash -c": "it times a process of its own",
    "srun": "a cluster",
    "...": "the dots stand for the reader's flags",
    "--config=configs/quickstart.py": "the real weights; `make quickstart` trains them",
    "-m train.harness": "data sets of the hub; tests/train/test_harness.py has its own",
    "-m tests.faults.inject": "runs that are killed; tests/faults/test_faults.py kills others",
    "--compile": "a step of 70B or more; tests/train/params/test_plan.py compiles a small one",
    "-m train.params --paper": "tests/train/params/test_count.py runs it",
    "-m train.compare --config=smollm2": "the study of benchmarks.methods; docs/methods.md runs it",
    "-m benchmarks.methods --schemes --model": "kernels of 576; tests/benchmarks/test_schemes.py",
    "-m benchmarks.planner --probe": "kernels of 576; tests/benchmarks/test_planner.py",
    "-m benchmarks.data --compare": "two processes; tests/benchmarks/test_data.py has some records",
    "-m benchmarks.svd": "two whole runs; tests/benchmarks/test_svd.py has a small one",
    "-m benchmarks.held_out": "a whole study; tests/benchmarks/commonsense has a small one",
    "-m benchmarks.kernels": "a GPU's kernels",
    "--anchors lora tunix": "tunix asks for many packages, and is not installed with the tests",
    "benchmarks.methods --quantize=fp8": "the study of docs/methods.md again, which runs",
    "--sweep=methods": "a minute; tests/benchmarks/test_sweeps.py measures the methods",
    "--sweep=tokens": "two minutes of the smallest model; the other sweeps run",
    "-m benchmarks.soak": "minutes; tests/benchmarks/test_soak.py has some seconds of it",
    "-m tera_jax.serve": "a server; tests/tera_jax/serve/http starts it",
    "python examples/serving/router.py": "a server; tests/tera_jax/serve/http starts it",
    "lm_eval ": "data of the hub; tests/train/evaluation/test_local_completions.py has its own",
    "curl": "a server; the page's Python asks one",
}
"""Parts of commands whose flags are only read, each with the reason."""


def limits(module: str, arguments: Sequence[str]) -> list[str]:
    """What :data:`LIMITS` puts behind the arguments of a module."""
    text = " ".join(["-m", module, *arguments])
    return [flag for part, flags in LIMITS.items() if part in text for flag in flags]


def in_small(word: str) -> str:
    """A word of a command with what the table puts in place of its parts."""
    for name, value in STANDS_FOR.items():
        word = re.sub(rf"(?<![\w./]){re.escape(name)}(?![\w/])", value, word)
    return word
