"""Fine-tuning from Python: the command's configuration and run, and an object to use the result.

``tera_jax.finetune`` calls :func:`finetune`.
"""

import difflib
import json
import os
import signal
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tera_jax import atomic
from tera_jax.ops import dispatch

from . import pipeline
from .config import flag, parse
from .curve import LiveCurve, in_notebook
from .finetuned import Finetuned
from .training import stops
from .training.workdir import RECORDS

_SECTIONS = ("optim", "loop", "data", "model", "method", "decoding", "evaluate", "mesh")
"""In which a setting's name is looked up; the first that has it takes it."""


def finetune(
    model: str | os.PathLike[str],
    records: Any,
    method: str = "tera",
    *,
    workdir: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Any] = (),
    live: bool | None = None,
    **settings: Any,
) -> Finetuned:
    """See :func:`tera_jax.finetune`."""
    if workdir is None:
        place = Path(tempfile.mkdtemp(prefix="tera-jax-"))
        print(f"the run is kept in {place}", flush=True)
    else:
        place = Path(workdir)
    tree = _tree(method, settings)  # refused before anything is written
    path = _file(records, place)
    tree["model"]["path"] = str(model)
    tree["data"]["path"] = path
    tree["data"]["validation_path"] = None if validation is None else str(validation)
    config = parse(tree)
    drawn = (in_notebook() if live is None else live) and LiveCurve()
    given = [*callbacks, *([drawn] if drawn else [])]
    try:
        trained = pipeline.train(config, place, given)
    except stops.Stopped as stopped:
        if stopped.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(stopped.message) from None
        raise RuntimeError(stopped.message) from None
    return Finetuned(trained.run, place, trained.step, trained.d)


def _tree(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the recipe sft, the settings among them.

    Raises:
        ValueError: for an unknown setting, with the nearest ones.
    """
    tree = flag.recipe("sft", method).to_dict()
    tree["model"]["dtype"] = "bfloat16" if dispatch.on_gpu() else "float32"
    for name, value in settings.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            tree[name].update(value)  # unknown names are refused with the rest
        elif name == "targets":
            tree["method"]["targets"] = (value,) if isinstance(value, str) else tuple(value)
        elif name == "export":
            tree["export"] = tuple(value)
        else:
            tree[_section(tree, name)][name] = value
    return tree


def _section(tree: Mapping[str, Any], name: str) -> str:
    for section in _SECTIONS:
        if name in tree[section]:
            return section
    known = sorted({field for section in _SECTIONS for field in tree[section]})
    near = difflib.get_close_matches(name, known)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"unknown setting {name!r}; {remedy}")


def _file(records: Any, workdir: Path) -> str:
    """The path of the records; those that are no file are written into the workdir.

    Raises:
        FileExistsError: when the workdir has other records.
        ValueError: for a record that is no dictionary, or holds what JSON has not.
    """
    if isinstance(records, str | os.PathLike):
        return os.fspath(records)
    if not isinstance(records, Iterable):
        raise ValueError(
            f"the records are a {type(records).__name__}; give a file, a list of dictionaries or "
            "a datasets.Dataset"
        )
    lines = []
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise ValueError(f"record {number} is a {type(record).__name__}, not a dictionary")
        try:
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise ValueError(f"record {number} is not of plain values: {error}") from None
    text, file = "".join(lines), workdir / RECORDS
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise FileExistsError(
            f"{file} holds other records; give those again, or choose another workdir"
        )
    if not file.is_file():
        if workdir.is_dir() and any(workdir.iterdir()):
            raise FileExistsError(
                f"{workdir} is not empty and has no {RECORDS}; choose another workdir"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, text)
    return str(file)
