"""What each device of a mesh holds, by shapes and layouts alone."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from tera_jax import sharding
from tera_jax.llama import Llama
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.ops import dispatch

from ..config import OptimConfig
from ..data import Batch
from ..training.optim import optimizer
from ..training.steps.step import State, init_state, make_train_step, state_shardings
from .shapes import Parts

_TARGETS = 64
"""Target tokens of a row of the compiled step."""
_ADAMW = optimizer(OptimConfig(), steps=1000)


class Plan(NamedTuple):
    """Bytes of each collection: as a whole, and of one device."""

    mesh: dict[str, int]
    devices: int
    whole: dict[str, int]
    per_device: dict[str, int]


class CompiledStep(NamedTuple):
    """Of a compiled step: bytes of one device, and the arrays it gathers, the largest first."""

    memory: dict[str, int]
    gathered: list[tuple[int, ...]]


def plan(parts: Parts, mesh: str) -> Plan:
    """The bytes that training keeps on each device, before anything is computed.

    Args:
        parts: from :func:`train.params.shapes.parts`.
        mesh: as ``data=4,fsdp=8``; of any size, whatever there is here.

    Raises:
        ValueError: for a text that is no mesh, or a mesh that does not divide a parameter.
    """
    sizes = sharding.parse_mesh(mesh)
    trees, layouts = _layouts(parts, sharding.abstract_mesh(**sizes))
    return Plan(
        sizes,
        math.prod(sizes.values()),
        {name: _bytes(tree) for name, tree in trees.items()},
        {name: sharding.shard_bytes(tree, layouts[name]) for name, tree in trees.items()},
    )


def _layouts(parts: Parts, mesh: Mesh | AbstractMesh) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that stays on the devices between steps, and its layout, by collection."""
    state, state_layout = _state(parts, mesh)
    trees = {
        "params": parts.params,
        "frozen": parts.frozen,
        "d": state.d,
        "optimizer": state.opt,
    }
    layouts = {
        "params": parameter_shardings(parts.params, mesh),
        "frozen": sharding.frozen_shardings(parts.frozen, mesh),
        "d": state_layout.d,
        "optimizer": state_layout.opt,
    }
    return trees, layouts


def _state(parts: Parts, mesh: Mesh | AbstractMesh) -> tuple[State, State]:
    state = jax.eval_shape(lambda d: init_state(d, _ADAMW), parts.d)
    return state, state_shardings(state, parts.adapter, _ADAMW, mesh)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(plan: Plan) -> str:
    """A line for each collection."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"mesh {mesh}: {plan.devices} devices",
        f"{'bytes':<12}{'whole':>20}{'each device':>20}",
    ]
    rows = [(name, plan.whole[name], plan.per_device[name]) for name in plan.whole]
    rows.append(("together", sum(plan.whole.values()), sum(plan.per_device.values())))
    lines += [f"{name:<12}{whole:>20,}{each:>20,}" for name, whole, each in rows]
    return "\n".join([*lines, f"{'':<32}{sum(plan.per_device.values()) / 2**30:>16.2f} GiB"])


def compiled(
    parts: Parts, mesh: str, rows: int | None = None, length: int = 1024, remat: str = "full"
) -> CompiledStep:
    """A training step as the compiler plans it here.

    The step is lowered and compiled from abstract arguments. The plan is of the backend at hand: a
    CPU's compiler computes bfloat16 products in float32, fuses other operations and knows no flash
    attention, so that the temporary arrays of a GPU are others.

    Args:
        parts: from :func:`train.params.shapes.parts`.
        mesh: as ``data=4,fsdp=8``; needs as many devices, which may be fake.
        rows: of a batch, over all devices; by default one a shard of the batch.
        length: tokens of a row.
        remat: see :class:`tera_jax.llama.Llama`.

    Raises:
        ValueError: when there are fewer devices, or the mesh does not divide the rows.
    """
    sizes = sharding.parse_mesh(mesh)
    needed, shards = math.prod(sizes.values()), sizes["data"] * sizes["fsdp"]
    if needed > jax.device_count():
        raise ValueError(
            f"the mesh {mesh} needs {needed} devices, but JAX sees {jax.device_count()}; fake ones "
            f"do: JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count={needed}"
        )
    rows = shards if rows is None else rows
    if rows < 1 or rows % shards:
        raise ValueError(f"--rows {rows} is not a positive multiple of mesh data x fsdp = {shards}")
    devices = sharding.make_mesh(**sizes)
    trees, layouts = _layouts(parts, devices)
    params, frozen = (_placed(trees[name], layouts[name]) for name in ("params", "frozen"))
    state = _placed(*_state(parts, devices))
    shapes = _batch(rows, length)
    batch = _placed(shapes, jax.tree.map(lambda _: sharding.rows(devices), shapes))
    model = Llama(parts.config, dtype=jnp.bfloat16, remat=remat)
    step: Any = make_train_step(model, parts.adapter, _ADAMW, devices, params, state)
    with jax.set_mesh(devices):
        program = step.lower(state, params, frozen, batch).compile()
    found = program.memory_analysis()
    memory = {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes,
        "results in place of arguments": found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    return CompiledStep(memory, sorted(gathered(program.as_text()), key=math.prod, reverse=True))


def gathered(text: str) -> set[tuple[int, ...]]:
    """The shapes of all arrays that an all-gather of a compiled program gives, from its text."""
    lines = (_GATHER.match(line) for line in text.splitlines())
    shapes = (shape for line in lines if line for shape in re.findall(r"\w\[([\d,]+)\]", line[1]))
    return {tuple(map(int, shape.split(","))) for shape in shapes}


_GATHER = re.compile(r"\s*(?:ROOT )?%\S+ = (.*?) all-gather(?:-start)?\(")


def _batch(rows: int, length: int) -> Any:
    def leaf(size: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((rows, size), dtype)

    return Batch(leaf(length), leaf(_TARGETS), leaf(_TARGETS), leaf(_TARGETS, jnp.float32))


def _placed(tree: Any, layouts: Any) -> Any:
    """Abstract arrays with their layouts."""

    def place(leaf: Any, layout: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

    return jax.tree.map(place, tree, layouts)


def compiled_table(compiled: CompiledStep) -> str:
    """A line for each kind of memory, and the largest arrays that are gathered."""
    largest = ", ".join("x".join(map(str, shape)) for shape in compiled.gathered[:5])
    rows = [f"{name:<32}{size:>20,}" for name, size in compiled.memory.items()]
    head = f"the compiled step on {dispatch.device_kind()}: bytes of each device"
    return "\n".join([head, *rows, f"gathered at most: {largest or 'nothing'}"])
