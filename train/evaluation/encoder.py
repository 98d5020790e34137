"""The encoder of BERTScore: its configuration, the layer that is compared, and its tokenizer."""

from pathlib import Path
from typing import Any

from bert_score.utils import model2layers
from transformers import AutoConfig, GPT2Tokenizer, RobertaTokenizer

_NO_LIMIT = 10**9


def local_name(encoder: str) -> str:
    """What the libraries are given: bert-score would download a relative ``scibert...``."""
    return str(Path(encoder).absolute()) if Path(encoder).is_dir() else encoder


def load_config(encoder: str) -> Any:
    """The encoder's configuration; see :func:`.text_metrics.require`."""
    remedy = "name the local path of an encoder in config.evaluate.encoder"
    path = Path(encoder)
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"encoder {encoder!r} has no config.json; {remedy}")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise FileNotFoundError(
            f"encoder {encoder!r} has no .safetensors file, and pickles are not loaded; {remedy}"
        )
    try:
        config = AutoConfig.from_pretrained(encoder)
    except OSError as error:
        raise FileNotFoundError(
            f"encoder {encoder!r} is neither a directory nor found in the Hugging Face cache or "
            f"hub; {remedy}"
        ) from error
    except ValueError as error:
        raise ValueError(f"encoder {encoder!r}: {error}; {remedy}") from error
    # bert-score tells a T5 by its name alone, and would fill another encoder with random weights.
    name = local_name(encoder)
    if "t5" in name and "t5" not in config.model_type:
        raise ValueError(
            f"encoder {name!r} is a {config.model_type}, but bert-score takes every path with 't5' "
            "in it for a T5; rename or link it"
        )
    return config


def compared_layer(encoder: str, config: Any) -> int:
    """The layer whose outputs are compared; see :func:`.text_metrics.bert_score`."""
    table = {name.rpartition("/")[2]: layer for name, layer in model2layers.items()}
    path = Path(encoder)
    # In the Hugging Face cache the name is above: models--roberta-large/snapshots/0123abcd.
    cached = [part.rpartition("--")[2] for part in path.parts if part.startswith("models--")]
    for name in (path.name, *cached):
        if name in table:
            return table[name]
    return config.num_hidden_layers


def adapted_tokenizer(tokenizer: Any, encoder: str, config: Any) -> Any:
    """The tokenizer with what bert-score asks of it and transformers 5 has dropped."""
    if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
        # The library asks for the space at each call, where it is ignored now: the first word
        # would be encoded as the middle of one.
        tokenizer = type(tokenizer).from_pretrained(encoder, add_prefix_space=True)
    if tokenizer.model_max_length > _NO_LIMIT:
        # RoBERTa's positions begin behind the number of its padding token.
        tokenizer.model_max_length = config.max_position_embeddings - tokenizer.pad_token_id - 1
    # Of an empty text only the special tokens are left.
    tokenizer.build_inputs_with_special_tokens = lambda _: tokenizer.encode("")
    return tokenizer
