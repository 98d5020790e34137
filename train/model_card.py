"""The model card of an export: ``README.md`` with what the run knows of itself.

The hub reads its front matter. Absolute paths are given by their last name alone, since cards are
published.
"""

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from huggingface_hub import ModelCardData

from tera_jax import atomic, quantize
from tera_jax.fingerprint import fingerprint

from . import command
from .config import to_json
from .training import kept
from .training.data_identity import kept_counts
from .training.run import Run

FILE = "README.md"
_MARK = "<!-- Written by tera-jax. -->"
"""A card with this line may be written again."""
_LIBRARIES = {
    "adapter": "tera-jax",
    "orbax": "tera-jax",
    "peft": "peft",
    "hf": "transformers",
    "gguf": "gguf",
}
_READ = {
    "adapter": "`tera_jax.load_adapter` reads it, and so does `train.generate`.",
    "orbax": "`tera_jax.io.orbax.load_orbax` reads it.",
    "peft": "`peft.PeftModel.from_pretrained` reads it.",
    "hf": "`transformers.AutoModelForCausalLM.from_pretrained` reads it.",
    "gguf": "llama.cpp runs it, and `tera_jax.llama.load_pretrained` reads it.",
}
_WHAT = {"adapter": "The adapter alone", "peft": "The adapter alone, as PEFT has it"}
_LOSS = "held-out loss, nats a token"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


class Known(NamedTuple):
    """What a caller knows of an adapter that has no directory of a run to itself.

    Attributes:
        losses: held-out, in nats a token, untrained and tuned; None where one was not taken.
        counts: of its records, by the field of the configuration that names them.
    """

    losses: tuple[float | None, float | None]
    counts: Mapping[str, int]


def write(
    directory: Path,
    format: str,
    run: Run,
    d: Any,
    workdir: Path | None,
    step: int | None,
    known: Known | None = None,
) -> Path | None:
    """Write the card of an export, unless its directory has a ``README.md`` of other making.

    Args:
        directory: of the export.
        format: one of :data:`train.config.EXPORTS`.
        run: the base and the adapter.
        d: that was exported.
        workdir: of the run, which has its figures; None for none.
        step: of ``d``; without it the figures of a step are left out.
        known: in place of what the directory of the run has.

    Returns:
        The file, or None where another one is there.
    """
    file = directory / FILE
    if file.exists() and not is_ours(file.read_text(encoding="utf-8", errors="replace")):
        return None
    atomic.write_text(file, text(format, run, d, workdir, step, known))
    return file


def is_ours(card: str) -> bool:
    """Whether a card was written here, and may be written again."""
    return _MARK in card


def text(
    format: str,
    run: Run,
    d: Any,
    workdir: Path | None,
    step: int | None,
    known: Known | None = None,
) -> str:
    """The content of a card; the arguments are :func:`write`'s."""
    config = _shortened(to_json(run.config))
    base, method = _base(run.config.model.path), run.config.method.name
    on_hub = _HUB.fullmatch(run.config.model.path) and not Path(run.config.model.path).exists()
    head = ModelCardData(
        base_model=run.config.model.path if on_hub else None,
        library_name=_LIBRARIES[format],
        tags=["tera-jax", method, *(["peft"] if format == "peft" else [])],
    )
    trained = sum(leaf.size for leaf in jax.tree.leaves(d))
    whole = quantize.size(run.params)
    counts = known.counts if known else kept_counts(workdir) if workdir else {}
    found = _figures(run, d, workdir, step)
    if known:
        before, after = map(_shown, known.losses)
        found = [(_LOSS, before, after)]
    lines = [
        "---",
        head.to_yaml(),
        "---",
        _MARK,
        "",
        f"# {base} tuned with {method}",
        "",
        f"{_WHAT.get(format, 'Merged weights')}. {_READ[format]}",
        "",
        "| | |",
        "| --- | --- |",
        f"| base | {base}, {whole:,} parameters, fingerprint `{run.meta.base_fingerprint}` |",
        f"| method | {method} on {', '.join(run.config.method.targets)} |",
        f"| trainable parameters | {trained:,} ({trained / (whole + trained):.4%}) |",
        *([] if step is None else [f"| step | {step} |"]),
        *_data(run.meta.data or _kept_data(workdir), counts, config),
        "",
    ]
    if found:
        lines += ["## Figures", "", "| | untrained | tuned |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {before} | {after} |" for name, before, after in found]
        lines += [""]
    line = _command()
    if line is not None:
        lines += ["## Command", "", "```sh", line, "```", ""]
    lines += ["## Configuration", "", "```json", json.dumps(config, indent=2), "```", ""]
    return "\n".join(lines)


def _base(path: str) -> str:
    return Path(path).resolve().name if Path(path).exists() else path


def _shortened(value: Any) -> Any:
    """A tree of JSON whose absolute paths are their last names."""
    if isinstance(value, Mapping):
        return {key: _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    absolute = isinstance(value, str) and Path(value).expanduser().is_absolute()
    return Path(value).name if absolute else value


def _kept_data(workdir: Path | None) -> dict[str, str]:
    found = {} if workdir is None else kept.read(workdir / "data.json") or {}
    return {field: value for field, value in found.items() if isinstance(value, str)}


def _data(
    identities: Mapping[str, str], counts: Mapping[str, int], config: Mapping[str, Any]
) -> Iterator[str]:
    """A line for each file of records or of a template, by the field that names it."""
    names = {f"config.data.{key}": config["data"].get(key) for key in config["data"]}
    fields = dict.fromkeys(("config.data.path", *identities))
    for field in fields:
        if names.get(field):
            count = f", {counts[field]:,} records" if field in counts else ""
            identity = f", identity `{identities[field]}`" if field in identities else ""
            yield f"| {field.removeprefix('config.')} | `{names[field]}`{count}{identity} |"


def _figures(
    run: Run, d: Any, workdir: Path | None, step: int | None
) -> list[tuple[str, str, str]]:
    """Name, before and after of each figure that was measured of this d."""
    if workdir is None:
        return []
    places = workdir / "before", workdir / "evaluation"
    before, after = (kept.read(place / "held-out" / "loss.json") or {} for place in places)
    rows = []
    if after.get("d") == fingerprint(d):
        old_loss, new_loss = (_shown(each.get("held_out_loss")) for each in (before, after))
        rows.append((_LOSS, old_loss, new_loss))
    elif step is not None:
        logged = kept.lines(workdir / "metrics.jsonl") if _has_log(workdir) else []
        loss = [row["held_out_loss"] for row in logged if _is_loss(row, step)]
        rows += [(_LOSS, "", _shown(value)) for value in loss[-1:]]
    for file in sorted(places[1].glob("*/summary.json")):
        old, new = (kept.read(place / file.parent.name / file.name) or {} for place in places)
        if step is None or new.get("step") != step:
            continue
        for name, value in new.get("metrics", {}).items():
            earlier = old.get("metrics", {}).get(name)
            title = f"{file.parent.name}: {name} of {new.get('examples')} questions"
            rows.append((title, _shown(earlier), _shown(value)))
    return rows


def _has_log(workdir: Path) -> bool:
    return (workdir / "metrics.jsonl").is_file()


def _is_loss(row: Mapping[str, Any], step: int) -> bool:
    return row.get("step") == step and "held_out_loss" in row


def _shown(value: Any) -> str:
    number = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.4f}" if number else ""


def _command() -> str | None:
    """The command of this process, where it is one of the application's."""
    script = Path(sys.argv[0])
    if script.name.startswith("tera-"):
        name = script.name
    elif script.suffix == ".py" and script.resolve().parent == Path(__file__).resolve().parent:
        name = command.named(script.stem)
    else:
        return None
    return " ".join([name, *(shlex.quote(_argument(each)) for each in sys.argv[1:])])


def _argument(given: str) -> str:
    flag, equals, value = given.partition("=")
    return f"{flag}={_shortened(value)}" if equals else str(_shortened(given))
