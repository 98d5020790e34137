"""A tokenizer as the server uses it: prompts to token ids, answers to text, tokens to bytes."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tera_jax.llama.pieces import Detokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_TAIL = 16
"""Tokens of a prompt that an answer's text goes on with."""


class Codec:
    """Of one tokenizer of transformers.

    Attributes:
        longest: bytes of the longest token, which limits the tokens that a text has from below.
        has_template: whether it knows how to write a conversation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._plain = _plain_decoder(tokenizer)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = repr(getattr(backend, "decoder", ""))
        self._alphabet = _byte_alphabet() if "ByteLevel" in decoder else {}
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._added = {id_: str(token) for id_, token in added.items()}
        self.longest = max((len(token.encode()) for token in vocabulary), default=1)
        bytes_ = {id_ for token, id_ in vocabulary.items() if _BYTE.fullmatch(token)}
        special = {*tokenizer.all_special_ids}
        self._held = frozenset() if self._alphabet or not bytes_ else frozenset(bytes_ | special)
        self.has_template = bool(tokenizer.chat_template)
        self.bytes_of: Callable[[int], bytes] = functools.lru_cache(2**16)(self._bytes_of)
        self.text_of: Callable[[int], str] = functools.lru_cache(2**16)(self._text_of)

    def encode(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a text, or of a conversation by the tokenizer's chat template.

        Raises:
            ValueError: for messages that the template does not take.
        """
        from tera_jax.llama.prompts import encode  # which imports JAX

        return encode(self._tokenizer, prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        if self._plain is not None:
            return self._plain([*ids])
        text = self._tokenizer.decode(
            [*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """For the tokens of an answer; with a prompt, their text goes on with the prompt's."""
        return Detokenizer(self.decode, self._held.__contains__, prompt[-_TAIL:])

    def _text_of(self, id_: int) -> str:
        """A token alone; U+FFFD stands for bytes that are no character."""
        return self.bytes_of(id_).decode("utf-8", "replace")

    def _bytes_of(self, id_: int) -> bytes:
        """What a token writes; joined, those of an answer are its text's."""
        token = self._added.get(id_) or self._tokenizer.convert_ids_to_tokens(id_)
        if token is None:  # an id that the model has and the tokenizer has not
            return b""
        if id_ in self._added:
            return str(token).encode()
        if all(letter in self._alphabet for letter in token):
            return bytes(self._alphabet[letter] for letter in token)
        if found := _BYTE.fullmatch(token):
            return bytes([int(found[1], 16)])
        return str(token).replace("▁", " ").encode()


def _plain_decoder(tokenizer: Any) -> Callable[[list[int]], str] | None:
    """What ``decode`` of a tokenizer comes to, without its wrappers; None where it has its own.

    A stream decodes each token twice, and the wrappers take most of that time.
    """
    import transformers  # here: a server's flags are checked before

    kind, own = transformers.PreTrainedTokenizerFast, type(tokenizer)
    names = ("decode", "_decode")
    if not isinstance(tokenizer, kind) or any(
        getattr(own, name) is not getattr(kind, name) for name in names
    ):
        return None
    return functools.partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=True)


def _byte_alphabet() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
