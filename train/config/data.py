"""The section of the data: records, and how they become tokens."""

import dataclasses
from typing import Literal

from .limits import require_at_least, require_seed


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """The columns of a file whose records are of no kind that is known by its fields.

    A record has a prompt and a completion, or messages, or a text.

    Attributes:
        prompt: the column of the prompt.
        completion: of the completion.
        system: of a system message.
        messages: of a list of messages.
        text: of a text without a prompt.
    """

    prompt: str | None = None
    completion: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        given = {*self.given()}
        if not given:
            return
        if "" in self.given().values():
            raise ValueError(f"columns has an empty name: {self.given()}; give the column's name")
        if given - {"system"} not in ({"prompt", "completion"}, {"messages"}, {"text"}) or (
            given == {"system", "text"}
        ):
            raise ValueError(
                f"columns names {', '.join(sorted(given))}; name prompt and completion, or "
                "messages, perhaps with system, or text alone"
            )

    def given(self) -> dict[str, str]:
        """Field -> the column that it is read from."""
        fields = dataclasses.asdict(self)
        return {field: column for field, column in fields.items() if column is not None}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Records, and how they become tokens.

    Attributes:
        path: training records: files, globs, directories of ``datasets``, ``hub:owner/name:split``,
            or several of these with commas between them. A slice such as ``r.jsonl[:800]`` or
            ``r.jsonl[-100:]`` takes part of one. docs/your-data.md has the formats.
        validation_path: held-out records, likewise; or None to take the last ``validation_rows`` of
            the shuffled training records.
        validation_rows: see above; None takes a tenth of the records, but no more than 120.
        split_seed: of the shuffle before that split.
        prompt: how a record becomes text. ``auto`` takes the kind of records from their fields, and
            puts each through the chat template; a ``text`` stays as it is. ``plain`` uses no
            template: a completion follows its prompt. ``hira`` (the paper's setting) and
            ``llm-adapters`` are for instructions, with Alpaca's template where a record has an
            ``input``; ``convai2`` (HiRA's) is for dialogues.
        columns: names of the columns, for ``auto`` and ``plain``, where they are not known.
        chat_template: for ``auto``: a Jinja file, ``chatml`` for a built-in one, or None for that
            of the tokenizer.
        loss: with the loss on the ``assistant`` turns or the response, on the ``last`` of these
            turns, or on ``all`` tokens.
        skip_bad_rows: leave out records that cannot be used, and name them, in place of refusing
            the file.
        history: the last utterances of a dialogue that its prompt holds.
        max_prompt: tokens of a prompt; longer ones lose their beginning. Not for ``auto`` and
            ``plain``.
        max_response: tokens of a response; longer ones lose their end. Not for ``auto`` and
            ``plain``.
        max_tokens: of a training row, prompt and response together; longer ones lose their end.
            None sets no other limit, and with ``auto`` and ``plain`` none at all.
        allow_cut_responses: train also where more than 1 % of the training or of the held-out
            responses lose their end. What is cut is counted before training in any case.
        train_on_prompt: the same as a ``loss`` on ``all``.
        bos: begin a row with the tokenizer's BOS token ``never``, at ``inference`` only (HiRA's
            setting), or ``always``; ``tokenizer`` does as the tokenizer does by itself. A chat
            template puts its own.
        append_eos: end a response with the tokenizer's EOS token where it fits. ``auto`` and
            ``plain`` always do, or end as the chat template does.
        packed_length: of a row that holds several records, apart from one another: the loss is the
            same and little is padding. Batch sizes then count rows, in training and for the
            held-out loss. None gives each record a row. With ``auto`` and ``plain`` a row is as
            long as the longest record where that is longer.
        streaming: keep neither records nor tokens in memory. The records are read as they stand in
            their files, and their tokens are put into a temporary file in the run's directory, from
            where each batch is read. Order and batches are the same. The files are read up to three
            times.
    """

    path: str
    validation_path: str | None = None
    validation_rows: int | None = None
    split_seed: int = 58
    prompt: Literal["auto", "plain", "hira", "llm-adapters", "convai2"] = "hira"
    columns: ColumnsConfig = dataclasses.field(default_factory=ColumnsConfig)
    chat_template: str | None = None
    loss: Literal["assistant", "last", "all"] = "assistant"
    skip_bad_rows: bool = False
    history: int = 3
    max_prompt: int = 256
    max_response: int = 16
    max_tokens: int | None = None
    allow_cut_responses: bool = False
    train_on_prompt: bool = False
    bos: Literal["never", "inference", "always", "tokenizer"] = "never"
    append_eos: bool = False
    packed_length: int | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        require_at_least(
            1,
            validation_rows=self.validation_rows,
            history=self.history,
            max_prompt=self.max_prompt,
            max_response=self.max_response,
            packed_length=self.packed_length,
        )
        require_at_least(2, max_tokens=self.max_tokens)
        require_seed(split_seed=self.split_seed)
        if self.train_on_prompt and self.loss == "last":
            raise ValueError("loss is 'last', but train_on_prompt puts it on all; set one of them")
        if not self.whole_rows and self.columns.given():
            raise ValueError(
                f"columns is for prompt 'auto' and 'plain', but prompt is {self.prompt!r}; set "
                "config.data.prompt=auto"
            )
        if self.chat_template is not None and self.prompt != "auto":
            raise ValueError(
                f"chat_template is for prompt 'auto', but prompt is {self.prompt!r}; set "
                "config.data.prompt=auto"
            )
        longest = self.max_tokens or 0
        if not self.whole_rows:
            longest = self.max_prompt + self.max_response
            longest = min(longest, self.max_tokens or longest)
        if self.packed_length is not None and self.packed_length < longest:
            limits = "max_tokens" if self.whole_rows else "max_prompt, max_response or max_tokens"
            raise ValueError(
                f"packed_length is {self.packed_length}, but a record may have {longest} tokens; "
                f"raise it, or lower {limits}"
            )

    @property
    def whole_rows(self) -> bool:
        """Whether rows have no limit but ``max_tokens``, and the kind is taken from the records."""
        return self.prompt in ("auto", "plain")

    @property
    def loss_on_all(self) -> bool:
        """Whether the loss is on every token that another predicts."""
        return self.train_on_prompt or self.loss == "all"
