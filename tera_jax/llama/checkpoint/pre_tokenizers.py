"""How byte-level vocabularies in GGUF files cut a text before merging, by llama.cpp's names."""

from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers


class Cut(NamedTuple):
    """What a file says by the name of its pre-tokenizer alone.

    Attributes:
        pattern: the parts of a text, as published with the vocabulary; None for GPT-2's, with every
            digit alone.
        whole_words: a part that is in the vocabulary is taken whole, even where merging would not
            reach it.
        bos: texts start with it where the file does not say.
        composed: accents are composed first (NFC).
    """

    pattern: str | None
    whole_words: bool = False
    bos: bool = False
    composed: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The two steps: parts, then bytes."""
        if self.pattern is None:
            digits = pre_tokenizers.Digits(individual_digits=True)
            gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            return pre_tokenizers.Sequence([digits, gpt2])
        cut = pre_tokenizers.Split(Regex(self.pattern), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([cut, byte_level])


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Signs, new lines and spaces; {} is what may follow signs.
_REST = r" ?[^\s\p{{L}}\p{{N}}]+[\r\n{}]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str) -> str:
    return rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_REST.format('')}"


def _words_by_case(digits: str, endings: str = "") -> str:
    """Words are cut where a small letter is followed by a capital."""
    capital, small = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{before}{capital}*{small}+{endings}|{before}{capital}+{small}*{endings}|{digits}|"
        f"{_REST.format('/')}"
    )


_LLAMA_3 = Cut(_words(r"\p{N}{1,3}"), whole_words=True, bos=True)
_QWEN_2 = Cut(_words(r"\p{N}"), composed=True)
_GPT_4O = Cut(_words_by_case(r"\p{N}{1,3}", f"{_ENDINGS}?"))
_SMOLLM = Cut(None)

CUTS: dict[str, Cut] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA_3),
    # Llama 3's vocabulary in models that put no BOS, such as SmolLM3.
    "smaug-bpe": _LLAMA_3._replace(bos=False),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN_2),
    # OLMo 2 and Phi-4.
    "dbrx": Cut(_words(r"\p{N}{1,3}")),
    # Phi-4 mini.
    "gpt-4o": _GPT_4O,
    # Mistral Nemo.
    "tekken": Cut(_words_by_case(r"\p{N}"), whole_words=True, bos=True),
    # Granite is "refact".
    **dict.fromkeys(("smollm", "refact"), _SMOLLM),
}
"""By ``tokenizer.ggml.pre``."""
