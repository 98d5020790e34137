"""Export a trained run.

    python -m train.export --workdir=runs/quickstart --format=hf --output=merged

``hf`` writes merged weights as a directory that ``transformers`` loads, with the base's
``generation_config.json`` and every token that ends an answer. ``orbax`` writes merged weights as
an Orbax checkpoint. ``gguf`` writes merged weights of a Llama, Qwen2 or Qwen3 as a GGUF file for
llama.cpp, with tokenizer and chat template. ``adapter`` writes the adapter alone, and ``peft`` the
adapter as PEFT reads it, for the methods that PEFT has. Each is read back and compared before it
appears under ``--output``, which must be absent or empty. A model card, ``README.md``, says what
the run knows of itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tera_jax import atomic, disk
from tera_jax.adapters.base import Adapter
from tera_jax.fingerprint import fingerprint
from tera_jax.io import adapter_files, orbax, peft
from tera_jax.llama import (
    load_config,
    load_pretrained,
    load_tokenizer,
    save_gguf,
    save_pretrained,
)
from tera_jax.llama.checkpoint import generation_config
from tera_jax.llama.checkpoint.gguf_export.file import require_gguf
from tera_jax.llama.checkpoint.gguf_export.tensors import DTYPES
from tera_jax.llama.checkpoint.resolve import locate
from tera_jax.llama.config import LlamaConfig
from tera_jax.llama.family.families import FAMILIES

from . import command, hub, model_card
from .config import EXPORTS, Config, MethodConfig, parse
from .training import distributed, kept
from .training import run as runs
from .training.run import Run
from .training.workdir import saved_config


def export(
    run: Run,
    d: Any,
    format: str,
    output: Path,
    gguf_type: str | None = None,
    **adapter_options: Any,
) -> Path:
    """Write the run's adapter or merged weights and compare what is read back.

    Args:
        run: base and adapter.
        d: the adapter's trainable arrays.
        format: one of :data:`train.config.EXPORTS`.
        output: absent or empty.
        gguf_type: as :func:`tera_jax.llama.save_gguf` has it; by default bf16 for a base in
            bfloat16, and f16 for another.
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
        return adapter_files.save_peft(
            output, run.adapter, variables, run.config.model.path, run.model.config
        )
    return export_merged(run, runs.merged(run, d), format, output, gguf_type)


def export_merged(
    run: Run, merged: Any, format: str, output: Path, gguf_type: str | None = None
) -> Path:
    """Write plain weights of the run's base, and compare what is read back.

    Args:
        run: of whose model they are.
        merged: the ``params``.
        format: of :data:`train.config.EXPORTS` one of merged weights.
        output: absent or empty.
        gguf_type: as in :func:`export`.

    Raises:
        FileExistsError: when ``output`` is not empty.
        ValueError: when what is read back is not what was written.
    """
    if format == "orbax":
        return orbax.save_orbax(output, merged, run.model.config.to_hf())
    if format == "gguf":
        return _write_gguf(run, merged, output, gguf_type)
    dtype = jnp.dtype(run.config.model.dtype)

    def write(path: Path) -> None:
        save_pretrained(run.model, merged, path, run.tokenizer)
        generation_config.write(path, locate(run.config.model.path), run.eos_ids)

    def check(path: Path) -> None:
        _, loaded = load_pretrained(path, dtype=dtype, mesh=run.mesh)
        disk.require_equal(loaded, merged, path)

    return disk.write_checked(output, write, check)


def _write_gguf(run: Run, merged: Any, output: Path, gguf_type: str | None) -> Path:
    dtype = gguf_type or _gguf_type(run.config)
    name = f"{Path(run.config.model.path).name} {run.config.method.name}"

    def write(path: Path) -> None:
        save_gguf(run.model, merged, path / f"model-{dtype}.gguf", run.tokenizer, dtype, name)

    return disk.write_checked(output, write, lambda _: None)  # save_gguf has read it back


def _gguf_type(config: Config) -> str:
    return "bf16" if config.model.dtype == "bfloat16" else "f16"


def require_possible(config: Config) -> None:
    """Check before training that a run can write its exports.

    Raises:
        ValueError: as :func:`require_format`, and where several processes are to export.
    """
    for format in config.export:
        require_format(config.method, format)
    if config.export and jax.process_count() > 1:
        raise ValueError(
            f"config.export {config.export} with {jax.process_count()} processes; leave it empty, "
            "and afterwards run train.export on one host, with a --mesh of its own"
        )


def require_base(
    formats: Sequence[str],
    config: Config,
    model: LlamaConfig,
    tokenizer: Any,
    gguf_type: str | None = None,
) -> None:
    """Check before training that the exports can hold this base and its tokenizer.

    Raises:
        ValueError: where a GGUF file cannot, as
            :func:`tera_jax.llama.checkpoint.gguf_export.file.require_gguf`.
    """
    if "gguf" in formats:
        require_gguf(model, tokenizer, gguf_type or _gguf_type(config))


def require_layers(formats: Sequence[str], model: LlamaConfig, adapter: Adapter) -> None:
    """Check before training that the exports can hold this adapter of this base.

    Raises:
        ValueError: where PEFT cannot, as :func:`tera_jax.io.peft.fused.require_exact`.
    """
    if "peft" in formats and FAMILIES[model.model_type].fused:
        peft.fused.require_exact(adapter)


def require_format(method: MethodConfig, format: str) -> None:
    """Raise ``ValueError`` where a method has no export in a format."""
    if format == "peft" and method.name not in peft.METHODS:
        raise ValueError(
            f"export {format!r} of method {method.name!r}, which PEFT has not: written are "
            f"{', '.join(peft.METHODS)}. Export 'adapter' or, merged, 'hf'"
        )
    if format == "peft":
        peft.require(method.name, method.settings)
    if format in ("hf", "orbax", "gguf") and not method.settings.mergeable:
        raise ValueError(
            f"export {format!r} of method {method.name!r}, which no merged weights can hold; "
            "export 'adapter'"
        )


def export_once(run: Run, d: Any, format: str, workdir: Path, step: int | None = None) -> Path:
    """Export into a run's directory, unless this d is there in this format, with all its files.

    Beside the export is its card, with the figures of ``step``.

    ``exports.json`` says which d was exported, and the sizes of the files. What else is in the way
    is moved to ``<workdir>/earlier``.

    Returns:
        The directory of the export.

    Raises:
        ValueError: as :func:`export`.
    """
    output, file = workdir / format, workdir / "exports.json"
    what = {"d": fingerprint(d), "base": run.meta.base_fingerprint}
    exports = kept.read(file) or {}  # all is exported again where it cannot be read
    if exports.get(format) == {**what, "files": _sizes(output)} and _sizes(output):
        return output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        place = atomic.set_aside(output, workdir / "earlier")
        distributed.log(f"{output} is exported again; what was there is in {place}")
    export(run, d, format, output)
    model_card.write(output, format, run, d, workdir, step)
    atomic.write_json(file, {**exports, format: {**what, "files": _sizes(output)}})
    return output


def _sizes(directory: Path) -> dict[str, int]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in files}


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
    parser.add_argument(
        "--gguf-type",
        choices=tuple(DTYPES),
        help="of the matrices in a GGUF file; by default bf16 for a base in bfloat16, else f16",
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="send the export to the hub, with the token in HF_TOKEN; a new repository is private",
    )
    parser.add_argument("--public", action="store_true", help="let all read what --push creates")
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the run's")
    args = parser.parse_args(argv)

    if args.public and args.push is None:
        raise ValueError("--public says who may read what --push creates; give --push=owner/name")
    disk.require_empty(args.output)
    config = parse(saved_config(args.workdir, args.mesh))
    require_format(config.method, args.format)
    repository = None if args.push is None else hub.require_login(args.push, args.public)
    tokenizer = load_tokenizer(config.model.path)
    model = load_config(config.model.path)
    require_base([args.format], config, model, tokenizer, args.gguf_type)
    run = runs.build(config, args.workdir, tokenizer)
    step, d = runs.restore_best(run, args.workdir)
    options = {"with_frozen": args.with_frozen, "dtype": jnp.dtype(args.adapter_dtype)}
    path = export(run, d, args.format, args.output, args.gguf_type, **options)
    model_card.write(path, args.format, run, d, args.workdir, step)
    report = {"step": step, "format": args.format, "path": str(path), "size": size(path)}
    if repository is not None:
        report["url"] = hub.push(repository, path)
    print(json.dumps(report))


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
