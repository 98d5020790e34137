"""The time of TeRA's steps by arithmetic: what each layer adds to the base, by the cost model.

The base's matmuls are 4 operations a parameter and token. Attention, norms and the loss are left
out, of the base and of the step alike, so that a ratio is an estimate from above.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case, make_adapter
from tera_jax.llama import Llama
from tera_jax.llama.config import LlamaConfig
from tera_jax.methods.tera import TeRA
from tera_jax.network import cost_model


def sums(cases: Iterable[Case], shape: dict[str, Any], kind: str) -> Iterator[str]:
    """Markdown: for each TeRA among the cases its layers, the sum of all, and the ratio.

    Args:
        cases: others than TeRA's by its own route are left out.
        shape: of the model, as ``config.json`` has it.
        kind: of the device, such as ``H100``.
    """
    rates = cost_model.device(kind)
    model = Llama(LlamaConfig.from_hf(shape), dtype=jnp.bfloat16)
    tokens_BL = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens_BL)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    yield f"by arithmetic, on one {kind}:"
    yield "| setting | layer | scheme | route | layers | ms of all |"
    yield "| --- | --- | --- | --- | ---: | ---: |"
    for case in cases:
        method = getattr(adapter := make_adapter(case, model), "method", None)
        if not isinstance(method, TeRA) or case.route:
            continue
        tokens, total = case.rows * case.length, 0.0
        for layer in adapter.layers:
            network, readers = method.network(layer)
            found = cost_model.seconds(network, tokens, rates, readers)
            route = cost_model.route(network, tokens, rates, readers)
            count = math.prod(layer.stack)
            total += count * found[route]
            scheme = str(network.scheme).replace("|", r"\|")
            cells = case.name, layer.path[-1], f"`{scheme}`", route, str(count)
            yield f"| {' | '.join(cells)} | {1e3 * count * found[route]:.1f} |"
        base = 4 * size * tokens / rates.flops
        yield (
            f"| {case.name} | all, beside {1e3 * base:.1f} ms of the base: {1 + total / base:.3f} "
            f"| | | | {1e3 * total:.1f} |"
        )
