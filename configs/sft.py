r"""Any method on your own data: chats, prompts with completions, instructions, or text.

    python -m train.main --config=configs/sft.py \
        --config.data.path=mine.jsonl --config.model.path=<model>
    python -m train.main --config=configs/sft.py:lora ...

What the file holds is taken from its records, and each goes through the chat template of the
tokenizer; docs/your-data.md has the formats. No response is cut. Records are packed into rows of
512 tokens, or of the longest record where that is longer. A batch is 2 such rows; with much data
and a large GPU take more of them. The rate rises for 10 steps and falls along half a cosine. Of the
records a tenth, but no more than 120, is held out.

Learning rates are the best of docs/methods.md for SmolLM2-135M, the lower one of its two tasks. A
model of 7B takes lower ones: the TeRA paper's are 2e-4 to 1e-3.

After a colon stands the method, any row of ``tera_jax.methods.TABLE``; tera by default.
"""

import ml_collections

import tera_jax

_LEARNING_RATES = {
    "full": 1e-4,
    "lora": 1e-2,
    "pissa": 3e-3,
    "dora": 1e-2,
    "toplora": 3e-3,
    "hira": 1e-2,
    "mora": 3e-3,
    "quanta": 3e-3,
    "loretta": 1e-2,
    "vera": 1e-1,
    "prompt": 1e1,
    "p_tuning": 1e-2,
    "tera": 3e-2,
    "tera_iden": 3e-2,
    "tera_unique": 1e-1,
    "unilora": 3e-2,
    "unires": 3e-2,
}
_OTHER = 1e-3
"""For a method that docs/methods.md has no rate of."""


def get_config(method: str = "tera") -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.published_config(method)
    if "init" in config.method:
        config.method.init = tera_jax.default_config(method).method.init
    config.data.validation_rows = None
    config.data.prompt = "auto"
    config.data.bos = "tokenizer"
    config.data.packed_length = 512
    config.optim.learning_rate = _LEARNING_RATES.get(method, _OTHER)
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 10
    config.loop.batch_size = 2
    config.loop.epochs = 3.0
    config.loop.eval_every = 40
    config.evaluate.batch_size = 8
    config.decoding.max_new_tokens = 256
    return config
