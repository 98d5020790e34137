"""What an engine holds at once, and where it says no. Imports no JAX."""

import dataclasses

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes and limits of an engine.

    Attributes:
        slots: requests that are answered at once. On a mesh, a multiple of data x fsdp.
        max_length: tokens of a slot: those of a prompt and its answer together.
        queue: requests that wait, at most. Those beyond are refused.
        buckets: lengths that prompts are padded to, each with a program of its own. Empty for 32,
            64, 128, ... and ``max_length``.
        prefills: prompts that are read between two steps, at most. More fill empty slots sooner,
            and delay the tokens of those that run.
        prefill_tokens: of the prompts that one program reads. Prompts of one bucket are read 16, 4
            or 1 together, as far as they fit.
        eos_ids: tokens that end every answer, unless a request ignores them.
        echo: whether requests may have the log-probabilities of their prompts, which takes another
            program for each bucket.
        host_bytes: of adapters that are kept in host memory.
        device_bytes: of adapters that are kept in device memory, beside those in slots.
        loaders: threads that read the store and put adapters on the device.

    Raises:
        ValueError: for a value outside of its limits, by the field's name.
    """

    slots: int = 64
    max_length: int = 512
    queue: int = 1024
    buckets: tuple[int, ...] = ()
    prefills: int = 16
    prefill_tokens: int = 2048
    eos_ids: tuple[int, ...] = ()
    echo: bool = True
    host_bytes: int = 2048 * MIB
    device_bytes: int = 256 * MIB
    loaders: int = 4

    def __post_init__(self) -> None:
        for field, least in (
            *(("slots", 1), ("max_length", 2), ("queue", 1), ("prefills", 1), ("loaders", 1)),
            *(("prefill_tokens", 1), ("host_bytes", 0), ("device_bytes", 0)),
        ):
            value = getattr(self, field)
            if not least <= value < 2**63:
                raise ValueError(f"{field} is {value}; give an integer of at least {least}")
        if any(token < 0 for token in self.eos_ids):
            raise ValueError(f"eos_ids {self.eos_ids} has one below 0; give ids of the vocabulary")
        if self.buckets and (min(self.buckets) < 1 or max(self.buckets) > self.max_length):
            raise ValueError(
                f"buckets {self.buckets} are lengths of prompts; give some from 1 to max_length="
                f"{self.max_length}"
            )

    def lengths(self) -> tuple[int, ...]:
        """The buckets in ascending order, of which the last is as long as a slot."""
        found = {*self.buckets}
        size = 32
        while not self.buckets and size < self.max_length:
            found.add(size)
            size *= 2
        return (*sorted(found - {self.max_length}), self.max_length)
