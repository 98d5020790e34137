"""The data of a run before its base is loaded: read, tokenised, and refused where nothing fits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import DataConfig
from . import records, summary
from .bad_rows import BadRows
from .examples import Cuts, Example, Examples, Tokenizer, num_targets
from .records import Source
from .tokens import tokenize

_MOST_CUT = 0.01
"""The share of responses that may be cut unless the configuration allows more."""


class Prepared(NamedTuple):
    """The data of a run.

    Attributes:
        train: training examples, without virtual tokens.
        held_out: held-out examples, likewise.
        lines: what was read, what of it is cut, and the first record, for the log.
    """

    train: Examples
    held_out: Examples
    lines: tuple[str, ...]


def prepare(
    config: DataConfig,
    tokenizer: Tokenizer,
    given: Mapping[str, Source] | None = None,
    directory: Path | None = None,
) -> Prepared:
    """Read and tokenise what a configuration names.

    Args:
        config: of the data.
        tokenizer: of the base.
        given: what :func:`train.data.records.sources` has read, if it has.
        directory: see :func:`train.data.tokenize`.

    Raises:
        FileNotFoundError: as :func:`train.data.records.sources`.
        ValueError: likewise, as :func:`train.data.tokenize`, and as :func:`require_targets` and
            :func:`require_whole`.
    """
    sources = records.sources(config) if given is None else given
    lines = [source.describe() for source in sources.values()]
    first, *others = sources.values()
    of_parts = {"training": first, "held-out": others[0] if others else first}
    tables = records.split(config, sources)
    given_parts = {
        name: (source, table)
        for (name, source), table in zip(of_parts.items(), tables, strict=True)
    }
    parts, more = tokenized(given_parts, tokenizer, config, directory)
    lines += [*more, *summary.first_record(parts["training"], tokenizer, config)]
    return Prepared(parts["training"], parts["held-out"], tuple(lines))


def tokenized(
    given: Mapping[str, tuple[Source, records.Records]],
    tokenizer: Tokenizer,
    config: DataConfig,
    directory: Path | None = None,
) -> tuple[dict[str, Examples], list[str]]:
    """The parts of a data set as tokens, checked.

    Args:
        given: of each part where it is from, and its records.
        tokenizer: of the base.
        config: how records become tokens.
        directory: see :func:`train.data.tokenize`.

    Returns:
        the parts, without virtual tokens, and what is left out and cut of them, for the log. What
        was left out of a source counts for its first part.

    Raises:
        ValueError: as :func:`train.data.tokenize`, :func:`require_targets` and
            :func:`require_whole`.
    """
    sources = {id(source): source for source, _ in given.values()}
    lines = [source.skipped for source in sources.values() if source.skipped]
    parts, dropped = {}, {}
    for name, (source, table) in given.items():
        bad = BadRows(config.skip_bad_rows)
        parts[name] = tokenize(table, tokenizer, config, (), bad, source.place, directory)
        bad.require_none()
        if bad.count:
            lines.append(bad.line(f"{name} records"))
        read = sources.pop(id(source), None)
        dropped[name] = parts[name].cuts.dropped + (0 if read is None else read.dropped)
    lines.append(summary.table(parts, dropped, config))
    for name, part in parts.items():
        require_targets(part, config, name)
    require_whole({name: part.cuts for name, part in parts.items()}, config)
    return parts, lines


def require_targets(
    examples: Sequence[Example], config: DataConfig, name: str, virtual: int = 0
) -> None:
    """Check that there is something to train on, or to measure.

    Args:
        examples: of one kind.
        config: what the loss is on.
        name: of the kind, for the message.
        virtual: tokens before each prompt.

    Raises:
        ValueError: when there are no examples, or none has a token that the loss is on.
    """
    if not len(examples):
        raise ValueError(f"there are no {name} records; check config.data")
    if not num_targets(examples, config, virtual)[1].any():
        raise ValueError(
            f"none of the {len(examples):,} {name} records has a token for the loss; raise "
            "config.data.max_tokens or lower config.data.max_prompt, so that responses have room"
        )


def require_context(examples: Examples, config: DataConfig, limit: int, virtual: int = 0) -> None:
    """Check that whole rows fit into a model, where nothing else limits them.

    Args:
        examples: with their virtual tokens, or without.
        config: of the data.
        limit: tokens of the model's context.
        virtual: tokens before each prompt that the examples are without.

    Raises:
        ValueError: when a record is longer.
    """
    longest = int(examples.lengths()[0].max(initial=0)) + virtual
    if config.whole_rows and longest > limit:
        raise ValueError(
            f"the longest record has {longest:,} tokens, but the model's context has {limit:,}; "
            f"shorten it, or cut such records with config.data.max_tokens={limit}"
        )


def require_whole(parts: dict[str, Cuts], config: DataConfig) -> None:
    """Check that no more than 1 % of the responses of any part are cut, or that this is allowed.

    Raises:
        ValueError: with the smallest limits that cut no response of any part.
    """
    if config.allow_cut_responses:
        return
    for name, cuts in parts.items():
        if cuts.responses > _MOST_CUT * cuts.records:
            share = cuts.responses / cuts.records
            raise ValueError(
                f"{cuts.responses:,} of {cuts.records:,} {name} responses ({share:.1%}) are cut; "
                f"set {_smallest(parts, config)}, which cuts none, or "
                "config.data.allow_cut_responses=True"
            )


def _smallest(parts: dict[str, Cuts], config: DataConfig) -> str:
    """The smallest limits that cut no response, of those that cut one now."""
    response = max(cuts.longest_response for cuts in parts.values())
    row = max(cuts.longest_row for cuts in parts.values())
    limits = []
    if config.whole_rows:
        return f"config.data.max_tokens={row}"
    if response > config.max_response:
        limits.append(f"config.data.max_response={response}")
    if config.max_tokens is not None and row > config.max_tokens:
        limits.append(f"config.data.max_tokens={row}")
    return " and ".join(limits)
