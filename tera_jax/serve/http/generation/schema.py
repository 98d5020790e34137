"""The bodies of requests: every field that is known, and what becomes of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tera_jax.json_files import shown
from tera_jax.serve.http.errors import ApiError

_IGNORED = frozenset(
    [
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    ]
)
"""Fields that change no token."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields that are not offered, with the values that change nothing."""
_EMPTY = "leave it out"
Schema = TypeVar("Schema", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Body):
    """How an answer is streamed."""

    include_usage: bool = False


class _Generation(_Body):
    """What completions and chats share. Limits of numbers are those of ``Sampling``."""

    model: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: Annotated[int, Field(ge=1)] = 1
    seed: int | None = None
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer, as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(_Generation):
    """Of ``/v1/completions``."""

    prompt: Any
    max_tokens: Annotated[int, Field(ge=0)] = 16
    echo: bool = False
    logprobs: int | None = None


class TextPart(_Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """With a text as its content, as chat templates take it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


class ChatBody(_Generation):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None


class AdapterBody(_Body):
    """Of ``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``."""

    lora_name: str
    lora_path: str | None = None
    lora_int_id: int | None = None


def read(kind: type[Schema], content: Mapping[str, Any]) -> Schema:
    """A body of a kind.

    Args:
        kind: of the body.
        content: as JSON has it, without nulls at the top.

    Raises:
        ApiError: 400 that names the field: for one that is unknown or not offered, one that is
            missing, and a value of another type or beyond its limit.
    """
    given = dict(content)
    for name in content:
        if name in kind.model_fields:
            continue
        if name in _IGNORED:
            del given[name]
        elif name in _NEUTRAL:
            if not any(_same(given.pop(name), value) for value in _NEUTRAL[name]):
                message = f"{name}={shown(content[name])} is not offered here; {_EMPTY}"
                raise ApiError(400, message, name)
        else:
            raise ApiError(400, f"the field {shown(name)} is unknown; {_EMPTY}", name[:80])
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _of_field(error) from None


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _of_field(error: ValidationError) -> ApiError:
    """The first thing that is wrong, by the field's name."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"])) or "the body"
    if first["type"] == "missing":
        return ApiError(400, f"the field {name!r} is missing; give it", name)
    message = f"{name} is {shown(first['input'])}: {first['msg']}"
    return ApiError(400, message, name)
