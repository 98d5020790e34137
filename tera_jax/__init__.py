"""TeRA and other parameter-efficient fine-tuning methods for large language models in JAX.

Axis letters. A name such as ``x_BLD`` says the shape of the array; the einsums use the same
letters in lower case.

===  =====================================================
B    sequences in a batch
L    query tokens of a sequence
S    key and value tokens (the slots of the cache when decoding)
T    positions that the loss reads
D    width of the residual stream
F    width of the MLP
N    query heads
K    key and value heads
H    width of a head
V    vocabulary
I    one mode of a folded kernel
R    the rank of a mode
===  =====================================================

A stack of layers leads with an axis that is not written: inside ``nn.scan`` it is gone.
"""

from typing import TYPE_CHECKING

from tera_jax import lazy

if TYPE_CHECKING:
    from tera_jax.adapters.base import Adapter
    from tera_jax.adapters.factory import adapt
    from tera_jax.application import default_config, published_config
    from tera_jax.finetuning import finetune
    from tera_jax.io.adapter_files import load_adapter, save_adapter
    from tera_jax.io.adapter_set import load_adapters
    from tera_jax.llama.text import generate, stream
    from tera_jax.network.tensorization import Tensorization, fold, unfold
else:
    __getattr__ = lazy.importer(
        __name__,
        names={
            "Adapter": "tera_jax.adapters.base",
            "Tensorization": "tera_jax.network.tensorization",
            "adapt": "tera_jax.adapters.factory",
            "default_config": "tera_jax.application",
            "finetune": "tera_jax.finetuning",
            "fold": "tera_jax.network.tensorization",
            "generate": "tera_jax.llama.text",
            "load_adapter": "tera_jax.io.adapter_files",
            "load_adapters": "tera_jax.io.adapter_set",
            "published_config": "tera_jax.application",
            "save_adapter": "tera_jax.io.adapter_files",
            "stream": "tera_jax.llama.text",
            "unfold": "tera_jax.network.tensorization",
        },
        modules=("adapters", "io", "llama", "methods", "network", "ops"),
    )

__all__ = [
    "Adapter",
    "Tensorization",
    "__version__",
    "adapt",
    "default_config",
    "finetune",
    "fold",
    "generate",
    "load_adapter",
    "load_adapters",
    "published_config",
    "save_adapter",
    "stream",
    "unfold",
]

__version__ = "0.1.0.dev0"
