"""Models of which a text decoder is one part, and which tensors are the others'."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tera_jax.json_files import Key
from tera_jax.llama.family.keys import only


@dataclasses.dataclass(frozen=True)
class Multimodal:
    """A model of which the text decoder is read.

    Attributes:
        text: the ``model_type`` of its decoder.
        left_out: beginnings of the names of tensors that are not the decoder's.
        decoder: beginnings of the decoder's, and what they are in the decoder alone.
        keys: beside those of a decoder; ``text_config`` has the decoder's own.
        unread: keys of ``text_config`` that the decoder alone reads, and the whole model does not.
    """

    text: str
    left_out: tuple[str, ...]
    decoder: Mapping[str, str]
    keys: Mapping[str, Key]
    unread: Mapping[str, Key]


_NOT_TEXT = (
    "boi_token_index boi_token_id eoi_token_index eoi_token_id image_token_index image_token_id "
    "mm_tokens_per_image vision_config"
)
MULTIMODAL: dict[str, Multimodal] = {
    "gemma3": Multimodal(
        "gemma3_text",
        left_out=(
            "vision_tower.",
            "multi_modal_projector.",
            "model.vision_tower.",
            "model.multi_modal_projector.",
        ),
        decoder={
            "language_model.model.": "model.",
            "model.language_model.": "model.",
            "language_model.lm_head.": "lm_head.",
        },
        keys={"text_config": Key(dict)} | dict.fromkeys(_NOT_TEXT.split(), Key(Any, None)),
        unread={"final_logit_softcapping": only(None)},
    ),
}
"""By ``model_type``."""
