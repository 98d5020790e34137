r"""Every method on one small model and two real tasks, each at its own best learning rate.

    python -m benchmarks.methods --model=SmolLM2-135M-Instruct.gguf --gsm8k=gsm8k \
        --convai2=valid_self_original_no_cands.txt --output=methods.jsonl
    python -m benchmarks.methods --table --output=methods.jsonl

``--gsm8k`` is a directory with train.json, records of ``instruction`` and ``output``;
``--convai2`` a file in ParlAI's text format, split by dialogue. A run is 300 steps of AdamW on
batches of 32. For each method and task the learning rate climbs on one grid, two values a decade.
It stops when the best on the validation part has worse neighbours on both sides. Two more seeds
then run at that rate. The test part is read only by the table. A seed is that of the order of the
data, of d, and of the frozen network.

Each finished run is a line of ``--output``, and is not run again: an interrupted study goes on.
``--part=0/2`` takes every second method, for one process on each of two GPUs.
"""

import math
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.study import FIRST_SEED, Result, climb, keep, load_results, on_base, table
from benchmarks.variants import CHOICES, METHODS, PLAIN, Variant
from configs.commonsense import get_config
from tera_jax import sharding
from tera_jax.llama import load_pretrained, load_tokenizer
from tera_jax.ops import dispatch
from tera_jax.quantize import KINDS
from train import command, data
from train.config import parse
from train.data import records
from train.training.checkpoint import Meta
from train.training.loop import held_out_loss, to_device
from train.training.optim import optimizer
from train.training.run import Run, make_adapter
from train.training.step import init_state, make_eval_step, make_train_step, state_shardings

STEPS, WARMUP, BATCH = 300, 60, 32
SKIPPED = 10
"""Steps before the clock starts, the first of which may compile."""
SEEDS = (FIRST_SEED, 1, 2)


class Task(NamedTuple):
    """Where the three parts of a data set are, and the fields of ``DataConfig`` that go with it."""

    name: str
    train: str
    validation: str
    test: str
    fields: dict[str, Any]


class Examples(NamedTuple):
    """A task as token ids, without virtual tokens."""

    train: Sequence[data.Example]
    validation: Sequence[data.Example]
    test: Sequence[data.Example]


def tasks(gsm8k: str, convai2: str) -> tuple[Task, ...]:
    """The two tasks: GSM8K's 7,473 training records and 1,000 dialogues of ConvAI2."""
    records_ = {"max_prompt": 160, "max_response": 192, "append_eos": True}
    dialogues = {"prompt": "convai2", "bos": "always", "max_prompt": 128, "max_response": 24}
    train = f"{gsm8k}/train.json"
    return (
        Task("GSM8K", f"{train}[:6473]", f"{train}[6473:6973]", f"{train}[6973:]", records_),
        Task(
            "ConvAI2",
            f"{convai2}[:800]",
            f"{convai2}[800:900]",
            f"{convai2}[900:]",
            {**dialogues, "append_eos": True},
        ),
    )


class Base(NamedTuple):
    """What all runs share."""

    path: str
    model: Any
    params: Any
    tokenizer: Any
    mesh: Any
    quantize: str = "none"

    def named(self, variant: str) -> str:
        """A variant as the results name it."""
        return on_base(variant, self.quantize)


def load(path: str, quantize: str = "none") -> Base:
    """The base in bfloat16, on one device, with its linear layers quantised or not."""
    mesh = sharding.make_mesh(1, 1, 1)
    model, params = load_pretrained(
        path, dtype=jnp.bfloat16, mesh=mesh, remat="none", quantize=quantize
    )
    return Base(path, model, params, load_tokenizer(path), mesh, quantize)


def make_run(base: Base, variant: Variant, task: Task, seed: int) -> Run:
    """The parts of a run; the seed is that of the frozen network, where the method has one."""
    config = get_config(variant.method)
    config.model.path = base.path
    config.data.path = task.train
    config.data.update(task.fields)
    for key, value in variant.fields.items():
        config.method[key] = value
    if "seed" in config.method:
        config.method.seed = seed
    config.optim.learning_rate = 1.0  # times what the state of the optimizer holds
    config.optim.warmup_steps = WARMUP
    config.loop.batch_size = config.evaluate.batch_size = BATCH
    parsed = parse(config)
    adapter = make_adapter(parsed, base.model)
    frozen = jax.jit(adapter.init_frozen)(base.params)
    meta = Meta(0, "", "", {})  # of checkpoints, which are not written here
    return Run(parsed, base.mesh, base.model, base.params, base.tokenizer, adapter, frozen, meta)


def read(base: Base, task: Task) -> Examples:
    """The three parts as token ids."""
    config = make_run(base, PLAIN, task, seed=0).config.data
    parts = (records.load(path, config.prompt) for path in (task.train, task.validation, task.test))
    return Examples(*(data.tokenize(part, base.tokenizer, config) for part in parts))


class Trainer:
    """One method on one task, compiled once for all its learning rates and seeds."""

    def __init__(self, base: Base, variant: Variant, task: Task, examples: Examples) -> None:
        self._base, self._variant, self._task = base, variant, task
        run = self._run = make_run(base, variant, task, seed=0)
        virtual = run.virtual_tokens
        self._examples = Examples(
            *(
                [data.Example.of([*virtual, *x.prompt], x.response) for x in part]
                for part in examples
            )
        )
        rate = optax.inject_hyperparams(optax.scale)(step_size=1.0)
        chain = optax.chain(optimizer(run.config.optim, STEPS), rate)

        def init(params: Any, frozen: Any, seed: Any, learning_rate: Any) -> Any:
            state = init_state(run.adapter.init_d(params, frozen, seed=seed), chain)
            state.opt[-1].hyperparams["step_size"] = learning_rate
            return state

        state = jax.eval_shape(init, run.params, run.frozen, 0, jnp.float32(1.0))
        layout = state_shardings(state, run.adapter, chain, run.mesh)
        self._init = jax.jit(init, out_shardings=layout)
        self.trained = sum(leaf.size for leaf in jax.tree.leaves(state.d))
        self._step = make_train_step(run.model, run.adapter, chain, run.mesh, run.params, state)
        self._eval = make_eval_step(run.model, run.adapter, run.mesh, run.params)

    def __call__(self, learning_rate: float, seed: int) -> Result:
        """Train from the start and measure the end; a loss that is not finite counts as infinite.

        The seconds a step are those after the first ``SKIPPED``, with the host's part.
        """
        run = self._run if seed == 0 else make_run(self._base, self._variant, self._task, seed)
        state = self._init(run.params, run.frozen, seed, jnp.float32(learning_rate))
        virtual = len(run.virtual_tokens)
        stream = data.DataIterator(
            self._examples.train, BATCH, seed, run.config.data, virtual=virtual
        )
        start = 0.0
        for step in range(STEPS):
            if step == SKIPPED:
                jax.block_until_ready(state)
                start = time.perf_counter()
            batch = to_device(next(stream), run)
            state, _ = self._step(state, run.params, run.frozen, batch)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - start) / (STEPS - SKIPPED)
        losses = self.losses(state.d, run)
        return Result(
            self._base.named(self._variant.name),
            self._task.name,
            learning_rate,
            seed,
            *losses,
            self.trained,
            seconds,
            dispatch.device_kind(),
        )

    def losses(self, d: Any, run: Run) -> tuple[float, float]:
        """Of the validation and the test part."""
        validation, test = (
            held_out_loss(run, self._eval, d, part)
            for part in (self._examples.validation, self._examples.test)
        )
        return _or_inf(validation), _or_inf(test)

    def untrained(self) -> Result:
        """The base: an adapter before its first step."""
        run = self._run
        d = self._init(run.params, run.frozen, 0, jnp.float32(1.0)).d
        device = dispatch.device_kind()
        name = self._base.named("base")
        return Result(name, self._task.name, 0.0, 0, *self.losses(d, run), 0, 0.0, device)


def _or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def study(
    base: Base, task: Task, examples: Examples, variants: Sequence[Variant], output: Path
) -> list[str]:
    """Run what is not in ``output`` yet, and return the names of the variants that failed."""
    failed = []
    untrained = (base.named("base"), task.name)
    if not any((r.variant, r.task) == untrained for r in load_results(output)):
        keep(Trainer(base, PLAIN, task, examples).untrained(), output)
    for variant in variants:
        try:
            tune(base, task, examples, variant, output)
        except Exception:  # the others still run, and the exit status tells
            traceback.print_exc()
            failed.append(f"{variant.name} on {task.name}")
    return failed


def tune(base: Base, task: Task, examples: Examples, variant: Variant, output: Path) -> None:
    """One method on one task: the climb, and the other seeds at the rate where it ends."""
    done = {
        (result.learning_rate, result.seed): result
        for result in load_results(output)
        if (result.variant, result.task) == (base.named(variant.name), task.name)
    }
    trainer: Trainer | None = None

    def run(rate: float, seed: int) -> Result:
        nonlocal trainer
        if (rate, seed) not in done:
            trainer = trainer or Trainer(base, variant, task, examples)
            done[rate, seed] = keep(trainer(rate, seed), output)
        return done[rate, seed]

    rate = climb(lambda rate: run(rate, SEEDS[0]).validation, variant.start)
    for seed in SEEDS[1:]:
        run(rate, seed)


def main() -> None:
    """Run, or print the table."""
    parser = command.parser(main)
    parser.add_argument("--model", help="a SmolLM2-135M: GGUF file or directory")
    parser.add_argument("--gsm8k", help="directory of train.json and test.json")
    parser.add_argument("--convai2", help="ConvAI2's dialogues in ParlAI's text format")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, one a run")
    parser.add_argument("--quantize", default="none", choices=("none", *KINDS), help="of the base")
    parser.add_argument("--choices", action="store_true", help="TeRA's open choices as well")
    parser.add_argument("--only", nargs="+", help="names of variants, such as lora")
    parser.add_argument("--tasks", nargs="+", help="GSM8K, ConvAI2 or both, the default")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th variant from the i-th on")
    parser.add_argument("--table", action="store_true", help="print the table of --output and end")
    args = parser.parse_args()
    if args.table:
        order = ["base", *(variant.name for variant in (*METHODS, *CHOICES))]
        rows = [on_base(variant, kind) for kind in ("none", *KINDS) for variant in order]
        print(table(load_results(args.output), rows))
        return
    part, parts = map(int, args.part.split("/"))
    groups = [METHODS, CHOICES] if args.choices else [METHODS]
    names = {variant.name for group in groups for variant in group}
    only = set(args.only or names)
    if only - names:
        parser.error(f"{sorted(only - names)} are none of {sorted(names)}")
    base = load(args.model, args.quantize)
    asked = [t for t in tasks(args.gsm8k, args.convai2) if t.name in (args.tasks or t.name)]
    examples = [read(base, task) for task in asked]
    failed = []
    with jax.set_mesh(base.mesh):
        for group in groups:
            own = [variant for variant in group if variant.name in only][part::parts]
            for task, tokens in zip(asked, examples, strict=True):
                failed += study(base, task, tokens, own, args.output)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    command.run(main)
