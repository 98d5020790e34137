"""What answers: a run's best checkpoint, an adapter on its base, or a base alone."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.llama.pieces import until
from tera_jax.llama.prompts import Message
from tera_jax.llama.text_generator import TextGenerator

from .style import Style


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model that answers in one style.

    Attributes:
        model: of the base.
        variables: the three collections, or ``params`` alone.
        adapter: None for the base alone.
        tokenizer: of the model.
        style: how requests become prompts.
        config: how tokens are chosen.
        seed: of sampling.
    """

    model: Any
    variables: Any
    adapter: Any
    tokenizer: Any
    style: Style
    config: GenerationConfig
    seed: int = 0

    @property
    def tuned(self) -> bool:
        """Whether there is an adapter to switch off."""
        return self.adapter is not None

    @property
    def remembers(self) -> bool:
        """Whether an answer may depend on the turns before it."""
        return self.style.remembers

    @functools.cached_property
    def generator(self) -> TextGenerator:
        """With the adapter, if there is one."""
        return TextGenerator(self.model, self.variables, self.tokenizer, self.adapter)

    @functools.cached_property
    def _base(self) -> TextGenerator:
        if not self.tuned:
            return self.generator
        params = {"params": self.variables["params"]}
        return TextGenerator(self.model, params, self.tokenizer)

    def reply(self, messages: Sequence[Message], base: bool = False) -> Iterator[str]:
        """The answer to the last message, piece by piece.

        Raises:
            ValueError: for messages that the style does not take, or without room.
        """
        return self.pieces(self.style.conversation(messages), base)

    def pieces(self, ids: Sequence[int], base: bool = False) -> Iterator[str]:
        """The answer to a prompt's token ids, piece by piece; in one piece under beam search.

        Raises:
            ValueError: for a prompt without room.
        """
        generator = self._base if base else self.generator
        if self.config.num_beams > 1:
            return self.answers([ids], base=base)
        found = generator.pieces(ids, self.config, self.seed, self.style.stop)
        return self.style.clean(found)

    def answers(
        self,
        ids: Sequence[Sequence[int]],
        batch_size: int = 8,
        start: int = 0,
        base: bool = False,
    ) -> Iterator[str]:
        """The answers to prompts of token ids, in their order, from the one of index ``start`` on.

        Raises:
            ValueError: for a prompt without room, before any is answered.
        """
        generator = self._base if base else self.generator
        for _, answer in generator.answers(ids, self.config, self.seed, batch_size, start):
            text = until([generator.decode(answer)], self.style.stop)
            yield "".join(self.style.clean(text))
