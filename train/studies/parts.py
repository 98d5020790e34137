"""The three parts of a task: to train on, to choose the learning rate by, and to report."""

from typing import Any, NamedTuple

from .. import data
from ..config import DataConfig
from ..data import Examples, records
from ..data.preparation import tokenized
from ..data.records import Source
from .schema import TaskConfig

_MOST, _SHARE = 500, 0.1


class Parts(NamedTuple):
    """A task as token ids, without virtual tokens."""

    train: Examples
    validation: Examples
    test: Examples

    def identities(self) -> dict[str, str]:
        """Of each part, 16 hexadecimal digits that change with any token, and its records."""
        return {
            name: f"{data.digest(part)} ({len(part):,} records)"
            for name, part in self._asdict().items()
        }


def read(task: TaskConfig, config: DataConfig, tokenizer: Any) -> tuple[Parts, tuple[str, ...]]:
    """The parts of a task, and what was read, for the log.

    Args:
        task: which records.
        config: how they become tokens.
        tokenizer: of the base.

    Raises:
        FileNotFoundError: as :func:`train.data.records.read`.
        ValueError: likewise; for too few records, and where more responses are cut than allowed.
    """
    named = {part: task.located(getattr(task, part)) for part in Parts._fields}
    sources = {path: _source(path, config) for path in named.values() if path is not None}
    lines = [f"{task.name}: {source.describe()}" for source in sources.values()]
    tables = {part: (sources[path], sources[path].records) for part, path in named.items() if path}
    if len(tables) < len(named):
        whole = _source(task.path, config)
        lines.append(f"{task.name}: {whole.describe()}")
        tables |= {part: (whole, table) for part, table in _split(whole, task, {*tables}).items()}
    try:
        found, more = tokenized({part: tables[part] for part in Parts._fields}, tokenizer, config)
    except ValueError as error:
        raise ValueError(f"task {task.name}: {error}") from None
    return Parts(**found), (*lines, *more)


def _source(path: str, config: DataConfig) -> Source:
    return records.read(path, config.prompt, True, config.columns, config.skip_bad_rows)


def _split(source: Source, task: TaskConfig, named: set[str]) -> dict[str, records.Records]:
    """The parts that no path of their own has: the last of the shuffled records are held out."""
    total = len(source.records)
    usual = max(1, min(_MOST, int(_SHARE * total)))
    held_out = [part for part in ("validation", "test") if part not in named]
    rows = {part: getattr(task, f"{part}_rows") or usual for part in held_out}
    rest = total - sum(rows.values())
    if rest < 1:
        sizes = " and ".join(f"{part}_rows={count}" for part, count in rows.items())
        raise ValueError(
            f"{task.path} has {total} records, so holding out {sizes} leaves none to train on"
        )
    mixed = records.shuffled(source.records, task.split_seed)
    result, start = {"train": mixed.select(range(rest))}, rest
    for part, count in rows.items():
        result[part] = mixed.select(range(start, start + count))
        start += count
    return result
