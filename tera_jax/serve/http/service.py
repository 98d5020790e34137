"""What the endpoints share: the engine, the codec of its tokenizer, the limits and the names."""

import dataclasses
import threading

from tera_jax.serve.http.codec import Codec
from tera_jax.serve.http.errors import unknown_model
from tera_jax.serve.http.mailbox import Mailbox
from tera_jax.serve.http.metrics import Metrics
from tera_jax.serve.requests import Engine
from tera_jax.serve.store import names


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large a request may be.

    Attributes:
        body_bytes: of its body; 413 above.
        body_seconds: in which the body must come; 408 after.
        prompts: answers of one request: its prompts times ``n``.
        max_tokens: new tokens of an answer; None for what a slot holds.
        request_tokens: of all prompts and answers together; None for 64 slots.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    prompts: int = 128
    max_tokens: int | None = None
    request_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} is {value}; give a number above 0")


@dataclasses.dataclass(frozen=True)
class Service:
    """What a server serves.

    Attributes:
        engine: that answers.
        codec: texts to tokens and back.
        base: the name under which the base is served.
        limits: of requests.
        api_key: that clients must send; None takes everyone.
        adapter_changes: whether clients may take adapters out of service.
        created: seconds since 1970, as the models' date.
        metrics: for ``/metrics``.
        mailbox: from the engine's thread to the event loop.
        hidden: adapters that were unloaded.
        closing: set when the server ends.
    """

    engine: Engine
    codec: Codec
    base: str
    limits: Limits = dataclasses.field(default_factory=Limits)
    api_key: str | None = None
    adapter_changes: bool = False
    created: int = 0
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    mailbox: Mailbox = dataclasses.field(default_factory=Mailbox)
    hidden: set[str] = dataclasses.field(default_factory=set)
    closing: threading.Event = dataclasses.field(default_factory=threading.Event)

    def has(self, name: str) -> bool:
        """Whether an adapter is there and was not unloaded."""
        return name not in self.hidden and self.stores(name)

    def stores(self, name: str) -> bool:
        """Whether an adapter is there at all; ``../x`` is no name, and so it is not."""
        try:
            names.require(name)
        except ValueError:
            return False
        return self.engine.has_adapter(name)

    def adapter(self, model: str) -> str | None:
        """The adapter of a request's ``model``; None for the base.

        Raises:
            ApiError: 404 for a name that is neither.
        """
        if model == self.base:
            return None
        if not self.has(model):
            raise unknown_model(model)
        return model
