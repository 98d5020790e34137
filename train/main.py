"""Fine-tune a Llama with one config file.

    python -m train.main --config=configs/quickstart.py [--workdir=...] [--config.KEY=VALUE ...]

``--print-config`` prints every field with its value, its default and what it means.

The same command goes on after an interruption from the last checkpoint. Several processes, each
started with it, train together: see train/training/distributed.py and docs/scaling.md.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from . import command, pipeline
from .config import flag, listing, parse, to_dict
from .training import distributed, stops

_CONFIG = flag.define("config")
_PRINT_CONFIG = flags.DEFINE_bool("print-config", False, "print every field of the config and end")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run is kept; runs/RECIPE-METHOD")
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
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = Path(_WORKDIR.value or default_workdir(recipe, config.method.name))
    distributed.require_same({**to_dict(config), "workdir": str(workdir)})
    with stops.told():
        pipeline.train(config, workdir)


def default_workdir(recipe: str, method: str) -> Path:
    """Where a run is kept that names no directory: ``runs/sft``, or ``runs/sft-lora``.

    Args:
        recipe: a file, or the name of a recipe, which may have a method after a colon.
        method: of the run.
    """
    name = Path(recipe.partition(":")[0]).stem
    return Path("runs") / (name if method == "tera" else f"{name}-{method}")


def cli() -> None:
    """The command, on the arguments of the process."""
    flags.mark_flag_as_required("config")
    command.run(lambda: app.run(main, flags_parser=flags.FLAGS))


if __name__ == "__main__":
    cli()
