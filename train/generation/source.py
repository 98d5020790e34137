"""Where the model of a command comes from, described before any weight is loaded."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from tera_jax import json_files, sharding
from tera_jax.io import adapter_description, adapter_files, peft
from tera_jax.llama import load_config, load_pretrained, load_tokenizer
from tera_jax.llama.checkpoint.resolve import locate

from ..config import Config, ModelConfig, parse
from ..training import run as runs
from ..training.checkpoint import Checkpoints
from ..training.workdir import saved_config


class Loaded(NamedTuple):
    """A model in memory; ``variables`` are ``params`` alone where ``adapter`` is None."""

    model: Any
    variables: dict[str, Any]
    adapter: Any
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Source:
    """What is to answer.

    Attributes:
        name: in one line.
        base: the path or hub name of the base.
        identity: what the answers depend on, as JSON has it.
        tokenizer: of the base.
        context: positions of the base.
        config: of the run; None for an adapter's directory and for a base alone.
        load: the weights.
    """

    name: str
    base: str
    identity: dict[str, Any]
    tokenizer: Any
    context: int
    config: Config | None
    load: Callable[[], Loaded]


def of_run(workdir: Path, mesh: str | None = None) -> Source:
    """The best checkpoint of a run.

    Raises:
        FileNotFoundError: when there is no run, or no checkpoint of it.
        ValueError: when its configuration is damaged.
    """
    config = parse(saved_config(workdir, mesh))
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.best_whole
        if step is None:
            raise FileNotFoundError(f"{workdir} has no checkpoint; train first")
        checkpoint = checkpoints.identity(step)
    tokenizer = load_tokenizer(config.model.path)

    def load() -> Loaded:
        run = runs.build(config, workdir, tokenizer)
        _, d = runs.restore_best(run, workdir)
        return Loaded(run.model, run.variables(d), run.adapter, run.mesh)

    identity = {
        "step": step,
        "checkpoint": checkpoint,
        "model": _model(config.model.path, config.model.dtype, config.model.quantize),
    }
    name = f"{config.method.name} of {workdir} at step {step}, on {config.model.path}"
    context = load_config(config.model.path).max_position_embeddings
    return Source(name, config.model.path, identity, tokenizer, context, config, load)


def of_files(
    model: str | None, adapter: Path | None, dtype: str, quantize: str = "none", mesh: str = ""
) -> Source:
    """A base, and perhaps an adapter that was exported, or PEFT's.

    Raises:
        FileNotFoundError: when there is no such model or adapter.
        ValueError: when the adapter is none, or no model is given.
    """
    named = None if adapter is None else _base_of(adapter)
    if model is None:
        made = "" if named is None else f": {adapter} was made for {named!r}"
        raise ValueError(f"there is no base; name it by --model{made}")
    settings = ModelConfig(path=model, dtype=dtype, quantize=quantize)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(model)

    def load() -> Loaded:
        devices = sharding.make_mesh(**sharding.parse_mesh(mesh)) if mesh else sharding.make_mesh()
        base, params = load_pretrained(
            model, jnp.dtype(settings.dtype), devices, quantize=settings.quantize
        )
        if adapter is None:
            return Loaded(base, {"params": params}, None, devices)
        found, variables = adapter_files.load_adapter(adapter, params)
        return Loaded(base, variables, found, devices)

    identity: dict[str, Any] = {"model": _model(model, dtype, quantize)}
    if adapter is not None:
        files = [path for path in sorted(adapter.iterdir()) if path.is_file()]
        identity["adapter"] = _digest(files)
    name = model if adapter is None else f"{adapter}, on {model}"
    context = load_config(model).max_position_embeddings
    return Source(name, model, identity, tokenizer, context, None, load)


def _base_of(adapter: Path) -> str | None:
    """The base that an adapter's own description names.

    Raises:
        FileNotFoundError: when there is no adapter.
        ValueError: when its description is damaged.
    """
    if (adapter / peft.CONFIG).is_file():
        found = json_files.read(adapter / peft.CONFIG).get("base_model_name_or_path")
    elif (adapter / adapter_description.FILE).is_file():
        found = adapter_description.read(adapter)[1]["base"]["name"]
    else:
        raise FileNotFoundError(
            f"{adapter} holds neither {adapter_description.FILE} nor {peft.CONFIG}; name a "
            "directory that train.export --format=adapter or PEFT wrote, or a run by --workdir"
        )
    return found if isinstance(found, str) else None


def _model(path: str, dtype: str, quantize: str) -> dict[str, Any]:
    """What says that a base is the same, without reading its weights."""
    where = locate(path)
    files = [where] if where.is_file() else sorted(where.glob("*.safetensors"))
    sizes = {file.name: file.stat().st_size for file in files}
    small = [file for file in (where / "config.json",) if file.is_file()]
    return {
        "path": path,
        "dtype": dtype,
        "quantize": quantize,
        "files": sizes,
        "config": _digest(small),
    }


def _digest(files: list[Path]) -> str:
    """16 hexadecimal digits that change with any byte of any file."""
    result = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            result.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return result.hexdigest()[:16]
