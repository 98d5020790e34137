"""How a request becomes a prompt: as it is, by the chat template, or by a run's own template."""

import abc
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tera_jax.llama.prompts import Message, encode

from .. import data, tasks
from ..config import DataConfig
from ..data import formats
from ..data.conversations import chat, templates, tools
from ..data.conversations.messages import Turns
from ..data.kinds import is_empty

Request = Mapping[str, Any]
"""``prompt``, a text; or ``messages``; or the fields of the run's own kind of records."""

NAMED = ("hira", "llm-adapters", "convai2", "plain")
"""Values of ``config.data.prompt`` that do not go through a chat template."""


@dataclasses.dataclass(frozen=True)
class Style(abc.ABC):
    """Requests to token ids.

    Attributes:
        tokenizer: of the model.
    """

    tokenizer: Any

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """For messages and files."""

    @property
    def remembers(self) -> bool:
        """Whether an answer in a chat may depend on the turns before it."""
        return True

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return ()

    def ids(self, request: Request) -> list[int]:
        """The token ids of a request.

        Raises:
            ValueError: for a request that the style does not take, beginning with a verb.
        """
        if not is_empty(request.get("tools")):
            raise ValueError(
                "has 'tools', which only messages in a chat template take; remove them"
            )
        if "messages" in request:
            return self.conversation(require_messages(request["messages"]))
        if "prompt" in request:
            prompt = request["prompt"]
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError("has no text in field 'prompt'; write one")
            return self.conversation([{"role": "user", "content": prompt}])
        raise ValueError(
            f"has neither 'prompt' nor 'messages', but {', '.join(request) or 'nothing'}; "
            f"{self.remedy()}"
        )

    def remedy(self) -> str:
        """What a request should have."""
        return "write its text into 'prompt', or its turns into 'messages'"

    @abc.abstractmethod
    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation whose last turn is to be answered."""

    def clean(self, pieces: Iterator[str]) -> Iterator[str]:
        """An answer's text as the style has it."""
        return pieces


class Raw(Style):
    """The last text as it is, after the tokens that begin every text."""

    @property
    def name(self) -> str:
        """As the flag is called."""
        return "raw"

    @property
    def remembers(self) -> bool:
        """Each text stands alone."""
        return False

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The text of the only turn."""
        _require_one(messages, "--raw")
        return encode(self.tokenizer, messages[-1]["content"])


@dataclasses.dataclass(frozen=True)
class Chat(Style):
    """A chat template.

    Attributes:
        config: of the records of the run, where a run answers.
        template: a Jinja text; None for that of the tokenizer.
    """

    config: DataConfig | None = None
    template: str | None = None

    @property
    def name(self) -> str:
        """With a part of the template's hash."""
        text = templates.template_of(self.tokenizer, self.template)
        return f"chat template {hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def ids(self, request: Request) -> list[int]:
        """As the base class, and of a record of any kind that a run reads."""
        if "messages" in request and (given := tools.parsed(request.get("tools"))):
            return self._encoded(require_messages(request["messages"]), given)
        named = "messages" in request or "prompt" in request
        kind = formats.recognised("auto", request, answered=False)
        if named or self.config is None or kind is None:
            return super().ids(request)
        (ids,) = data.encode_prompts([request], self.tokenizer, self.config, inference=True)
        return ids

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """All turns, and the beginning of the answer's."""
        return self._encoded(messages, ())

    def _encoded(self, messages: Sequence[Message], given: Sequence[tools.Tool]) -> list[int]:
        turns = Turns([dict(message) for message in messages], tools=given)
        return chat.prompt_ids(self.tokenizer, turns, self.template)


@dataclasses.dataclass(frozen=True)
class Named(Style):
    """The template that a run was trained with.

    Attributes:
        config: of the run's records.
    """

    config: DataConfig

    @property
    def name(self) -> str:
        """As ``config.data.prompt`` has it."""
        return self.config.prompt

    @property
    def remembers(self) -> bool:
        """Only dialogues have turns."""
        return self.config.prompt == "convai2"

    @property
    def stop(self) -> tuple[str, ...]:
        """Where the next prompt would begin."""
        return tasks.stops(self.config.prompt)

    def ids(self, request: Request) -> list[int]:
        """As the base class, and of a record of the run's own kind."""
        if self.config.prompt == "plain":
            return super().ids(request)
        kind = formats.of_template(self.config.prompt)
        if "messages" in request or "prompt" in request or not kind.fields.keys() & request.keys():
            return super().ids(request)
        return self._encode(kind.used(request, self.config.prompt, answered=False))

    def remedy(self) -> str:
        """What a request should have."""
        if self.config.prompt == "plain":
            return super().remedy()
        kind = formats.of_template(self.config.prompt)
        asked = [field for field in kind.fields if field != kind.answer]
        return f"write its text into 'prompt', or give {', '.join(asked)}"

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The template around the last turn; around the last few of a dialogue."""
        if self.remembers:
            persona = [each["content"] for each in messages if each["role"] == "system"]
            said = [each["content"] for each in messages if each["role"] != "system"]
            return self._encode({"persona": persona, "history": said})
        _require_one(messages, f"the run's template {self.config.prompt}")
        field = "prompt" if self.config.prompt == "plain" else "instruction"
        return self._encode({field: messages[-1]["content"]})

    def clean(self, pieces: Iterator[str]) -> Iterator[str]:
        """Without the space around it, as answers are read in the evaluation."""
        begun, held = False, ""
        for piece in pieces:
            text = held + (piece if begun else piece.lstrip())
            begun = begun or bool(text)
            ready = text.rstrip()
            held = text[len(ready) :]
            if ready:
                yield ready

    def _encode(self, record: Mapping[str, Any]) -> list[int]:
        # Training cuts long prompts; here they are whole, or refused where the context is full.
        whole = dataclasses.replace(self.config, max_prompt=2**30, packed_length=None)
        (ids,) = data.encode_prompts([record], self.tokenizer, whole, inference=True)
        return ids


def style_of(tokenizer: Any, config: DataConfig | None = None, raw: bool = False) -> Style:
    """The style of a model's prompts.

    Args:
        tokenizer: of the model.
        config: of the records of the run that trained it, if there is one.
        raw: take texts as they are.

    Returns:
        the run's own template where it was trained with a named one; else the chat template of the
        run or of the tokenizer; texts as they are where there is none.

    Raises:
        FileNotFoundError: when the run's template file is gone.
        ValueError: when it cannot be read.
    """
    if raw:
        return Raw(tokenizer)
    if config is not None and config.prompt in NAMED:
        return Named(tokenizer, config)
    template = None if config is None else templates.load_template(config.chat_template)
    if template is None and not tokenizer.chat_template:
        return Raw(tokenizer)
    return Chat(tokenizer, config, template)


def require_messages(messages: Any) -> Sequence[Message]:
    """Messages with a role and a content, the last of which is not the answer.

    Raises:
        ValueError: beginning with a verb, for what is none.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError("has no list of messages in field 'messages'")
    for number, message in enumerate(messages):
        for field in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(field), str):
                raise ValueError(f"has no text under {field!r} in message {number}; write one")
    if messages[-1]["role"] == "assistant":
        raise ValueError("ends with the assistant's message; leave out the one to be generated")
    return messages


def _require_one(messages: Sequence[Message], who: str) -> None:
    if len(messages) != 1:
        raise ValueError(
            f"has {len(messages)} messages, but {who} takes one text; give its last one alone"
        )
