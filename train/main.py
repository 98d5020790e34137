"""Fine-tune a Llama with one config file.

    python -m train.main --config=configs/quickstart.py [--workdir=...] [--config.KEY=VALUE ...]

``--print-config`` prints every field with its value, its default and what it means.

The same command goes on after an interruption from the last checkpoint. Several processes, each
started with it, train together: see train/training/distributed.py and docs/scaling.md.
"""

import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from tera_jax.llama import load_tokenizer

from . import command, data, evaluate, export
from .config import Config, flag, listing, parse, to_dict
from .data import records
from .evaluation import answers
from .training import distributed, lock, stops
from .training import run as runs
from .training.data_identity import keep_data_identity, require_same_data
from .training.loop import fit
from .training.workdir import init_workdir, require_workdir

_CONFIG = flag.define("config")
_PRINT_CONFIG = flags.DEFINE_bool("print-config", False, "print every field of the config and end")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run is kept; runs/<name of the config>")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes train together")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
flags.DEFINE_bool("debug", False, "show the traceback of every error")


def main(_: Sequence[str]) -> None:
    """Load, measure, train, measure, export."""
    if _PRINT_CONFIG.value:
        print(listing.listing(_CONFIG.value))
        return
    logging.set_verbosity(logging.WARNING)  # Orbax reports each of its steps at INFO
    distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = parse(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    method = "" if config.method.name == "tera" else f"-{config.method.name}"
    workdir = Path(_WORKDIR.value or f"runs/{name}{method}")
    distributed.require_same({**to_dict(config), "workdir": str(workdir)})
    export.require_possible(config)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(stops.disk_full(workdir))
            distributed.on_main_process(lambda: require_workdir(workdir, config))
            distributed.on_main_process(lambda: stack.enter_context(lock.held(workdir)))
            _train(config, workdir)
    except stops.Stopped as stopped:
        try:
            distributed.log(stopped.message)
        except OSError:  # it lies on the full disk too; at its end Python flushes what is left
            sys.stdout = None
        raise


def _train(config: Config, workdir: Path) -> None:
    """The run in a directory that this process holds."""
    tests = evaluate.load_tests(config.evaluate, config.data)
    answers.require(tests, config.evaluate)
    sources = records.sources(config.data)
    identities = records.identities(sources, config.data)
    distributed.require_same(identities)
    distributed.on_main_process(lambda: require_same_data(workdir, identities))
    tokenizer = load_tokenizer(config.model.path)
    prepared = data.prepare(config.data, tokenizer, sources)
    del sources
    distributed.log("\n".join(prepared.lines))

    run = runs.build(config, workdir, tokenizer, identities)
    distributed.on_main_process(lambda: init_workdir(workdir, config))
    distributed.on_main_process(lambda: keep_data_identity(workdir, identities))
    runs.keep_frozen(run, workdir)
    distributed.log(runs.describe(run))
    train = prepared.train.after(run.virtual_tokens)
    valid = prepared.held_out.after(run.virtual_tokens)
    measure = functools.partial(
        evaluate.measure, valid=valid, tests=tests, earlier=workdir / "earlier"
    )
    for part in (train, valid):
        data.require_context(part, config.data, run.model.config.max_position_embeddings)
    with jax.set_mesh(run.mesh):
        # No name is kept for the untrained d: it can be as large as the base.
        before = measure(run, 0, runs.init_d(run), workdir / "before")
        run = runs.unrolled(run)
        fit(run, workdir, train, valid)
        run = runs.rolled(run)
        step, d = runs.restore_best(run, workdir)
        after = measure(run, step, d, workdir / "evaluation")
    distributed.log(evaluate.table({"before": before, f"after (step {step})": after}))
    for kind in config.export:
        path = export.export_once(run, d, kind, workdir)
        print(f"{kind:<12}{path} ({export.size(path)})")
    distributed.log(f"{'checkpoints':<12}{workdir / 'checkpoints'}")


def cli() -> None:
    """The command, on the arguments of the process."""
    flags.mark_flag_as_required("config")
    command.run(lambda: app.run(main, flags_parser=flags.FLAGS))


if __name__ == "__main__":
    cli()
