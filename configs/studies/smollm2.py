r"""Every method on SmolLM2-135M and two real tasks: the study of docs/methods.md.

    python -m train.compare --config=smollm2 --model=SmolLM2-135M-Instruct.gguf \
        --data GSM8K=gsm8k/train.json ConvAI2=valid_self_original_no_cands.txt \
        --output=runs/compare

GSM8K's 7,473 training records, ``instruction`` and ``output``, are parted in their order, and so
are 1,000 dialogues of ConvAI2 in ParlAI's text format: records of one dialogue stay together. A run
is 300 steps of AdamW on batches of 32, with 60 of warm-up and then linear decay. Ranks and targets
are those of ``configs/commonsense.py``; kernels of 576x576 and 576x192 need schemes of their own.
"""

import ml_collections

_SCHEMES = "tensorizations=576|24x24+576|12x16"
METHODS = (
    "full:rate=1e-4",
    "lora:rate=1e-3",
    "pissa:rate=1e-3",
    "dora:rate=1e-3",
    "toplora:rate=1e-3",
    "hira:rate=1e-2",
    "mora:rate=1e-3",
    "quanta:axes=8+8+9,rate=1e-3",
    "loretta:rate=3e-3",
    "vera:rate=1e-2",
    "unilora:length=36840,rate=3e-2",
    "prompt:rate=1e-1",
    "p_tuning:rate=1e-3",
    f"tera:{_SCHEMES},rate=1e-1",
    f"tera_iden:{_SCHEMES},rate=1e-1",
    f"tera_unique:{_SCHEMES},rate=1e-1",
)
"""``rate`` is where the search of the learning rate begins."""


def get_config() -> ml_collections.ConfigDict:
    """The study; flags give the model and the two files."""
    config = ml_collections.ConfigDict()
    config.methods = METHODS
    config.recipe = "commonsense"
    config.steps = 300
    config.settings = {
        "model": {"remat": "none", "dtype": "bfloat16"},
        "optim": {"warmup_steps": 60},
        "loop": {"batch_size": 32},
    }
    lengths = {"max_prompt": 160, "max_response": 192, "append_eos": True}
    dialogues = {
        "prompt": "convai2",
        "bos": "always",
        "max_prompt": 128,
        "max_response": 24,
        "append_eos": True,
    }
    config.tasks = (
        {
            "name": "GSM8K",
            "train": "[:6473]",
            "validation": "[6473:6973]",
            "test": "[6973:]",
            "data": lengths,
        },
        {
            "name": "ConvAI2",
            "train": "[:800]",
            "validation": "[800:900]",
            "test": "[900:]",
            "data": dialogues,
        },
    )
    return config
