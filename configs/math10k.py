r"""A method on Math10k, in the setting of the TeRA paper's Table 4.

    python -m train.main --config=configs/math10k.py --config.model.path=<Llama-2-7B> \
        --config.data.path=math_10k.json --workdir=runs/math
    python -m train.evaluate --workdir=runs/math --data=dataset --tasks AQuA SVAMP

Prompts, lengths, loss and scoring follow LLM-Adapters (arXiv:2304.01933), whose data it is. The
loss is on the prompt too, and a row has 256 tokens. The last 120 of the shuffled records are held
out. Answers are decoded with 4 beams and have 256 tokens at most. Epochs are HiRA's 2 and the batch
is 32, as in the TeRA paper; LLM-Adapters takes 3 and 16. TeRA's core and factors are Kaiming's
draws.
"""

import ml_collections

import tera_jax


def get_config(method: str = "tera") -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.published_config(method)
    config.data.prompt = "llm-adapters"
    config.data.train_on_prompt = True
    config.data.split_seed = 42
    config.data.bos = "always"
    config.data.append_eos = True
    config.data.max_prompt = 512
    config.data.max_response = 256
    config.data.max_tokens = 256
    config.data.allow_cut_responses = True  # as the publication cuts them
    config.loop.epochs = 2.0
    config.evaluate.task = "SVAMP"
    config.decoding.num_beams = 4
    config.decoding.max_new_tokens = 256
    return config
