"""What this process computes on, asked for in one place: backend, GPU, precision and kernels.

An answer is read while a function is traced and is part of the trace. :func:`forced` belongs to the
key under which JAX keeps traces, so a function that was traced before is traced again inside.
"""

import math
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_FORCED = jax.make_user_context(None)
_SHARED_MEMORY_KIB = (
    (12.0, 99), (9.0, 227), (8.9, 99), (8.7, 163), (8.6, 99), (8.0, 163), (0.0, 64)
)  # fmt: skip
"""By the least compute capability: consumers' cards of a generation have less than servers'."""


def on_gpu() -> bool:
    """Whether the default backend is a GPU's."""
    return jax.default_backend() == "gpu"


def on_one_gpu() -> bool:
    """Whether what is traced now is for one GPU: XLA splits no kernel of ours over several.

    So it is inside of ``jax.shard_map``, which has split it over all of them before.
    """
    mesh = jax.sharding.get_abstract_mesh()
    whole = [axis for axis in mesh.axis_names if axis not in mesh.manual_axes]
    return on_gpu() and math.prod(mesh.shape[axis] for axis in whole) == 1


def device_kind() -> str:
    """The name that the first device's maker gave it, such as ``NVIDIA H100 80GB HBM3``."""
    return jax.devices()[0].device_kind


def compute_capability() -> float:
    """The generation of the first GPU in NVIDIA's numbering: 9.0 is Hopper's."""
    return float(jax.devices()[0].compute_capability)


def has_fp8_matmul() -> bool:
    """Whether e4m3 numbers can be multiplied: on a GPU from Ada's generation on, else by casts."""
    return not on_gpu() or compute_capability() >= 8.9


def shared_memory() -> int:
    """Bytes that a program may take on a multiprocessor of the first GPU, or of a Hopper without.

    By generation, from the table of compute capabilities in NVIDIA's CUDA C++ Programming Guide.
    """
    capability = compute_capability() if on_gpu() else 9.0
    kib = next(kib for least, kib in _SHARED_MEMORY_KIB if capability >= least)
    return kib * 1024


def is_half(dtype: DTypeLike) -> bool:
    """Whether a number of this type has 16 bits."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)


def interpret() -> bool:
    """Whether Pallas kernels run step by step in JAX, which is slow, in place of on a GPU."""
    return not on_gpu()


def takes_kernel(usual: bool) -> bool:
    """Whether to take a Pallas kernel where there is one: as :func:`forced`, or else as usual."""
    forced = _FORCED.value
    return usual if forced is None else forced


def forced(kernels: bool | None) -> AbstractContextManager[None]:
    """A context in which Pallas kernels are taken everywhere, or nowhere, or as usual with None.

    It is meant for tests and benchmarks. A kernel still needs sizes that it fits, and away from a
    GPU it is interpreted.
    """
    return _FORCED(kernels)
