"""A method on the commonsense records, in the setting of the TeRA paper's Table 2.

    python -m train.main --config=configs/commonsense.py \
        --config.model.path=<Llama-2-7B> --config.data.path=commonsense_170k.json --workdir=runs/cs
    python -m train.main --config=configs/commonsense.py:lora ...

AdamW without weight decay, 100 warm-up steps and linear decay, batch 32, held-out loss every 80
steps, the best kept, q and v. Prompts, lengths, split and the missing BOS follow HiRA, whose
setting the paper takes over; answers are decoded with 4 beams and have 16 tokens at most. A kernel
of 4096 x 4096 gets ``4096|8x8x8x8``, which makes 264,192 trainable parameters on Llama-2-7B. The
paper tries learning rates of 1e-3, 3e-4 and 2e-4, and does not state the epochs; HiRA's are 3.
SmolLM2-135M learns faster at 3e-2 to 1e-1; docs/getting-started.md and docs/methods.md have the
figures.

TeRA's core and factors are Kaiming's draws, as published (``init="normal"``). The library's default
is orthogonal factors.

After a colon stands the method, any row of ``tera_jax.methods.TABLE``; tera by default. Ranks are
those of the paper's tables.
"""

import ml_collections

import tera_jax


def get_config(method: str = "tera") -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.published_config(method)
    config.data.max_prompt = 256
    config.data.max_response = 16
    config.data.allow_cut_responses = True  # as the publication cuts them
    config.data.bos = "inference"
    config.loop.epochs = 3.0
    config.decoding.num_beams = 4
    return config
