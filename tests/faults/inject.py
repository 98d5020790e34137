r"""Faults, each at random moments of a small run, which is then started again and compared.

    export XLA_FLAGS=--xla_force_host_platform_device_count=8 TQDM_DISABLE=1
    python -m tests.faults.inject

A run counts as lost unless it ends with the bits of the run that nothing disturbed, or on another
mesh with its numbers to rounding. Each fault must also stop the run as the docs say, and be named.
"""

import argparse
import os
import random
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
from absl import logging

from tests import parts
from tests.faults.scene import EXPORTS, SCENE, Scene, child, command, make_config, require_equal
from tests.faults.table import FAULTS


def inject(scene: Scene, name: str, times: int, seed: int = 0) -> int:
    """Strike ``times`` with a fault; how many runs were lost."""
    fault, lost = FAULTS[name], 0
    for time_ in range(times):
        workdir = scene.directory / f"{name} {time_}".replace(" ", "_")
        try:
            fault.strike(scene, workdir, random.Random(f"{seed} {name} {time_}"))
            require_equal(scene.end(workdir), scene.expected, fault.exact)
        except Exception as error:
            lost += 1
            print(f"LOST: {name}, time {time_}: {type(error).__name__}: {error}", flush=True)
        shutil.rmtree(workdir, ignore_errors=True)
    return lost


def main() -> None:
    """Strike, and print how often, and how many runs were lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.inject", description=__doc__)
    parser.add_argument("--times", type=int, help="of each; by default those of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--child", type=Path, help="what the script starts itself with")
    parser.add_argument("--exports", action="store_true", help="likewise: train.main with exports")
    args = parser.parse_args()
    if args.child:
        if args.exports:
            command(Path(os.environ[SCENE]), args.child, export=EXPORTS)
        else:
            child(Path(os.environ[SCENE]), args.child)
        return
    logging.set_verbosity(logging.ERROR)
    with TemporaryDirectory() as place:
        directory = Path(place)
        jax.config.update("jax_compilation_cache_dir", str(directory / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        model = parts.tiny_llama(directory / "model")
        examples = parts.records(directory / "records.json")
        scene = Scene(make_config(directory, model, examples), directory)
        faults = losses = 0
        for name in args.only:
            start = time.monotonic()
            times = args.times or FAULTS[name].times
            lost = inject(scene, name, times, args.seed)
            seconds = time.monotonic() - start
            faults, losses = faults + times, losses + lost
            print(f"{name:<36}{times:>4} times, lost {lost} ({seconds:.0f} s)", flush=True)
    print(f"{faults} faults, losses: {losses}")
    sys.exit(bool(losses))


if __name__ == "__main__":
    main()
