"""Export a trained run.

    python -m train.export --workdir=runs/quickstart --format=hf --output=merged

``hf`` writes merged weights as a directory that ``transformers`` loads, ``orbax`` merged weights
as an Orbax checkpoint, ``adapter`` the adapter alone, ``peft`` the adapter alone as PEFT reads
it, for the methods that PEFT has. Each is read back and compared before it
appears under ``--output``, which must be absent or empty.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tera_jax import disk
from tera_jax.io import adapter_files, orbax
from tera_jax.llama import load_pretrained, save_pretrained

from . import command
from .config import EXPORTS, Config, parse
from .training import run as runs
from .training.run import Run
from .training.workdir import saved_config


def export(run: Run, d: Any, format: str, output: Path, **adapter_options: Any) -> Path:
    """Write the run's adapter or merged weights and compare what is read back.

    Args:
        run: base and adapter.
        d: the adapter's trainable arrays.
        format: one of :data:`train.config.EXPORTS`.
        output: absent or empty.
        **adapter_options: of :func:`tera_jax.save_adapter`.

    Raises:
        FileExistsError: when ``output`` is not empty.
        ValueError: when what is read back is not what was written.
    """
    disk.require_empty(output)
    variables = run.variables(d)
    if format == "adapter":
        base = Path(run.config.model.path)
        name = base.name if base.exists() else run.config.model.path
        return adapter_files.save_adapter(output, run.adapter, variables, name, **adapter_options)
    if format == "peft":
        return adapter_files.save_peft(output, run.adapter, variables, run.config.model.path)
    merged = runs.merged(run, d)
    if format == "orbax":
        return orbax.save_orbax(output, merged, run.model.config.to_hf())
    dtype = jnp.dtype(run.config.model.dtype)

    def check(path: Path) -> None:
        _, loaded = load_pretrained(path, dtype=dtype, mesh=run.mesh)
        disk.require_equal(loaded, merged, path)

    return disk.write_checked(
        output,
        lambda path: save_pretrained(run.model, merged, path, run.tokenizer),
        check,
    )


def require_possible(config: Config) -> None:
    """Raise ``ValueError`` where a run of several processes is to export what one would write."""
    if config.export and jax.process_count() > 1:
        raise ValueError(
            f"config.export {config.export} with {jax.process_count()} processes; leave it empty, "
            "and afterwards run train.export on one host, with a --mesh of its own"
        )


def export_once(run: Run, d: Any, format: str, output: Path) -> Path:
    """:func:`export`, unless an earlier call of the same finished run wrote it."""
    return output if output.is_dir() else export(run, d, format, output)


def size(path: Path) -> str:
    """The bytes below a directory, for a person."""
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{total / 1e6:,.2f} MB" if total < 1e9 else f"{total / 1e9:,.2f} GB"


def main(argv: Sequence[str] | None = None) -> None:
    """Export the best checkpoint of a run."""
    parser = command.parser(main)
    parser.add_argument("--workdir", type=Path, required=True, help="the directory of a run")
    parser.add_argument("--format", choices=EXPORTS, required=True)
    parser.add_argument("--output", type=Path, required=True, help="absent or empty")
    parser.add_argument(
        "--with-frozen", action="store_true", help="let the adapter carry the frozen arrays"
    )
    parser.add_argument(
        "--adapter-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 rounds the trainable parameters and halves the adapter",
    )
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the run's")
    args = parser.parse_args(argv)

    disk.require_empty(args.output)
    run = runs.build(parse(saved_config(args.workdir, args.mesh)), args.workdir)
    step, d = runs.restore_best(run, args.workdir)
    options = {"with_frozen": args.with_frozen, "dtype": jnp.dtype(args.adapter_dtype)}
    path = export(run, d, args.format, args.output, **options)
    print(json.dumps({"step": step, "format": args.format, "path": str(path), "size": size(path)}))


if __name__ == "__main__":
    command.run(main)
