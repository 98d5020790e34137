"""``generation_config.json``: how the makers of a checkpoint want its answers sampled.

The keys and values are those of transformers' ``GenerationConfig``. Each key is one of three kinds:
used here; of no effect on the tokens that are chosen; or not used, which is told by name.
"""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tera_jax import atomic, json_files
from tera_jax.json_files import Key
from tera_jax.llama.decode.config import GenerationConfig

FILE = "generation_config.json"
_TOP_K = 50
"""What transformers takes for a draw where the file has no ``top_k``."""
_USED = {
    "do_sample": Key(bool | None, None),
    "max_new_tokens": Key(int | None, None, least=1, below=2**31),
    "num_beams": Key(int | None, None, least=1, below=2**31),
    "length_penalty": Key(float | None, None),
    "early_stopping": Key(Literal["never"] | bool | None, None),
    "no_repeat_ngram_size": Key(int | None, None, least=0, below=2**31),
    "repetition_penalty": Key(float | None, None, above=0),
    "temperature": Key(float | None, None, least=0),
    "top_k": Key(int | None, None, least=0, below=2**31),
    "top_p": Key(float | None, None, least=0),
}
_ELSEWHERE = """
eos_token_id bos_token_id pad_token_id max_length
transformers_version _from_model_config trust_remote_code generation_kwargs
use_cache cache_implementation cache_config return_legacy_cache low_memory
prefill_chunk_size compile_config disable_compile
return_dict_in_generate output_attentions output_hidden_states output_scores output_logits
decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule
assistant_confidence_threshold assistant_lookbehind target_lookbehind assistant_early_exit
"""
"""Keys that choose no token: read with ``config.json`` or of the tokenizer, of the file itself, of
how transformers computes, and of what it returns beside tokens. An answer here ends after
``max_new_tokens`` or with the context, whatever ``max_length`` says."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "min_p": (0,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "penalty_alpha": (0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_return_sequences": (1,),
    "guidance_scale": (1,),
    "renormalize_logits": (False,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "use_mtp": (False,),
}
"""Values that change nothing, beside None and empty lists, which never do."""


class Sampling(NamedTuple):
    """What a checkpoint's file asks for.

    Attributes:
        config: with the fields that the file sets, and transformers' defaults for the others; its
            ``max_new_tokens`` is the one that was given where the file has none.
        unused: ``key=value`` of what would change the answers and is not used.
    """

    config: GenerationConfig
    unused: tuple[str, ...]


def load_generation_config(
    path_or_name: str | os.PathLike[str], max_new_tokens: int = 128
) -> Sampling:
    """The sampling defaults of a checkpoint.

    Args:
        path_or_name: as for :func:`tera_jax.llama.load_pretrained`. A GGUF file, and a directory
            without ``generation_config.json``, give greedy decoding.
        max_new_tokens: where the file has none.

    Raises:
        FileNotFoundError: for a checkpoint that is not there.
        ValueError: for a file that is no JSON, and a value of another type or beyond its limits.
    """
    # The hub's client loads with it, and :func:`sampling` does without.
    from tera_jax.llama.checkpoint.resolve import locate

    path = locate(path_or_name)
    return sampling(path if path.is_dir() else path.parent / "none", max_new_tokens)


def sampling(directory: Path, max_new_tokens: int = 128) -> Sampling:
    """As :func:`load_generation_config`, of a local directory."""
    file = directory / FILE
    if not file.is_file():
        return Sampling(GenerationConfig(max_new_tokens=max_new_tokens), ())
    raw = json_files.read(file, remedy="fetch it again", integer_bits=128)
    found = json_files.typed(file, raw, _USED, others="ignore", remedy="correct it")
    given = {key: value for key, value in found.items() if value is not None}
    unused = [
        f"{key}={json_files.shown(value)}" for key, value in raw.items() if _matters(key, value)
    ]
    if given.get("do_sample", False):
        given.setdefault("top_k", _TOP_K)
    if given.get("temperature") == 0:  # greedy, as some files say it
        del given["temperature"]
        given["do_sample"] = False
    if given.get("top_p") == 0:  # the most likely token alone
        given["top_p"] = 1e-6
    if given.get("do_sample", False) and given.get("num_beams", 1) > 1:
        unused.append(f"num_beams={given.pop('num_beams')} with do_sample")
    try:
        config = GenerationConfig(**{"max_new_tokens": max_new_tokens, **given})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return Sampling(config, tuple(unused))


def write(directory: Path, base: Path | None, eos_ids: tuple[int, ...]) -> None:
    """Write the file beside exported weights: the base's, with every token that ends an answer.

    Args:
        directory: of the export.
        base: the base's directory or GGUF file; None, and one without the file, gives greedy
            decoding.
        eos_ids: that end an answer.

    Raises:
        ValueError: for a file of the base that is no JSON.
    """
    content: dict[str, Any] = {"do_sample": False}
    if base is not None and (base / FILE).is_file():
        content = json_files.read(base / FILE, remedy="fetch it again", integer_bits=128)
    ends = [*eos_ids] if len(eos_ids) > 1 else next(iter(eos_ids), None)
    atomic.write_json(directory / FILE, {**content, "eos_token_id": ends})


def _matters(key: str, value: Any) -> bool:
    """Whether a key would change the answers and is not used."""
    if key in _USED or key in _ELSEWHERE.split() or value is None or value in ([], {}):
        return False
    neutral = _NEUTRAL.get(key, ())
    return not any(value == each and isinstance(value, int | float) for each in neutral)
