r"""Add adapters of one base, or turn one into a LoRA.

    python -m train.combine runs/a:1.0 adapter-b:-0.5 --as=hf --output=sum
    python -m train.combine runs/a --as=lora --rank=64 --output=as-lora --nll=held_out.jsonl

An adapter is the directory of a run, whose best checkpoint is taken, of train.export or of PEFT. A
colon and its weight may follow, which is 1 by default. Methods may differ. The base must be one:
its fingerprints are compared. What is added is ΔW in every layer, as ``d`` is not linear in it.

``--as=hf`` and ``--as=orbax`` write merged weights. ``--as=lora`` writes a PEFT LoRA of the stated
rank by a truncated singular value decomposition of each layer's ΔW, and prints the error of each.
It holds for methods that change the kernels of linear layers alone.

``--nll`` measures the mean negative log-likelihood, in nats a target token, of a file of records:
of the base, of the exact sum, and of the LoRA.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tera_jax import atomic, disk, sharding, trees
from tera_jax.adapters import combine
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.combine import Term
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.adapters.truncation import Decomposition, decompose, require_rank
from tera_jax.io import adapter_description, adapter_files, peft
from tera_jax.llama import Llama, load_config, load_tokenizer
from tera_jax.methods.base import check_rank
from tera_jax.ops import dispatch

from . import command, data
from .config import Config, MeshConfig, default, parse
from .data import records
from .evaluation.nll import Nll
from .export import export_merged, size
from .text_table import aligned
from .training import run as runs
from .training.run import Run
from .training.workdir import saved_config

KINDS = ("hf", "orbax", "lora")
REPORT = "truncation.json"


class Source(NamedTuple):
    """One adapter of the command line.

    Attributes:
        path: its directory.
        weight: of its updates.
        config: of a run; None for an adapter's directory.
        adapter: what is known of it before the base is loaded; None for one of PEFT.
        base: what its files call the base.
    """

    path: Path
    weight: float
    config: Config | None
    adapter: Adapter | None
    base: str | None


def source(text: str, mesh: str | None = None) -> Source:
    """Read what is said of an adapter, without its arrays.

    Args:
        text: its directory, and perhaps a colon and its weight.
        mesh: another than the run's.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when its description is damaged, or the weight is no finite number.
    """
    path, weight = _parsed(text)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no directory; name a run, or an adapter's directory")
    if (path / peft.CONFIG).is_file():
        return Source(path, weight, None, None, None)
    if (path / adapter_description.FILE).is_file():
        adapter, description = adapter_description.read(path)
        return Source(path, weight, None, adapter, description["base"]["name"])
    config = parse(saved_config(path, mesh))
    adapter = runs.make_adapter(config, Llama(load_config(config.model.path)))
    return Source(path, weight, config, adapter, config.model.path)


def _parsed(text: str) -> tuple[Path, float]:
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Path(text), 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = float("nan")
    if not abs(weight) < float("inf"):
        raise ValueError(f"{text!r} has the weight {number!r}; write a finite number, as in A:-0.5")
    return Path(name), weight


def require_possible(sources: Sequence[Source], kind: str, rank: int | None) -> None:
    """Check what can be checked before the base is loaded.

    Raises:
        ValueError: for a rank without ``lora`` or the other way round, a rank that is none of a
            kernel's, or a method that the output cannot hold.
    """
    if (kind == "lora") != (rank is not None):
        needs = "needs --rank=R" if rank is None else "has no rank; leave out --rank"
        raise ValueError(f"--as={kind} {needs}")
    if rank is not None and rank < 1:
        raise ValueError(f"--rank={rank}; it must be at least 1")
    for each in sources:
        if each.adapter is None:
            continue
        combine.require_mergeable(each.adapter)
        if rank is None:
            continue
        if not isinstance(each.adapter, LinearAdapter):
            raise ValueError(
                f"{each.path} is of {each.adapter.name}, which changes more than kernels of linear "
                "layers, so that no LoRA does the same; write merged weights with --as=hf"
            )
        check_rank(rank, each.adapter.layers)


def base_config(
    sources: Sequence[Source],
    model: str | None = None,
    dtype: str | None = None,
    mesh: str | None = None,
    file: str | None = None,
) -> Config:
    """The base of all of them, with the settings of the first run among them, and a LoRA of zeros.

    Args:
        sources: the adapters.
        model: the base, if not the first run's.
        dtype: of the base, likewise.
        mesh: of the devices, likewise.
        file: of records to be measured.

    Raises:
        ValueError: when no base is named.
    """
    first = next((each.config for each in sources if each.config is not None), None)
    if model is None and first is None:
        named = ", ".join(sorted({f"{each.base!r}" for each in sources if each.base}))
        made = f"; the adapters were made for {named}" if named else ""
        raise ValueError(f"there is no base; name it by --model{made}")
    flags = default("lora")
    flags.method.rank = 1
    flags.model.path = model or (first.model.path if first else "")
    flags.model.dtype = dtype or ("bfloat16" if dispatch.on_gpu() else "float32")
    flags.data.prompt, flags.data.bos = "auto", "tokenizer"
    flags.data.path = file or "none"
    config = parse(flags)
    if first is not None:
        changes: dict[str, Any] = {"path": config.model.path, "adapter": None}
        if dtype:
            changes["dtype"] = dtype
        records_ = dataclasses.replace(first.data, path=file or first.data.path)
        config = dataclasses.replace(
            config,
            model=dataclasses.replace(first.model, **changes),
            data=records_ if file is None else dataclasses.replace(records_, validation_path=None),
            evaluate=first.evaluate,
            mesh=first.mesh,
        )
    if mesh is not None:
        config = dataclasses.replace(config, mesh=MeshConfig(**sharding.parse_mesh(mesh)))
    return config


def term(each: Source, base: Run) -> Term:
    """The adapter with its arrays, on a base that is loaded.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when it is damaged, was made for another base, or brings weights of the base.
    """
    if each.config is not None:
        run = runs.build(each.config, each.path, base.tokenizer, base=(base.model, base.params))
        _, d = runs.restore_best(run, each.path)
        return Term(each.weight, run.adapter, run.variables(d))
    adapter, variables = adapter_files.load_adapter(each.path, base.params)
    if not trees.same_arrays(variables["params"], base.params):
        raise ValueError(
            f"{each.path} brings weights of the base (modules_to_save), which cannot be added; "
            "merge it in PEFT"
        )
    return Term(each.weight, adapter, variables)


def main(argv: Sequence[str] | None = None) -> None:
    """Validate, load, add, write, measure."""
    args = _parser().parse_args(argv)
    disk.require_empty(args.output)
    sources = [source(text, args.mesh) for text in args.adapters]
    require_possible(sources, args.kind, args.rank)
    config = base_config(sources, args.model, args.dtype, args.mesh, args.nll)
    tokenizer = load_tokenizer(config.model.path)
    examples = None if args.nll is None else _examples(config, tokenizer)
    base = runs.build(config, tokenizer=tokenizer)
    report: dict[str, Any]
    tuned: dict[str, Callable[[], Any]]
    with jax.set_mesh(base.mesh):
        terms = [term(each, base) for each in sources]
        if args.kind == "lora":
            report, layers, lora = _write_lora(base, terms, args)
            tuned = {"sum": functools.partial(combine.merged, terms), "lora": lora}
        else:
            report, merged = {"as": args.kind}, combine.merged(terms)
            export_merged(base, merged, args.kind, args.output)
            tuned = {"sum": lambda: merged}
        if examples is not None:
            nll = Nll(base, examples)
            report["nll"] = {"base": nll(base.params)}
            report["nll"] |= {name: nll(params()) for name, params in tuned.items()}
    if args.kind == "lora":
        weights = {str(each.path): each.weight for each in sources}
        whole = {"adapters": weights, **report, "layers": layers}
        atomic.write_json(args.output / REPORT, whole)
    print(json.dumps({**report, "path": str(args.output), "size": size(args.output)}))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(main)
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER[:WEIGHT]", help="a directory")
    parser.add_argument("--as", dest="kind", choices=KINDS, required=True)
    parser.add_argument("--rank", type=int, help="of --as=lora")
    parser.add_argument("--output", type=Path, required=True, help="absent or empty")
    parser.add_argument("--model", help="the base; by default the first run's")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the base; by default the first run's"
    )
    parser.add_argument("--nll", metavar="FILE", help="records to measure; the first run's format")
    parser.add_argument("--mesh", help="as data=2,fsdp=4; by default the first run's")
    return parser


def _examples(config: Config, tokenizer: Any) -> Sequence[data.Example]:
    given = records.read(config.data.path, config.data.prompt, True, config.data.columns)
    return data.tokenize(given.records, tokenizer, config.data, place=given.place)


def _write_lora(
    base: Run, terms: Sequence[Term], args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]], Callable[[], Any]]:
    """Write the LoRA: what is to be said of it, of its layers, and what makes merged weights."""
    require_rank(terms, args.rank)
    found = decompose(terms, args.rank)
    adapter, d = found.lora()
    variables = {"params": base.params, "frozen": {}, "d": d}
    adapter_files.save_peft(
        args.output, adapter, variables, base.config.model.path, base.model.config
    )
    print("\n".join(table(found)))
    layers, total = [each._asdict() for each in found.errors()], found.total()
    report = {"as": "lora", "rank": args.rank, "error": total.error, "share": total.share}
    return report, layers, functools.partial(jax.jit(adapter.merge), variables)


def table(found: Decomposition) -> list[str]:
    """The lines of the errors of each layer, and of all together."""
    rows = [("layer", "norm of ΔW", "relative error", "share kept")]
    for each in (*found.errors(), found.total()):
        rows.append((each.layer, f"{each.norm:.4g}", f"{each.error:.4g}", f"{each.share:.2%}"))
    return aligned(rows)


def cli() -> None:
    """The command, on the arguments of the process."""
    command.run(main)


if __name__ == "__main__":
    cli()
