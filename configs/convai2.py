r"""A method on ConvAI2, in the setting of the TeRA paper's Table 3.

    python -m train.main --config=configs/convai2.py --config.model.path=<Llama-2-7B> \
        --config.data.path=train_self_original.txt \
        --config.data.validation_path=valid_self_original.txt --workdir=runs/convai2
    python -m train.evaluate --workdir=runs/convai2 --tasks convai2=valid_self_original.txt

The data are dialogues in ParlAI's text format; a file without its candidates is the same. Prompts,
lengths and decoding follow HiRA, whose setting the paper takes over. A prompt is the persona and
the last 3 utterances. Rows have 512 tokens, BOS and EOS, for one epoch. Answers are decoded with 4
beams, length penalty 0.9, no 4-gram twice and 32 new tokens at most. METEOR needs WordNet's
dictionary and BERTScore an encoder: config.evaluate. TeRA's core and factors are Kaiming's draws.
"""

import ml_collections

import tera_jax


def get_config(method: str = "tera") -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.published_config(method)
    config.data.prompt = "convai2"
    config.data.max_prompt = 512
    config.data.max_response = 128
    config.data.max_tokens = 512
    config.data.allow_cut_responses = True  # as the publication cuts them
    config.data.bos = "always"
    config.data.append_eos = True
    config.loop.epochs = 1.0
    config.evaluate.task = "convai2"
    config.decoding.num_beams = 4
    config.decoding.length_penalty = 0.9
    config.decoding.no_repeat_ngram_size = 4
    config.decoding.max_new_tokens = 32
    return config
