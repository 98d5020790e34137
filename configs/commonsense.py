"""A method on the commonsense records, in the setting of the TeRA paper's Table 2.

    python -m train.main --config=configs/commonsense.py \
        --config.model.path=<Llama-2-7B> --config.data.path=commonsense_170k.json --workdir=runs/cs
    python -m train.main --config=configs/commonsense.py:lora ...

AdamW without weight decay, 100 warm-up steps and linear decay, batch 32, held-out loss every 80
steps, the best kept, q and v. Prompts, lengths, split and the missing BOS follow HiRA, whose
setting the paper takes over. A kernel of 4096 x 4096 gets ``4096|8x8x8x8``, which makes 264,192
trained numbers on Llama-2-7B. The paper tries learning rates of 1e-3, 3e-4 and 2e-4, and does not
state the epochs; HiRA's are 3. SmolLM2-135M learns faster at 1e-2; the README has the figures.

After a colon stands the method, any row of ``tera_jax.methods.METHODS``; tera by default. Ranks are
those of the paper's tables.
"""

import ml_collections

from train.config import default

_RANKS = {
    "lora": 32,
    "dora": 32,
    "pissa": 16,
    "toplora": 16,
    "hira": 32,
    "mora": 32,
    "vera": 256,
    "loretta": 32,
}
# Published learning rates; the others take the highest that the TeRA paper tries.
_LEARNING_RATES = {"lora": 3e-4, "quanta": 5e-5, "toplora": 1e-4}


def get_config(method: str = "tera") -> ml_collections.ConfigDict:
    """The configuration; every field is documented in train/config.py."""
    config = default(method)
    config.data.max_prompt = 256
    config.data.max_response = 16
    config.data.bos = "inference"
    config.optim.learning_rate = _LEARNING_RATES.get(method, 1e-3)
    config.loop.epochs = 3.0
    if method in _RANKS:
        config.method.rank = _RANKS[method]
    return config
