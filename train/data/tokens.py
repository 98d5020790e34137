"""Records to token ids: their texts tokenised, cut to the limits of a configuration."""

import array
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from tera_jax.llama.checkpoint import special_tokens

from ..config import DataConfig
from . import formats, kinds
from .bad_rows import BadRows
from .conversations import chat, templates
from .examples import Cuts, Example, Examples, Tokenizer, ids_of, special_id
from .stored import StoredRows
from .streams import StreamedRecords

_CHUNK = 4096
"""Records that are tokenised at once, by as many threads as there are cores."""
_CONVERSATIONS = 512
"""Likewise of conversations, each of which is several texts."""


def tokenize(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    virtual: Sequence[int] = (),
    bad: BadRows | None = None,
    place: Callable[[int], str] = "record {}".format,
    directory: Path | None = None,
) -> Examples:
    """Records as token ids with a mask, cut to the limits of the configuration.

    Under a named template prompt and response are tokenised apart, so that the prompt's tokens are
    those seen at inference, and each has a limit. Under ``auto`` and ``plain`` the rows are whole:
    those above ``max_tokens`` lose their end, and others nothing.

    Args:
        records: as :mod:`train.data.records` reads them.
        tokenizer: of the base.
        config: of the data.
        virtual: token ids before each record, which do not count towards its length.
        bad: collects the records that the chat template refuses; None refuses them here.
        place: the name of a record by its number, for messages.
        directory: gets the file of the token ids of :class:`~train.data.streams.StreamedRecords`,
            of which others have none; None takes that of temporary files.

    Raises:
        ValueError: for records that the template refuses, unless ``bad`` leaves them out; for a
            template that cannot be used at all.
    """
    collected = BadRows(config.skip_bad_rows) if bad is None else bad
    streamed = isinstance(records, StreamedRecords)
    rows = StoredRows(directory) if streamed else _Rows()
    if config.whole_rows:
        _whole_rows(rows, records, tokenizer, config, collected, place)
    else:
        _limited_rows(rows, records, tokenizer, config)
    if bad is None:
        collected.require_none()
    if isinstance(rows, StoredRows) and isinstance(records, StreamedRecords):
        return rows.examples(records.file_order()).after(virtual)
    assert isinstance(rows, _Rows)
    return rows.examples().after(virtual)


def encode_prompts(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    virtual: Sequence[int] = (),
    inference: bool = False,
) -> list[list[int]]:
    """The prompts of records as token ids, under a named template the last ``max_prompt`` of each.

    ``inference`` prompts are those for a response; their authors may train on others.

    Raises:
        ValueError: for a record that the chat template refuses.
    """
    result: list[list[int]] = []
    for rows in _chunks(records):
        kind = formats.of_record(config.prompt, rows[0])
        if config.prompt == "auto" and kind.messages is not None:
            template = templates.load_template(config.chat_template)
            for number, row in enumerate(rows, len(result)):
                try:
                    turns = kind.messages(row)
                    asked = turns._replace(messages=formats.asked(turns.messages))
                    ids = chat.prompt_ids(tokenizer, asked, template)
                except ValueError as error:
                    raise ValueError(f"record {number} {error}") from None
                result.append([*virtual, *ids])
            continue
        for whole in _prompts(kind, rows, tokenizer, config, inference):
            ids = [*whole.first, *whole.ids] if config.whole_rows else _last(whole, config)
            result.append([*virtual, *ids])
    return result


def row_length(config: DataConfig, virtual: int) -> int:
    """The most tokens of an example under a named template."""
    longest = config.max_prompt + config.max_response
    return virtual + min(longest, config.max_tokens or longest)


class _Rows:
    """Examples that are put one after the other."""

    def __init__(self) -> None:
        self._tokens, self._mask = array.array("i"), bytearray()
        self._lengths = array.array("i")
        self.cuts = Cuts()

    def add(self, ids: Sequence[int], mask: Iterable[int], cuts: Cuts) -> None:
        """An example, and the counts with it."""
        self._tokens.extend(ids)
        self._mask.extend(mask)
        self._lengths.append(len(ids))
        self.cuts = cuts

    def drop(self, cuts: Cuts) -> None:
        """A record that is left out."""
        self.cuts = cuts

    def examples(self) -> Examples:
        return Examples(
            np.frombuffer(self._tokens, np.int32),
            np.frombuffer(self._mask, np.uint8),
            np.frombuffer(self._lengths, np.int32).astype(np.int64),
            self.cuts,
        )


def _limited_rows(
    result: _Rows | StoredRows,
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
) -> None:
    """Prompts and responses with a limit each."""
    kind = formats.of_template(config.prompt)
    eos = [special_id(tokenizer.eos_token_id, "EOS")] if config.append_eos else []
    most = row_length(config, 0)
    for rows in _chunks(records):
        given = _prompts(kind, rows, tokenizer, config, inference=False)
        answers = ids_of([kind.response(row, config) for row in rows], tokenizer)
        for whole, answer in zip(given, answers, strict=True):
            longest = _last(whole, config)
            prompt, response = longest[:most], [*answer, *eos]
            kept = response[: config.max_response][: most - len(prompt)]
            cuts = result.cuts
            counts = Cuts(
                cuts.records + 1,
                cuts.prompts + (len(prompt) < len(whole.first) + len(whole.ids)),
                cuts.responses + (len(kept) < len(response)),
                max(cuts.longest_response, len(response)),
                max(cuts.longest_row, len(longest) + len(response)),
            )
            result.add([*prompt, *kept], bytes(len(prompt)) + b"\1" * len(kept), counts)


def _whole_rows(
    result: _Rows | StoredRows,
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    bad: BadRows,
    place: Callable[[int], str],
) -> None:
    """Rows without a limit but ``max_tokens``."""
    limit, number = config.max_tokens, -1
    for rows in _chunks(records, _CONVERSATIONS):
        bad.seen(len(rows))
        for row, one in zip(rows, _rendered(rows, tokenizer, config), strict=True):
            number += 1
            if isinstance(one, ValueError):
                bad.add(f"{place(row.get(kinds.ROW, number))} {one}")
                result.drop(result.cuts._replace(dropped=result.cuts.dropped + 1))
                continue
            ids, mask = one.ids[:limit], one.mask[:limit]
            targets, cuts = sum(one.mask), result.cuts
            lost = sum(mask) < targets
            counts = Cuts(
                cuts.records + 1,
                cuts.prompts + (len(ids) < len(one.ids) and not lost),
                cuts.responses + lost,
                max(cuts.longest_response, targets),
                max(cuts.longest_row, len(one.ids)),
                cuts.dropped,
            )
            result.add(ids, mask, counts)


def _rendered(
    rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, config: DataConfig
) -> list[Example | ValueError]:
    """Each record in full, or why it cannot be had."""
    kind = formats.of_record(config.prompt, rows[0])
    if config.prompt == "auto" and kind.messages is not None:
        conversations = [kind.messages(row) for row in rows]
        template = templates.load_template(config.chat_template)
        return chat.render(tokenizer, conversations, template, config.loss)
    eos = special_id(tokenizer.eos_token_id, "EOS")
    first = _begins_with(tokenizer, config, inference=False)
    texts = [kind.prompt(row, config, False) for row in rows]
    responses = [kind.response(row, config) for row in rows]
    prompts = ids_of(texts, tokenizer)
    joint = ids_of([a + b for a, b in zip(texts, responses, strict=True)], tokenizer)
    # As they stand in one text, where the prompt's own tokens do not change by that.
    stands = [both[: len(ids)] == ids for ids, both in zip(prompts, joint, strict=True)]
    others = [text for text, same in zip(responses, stands, strict=True) if not same]
    apart = iter(ids_of(others, tokenizer) if others else ())
    result: list[Example | ValueError] = []
    for ids, both, same in zip(prompts, joint, stands, strict=True):
        answer = both[len(ids) :] if same else next(apart)
        answer = answer if answer[-1:] == [eos] else [*answer, eos]
        result.append(Example.of([*first, *ids], answer))
    return result


class _Prompt(NamedTuple):
    """What it begins with, and the ids of its text."""

    first: list[int]
    ids: list[int]


def _prompts(
    kind: kinds.Format,
    records: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: DataConfig,
    inference: bool,
) -> list[_Prompt]:
    """Prompts before any cut."""
    first = _begins_with(tokenizer, config, inference)
    texts = [kind.prompt(record, config, inference) for record in records]
    return [_Prompt(first, ids) for ids in ids_of(texts, tokenizer)]


def _begins_with(tokenizer: Tokenizer, config: DataConfig, inference: bool) -> list[int]:
    """The special tokens before every prompt."""
    if config.bos == "tokenizer":
        return [*special_tokens.ends(tokenizer).before]
    if config.bos == "always" or (config.bos == "inference" and inference):
        return [special_id(tokenizer.bos_token_id, "BOS")]
    return []


def _last(prompt: _Prompt, config: DataConfig) -> list[int]:
    """The last ``max_prompt`` tokens of a prompt, what it begins with among them."""
    first, ids = prompt
    room = config.max_prompt - len(first)
    return [*first, *ids[len(ids) - min(len(ids), room) :]]


def _chunks(
    records: Iterable[Mapping[str, Any]], size: int | None = None
) -> Iterator[list[Mapping[str, Any]]]:
    size = size or _CHUNK
    if isinstance(records, datasets.Dataset):  # a row at a time it takes ten times as long
        for columns in records.iter(size):
            yield [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        return
    rows = iter(records)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
