"""The parts of a run, built once from its configuration for training, evaluation and export."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tera_jax import float8, quantize, sharding
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.factory import adapt
from tera_jax.adapters.targets import matches
from tera_jax.disk import load_arrays, save_arrays
from tera_jax.fingerprint import base_fingerprint, exact_fingerprint, fingerprint
from tera_jax.llama import Llama, load_pretrained, load_tokenizer, stacking
from tera_jax.llama.checkpoint import special_tokens
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.ops import dispatch

from ..config import Config, to_dict
from . import distributed
from .checkpoint import Checkpoints, Meta
from .optim import averaged, optimizer
from .steps.step import State, d_shardings, init_state, state_shardings

_FROZEN = "frozen.safetensors"


class Run(NamedTuple):
    """A base on its mesh, its tokenizer, and the adapter that is trained on it.

    ``start`` is the d of ``config.model.adapter`` on the host, which training starts from in place
    of :func:`init_d`'s: see :mod:`train.training.start`. Other commands leave it out.
    """

    config: Config
    mesh: Mesh
    model: Llama
    params: Any
    tokenizer: Any
    adapter: Adapter
    frozen: Any
    meta: Meta
    start: Any = None

    @property
    def virtual_tokens(self) -> tuple[int, ...]:
        """The token ids that the method puts before every prompt."""
        return self.adapter.virtual_tokens(self.model.config.vocab_size)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The token ids that end an answer."""
        return special_tokens.eos_ids(self.model.config, self.tokenizer)

    def variables(self, d: Any) -> dict[str, Any]:
        """The three collections."""
        return {"params": self.params, "frozen": self.frozen, "d": d}


def build(
    config: Config,
    workdir: Path | None = None,
    tokenizer: Any = None,
    identities: Mapping[str, str] | None = None,
    base: tuple[Llama, Any] | None = None,
) -> Run:
    """Load the base, and draw the frozen arrays or read those that :func:`keep_frozen` wrote.

    Args:
        config: of the run.
        workdir: its directory, which may hold frozen arrays.
        tokenizer: of the base; loaded when None.
        identities: of the records, for checkpoints; see :class:`train.training.checkpoint.Meta`.
        base: the model and its ``params``, if another run of the same base has them already.

    Raises:
        ValueError: when the model, the method or the mesh do not fit each other.
        FileNotFoundError: when there is no model at the path.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    if tokenizer is None:
        tokenizer = load_tokenizer(config.model.path)
    model, params = base or load_pretrained(
        config.model.path,
        dtype=jnp.dtype(config.model.dtype),
        mesh=mesh,
        remat=config.model.remat,
        quantize=config.model.quantize,
        block=config.model.block,
    )
    adapter = make_adapter(config, model)
    shapes = jax.eval_shape(adapter.init_frozen, params)
    layout = sharding.frozen_shardings(shapes, mesh)
    kept = None if workdir is None else _read_frozen(workdir / _FROZEN, shapes)
    if kept is not None:
        frozen = jax.device_put(kept, layout)
    else:
        if workdir is not None and (workdir / _FROZEN).is_file():
            distributed.log(f"{workdir / _FROZEN} cannot be read; it is made again")
        frozen = jax.jit(adapter.init_frozen, out_shardings=layout)(params)
    rounded = base_fingerprint(params)
    exact = exact_fingerprint(params, rounded)
    meta = Meta(0, fingerprint(frozen), rounded, to_dict(config), dict(identities or {}), exact)
    return Run(config, mesh, model, params, tokenizer, adapter, frozen, meta)


def _read_frozen(file: Path, shapes: Any) -> Any:
    """The arrays that :func:`keep_frozen` wrote; None where there are none, or none to be read.

    Those that are made in their place must have the fingerprint of the checkpoints.
    """
    if not file.is_file():
        return None
    try:
        return load_arrays(file, shapes)
    except ValueError:
        return None


def make_adapter(config: Config, model: Llama) -> Adapter:
    """The method of a configuration on the layers of a model.

    Raises:
        ValueError: when they do not fit each other.
    """
    return adapt(
        model,
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
        method=config.method.name,
        config=config.method.settings,
        targets=config.method.targets,
    )


def keep_frozen(run: Run, workdir: Path) -> None:
    """Write the frozen arrays into ``workdir`` if no seed regenerates them, as those of an SVD.

    A file that is there and can be read stays as it is.
    """
    file = workdir / _FROZEN
    if run.adapter.regenerates or distributed.on_main_process(
        lambda: _read_frozen(file, run.frozen) is not None
    ):
        return
    whole = jax.device_put(run.frozen, sharding.replicated(run.mesh))  # for the first process
    distributed.on_main_process(lambda: save_arrays(file, whole))


def unrolled(run: Run) -> Run:
    """A run for training: its layers a list where ``config.model.unroll`` has them unrolled.

    With ``config.model.fp8_layouts`` the codes of kernels stand in both layouts.

    Takes the parameters of ``run``, which is not to be used again: one stack at a time is copied
    and deleted, so that no more than one stands beside the list. Answers, merging and exports read
    what :func:`rolled` makes of the result.
    """
    given = run.config.model
    pays = dispatch.on_gpu() and stacking.unrolling_pays(given.remat)
    if not stacking.is_split(run.params) and (pays if given.unroll is None else given.unroll):
        run = run._replace(model=run.model.clone(unroll=True), params=stacking.split(run.params))
    if given.fp8_layouts == 1:
        return run
    layout = functools.partial(stacking.shardings, mesh=run.mesh)
    return run._replace(params=float8.with_both_layouts(run.params, layout))


def rolled(run: Run) -> Run:
    """The run that :func:`unrolled` was given. Takes the parameters likewise."""
    if run.config.model.fp8_layouts > 1:
        run = run._replace(params=float8.with_one_layout(run.params))
    if not stacking.is_split(run.params):
        return run
    return run._replace(model=run.model.clone(unroll=False), params=stacking.join(run.params))


def init_d(run: Run) -> Any:
    """The trainable arrays before the first step."""
    init = _init_d(run)
    shapes = jax.eval_shape(init, run.params, run.frozen)
    layout = d_shardings(shapes, run.adapter, run.mesh)
    return jax.jit(init, out_shardings=layout)(run.params, run.frozen)


def first_d(run: Run) -> Any:
    """The trainable arrays that training starts from: ``run.start``, or those of :func:`init_d`."""
    if run.start is None:
        return init_d(run)
    own = jax.tree.map(np.array, run.start)  # for the steps give their arrays away
    return jax.device_put(own, d_shardings(own, run.adapter, run.mesh))


def init_train_state(run: Run, steps: int) -> tuple[State, optax.GradientTransformation]:
    """The state before the first of ``steps`` steps, and the optimizer that goes with it."""
    optimizer_ = optimizer(run.config.optim, steps)
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run, optimizer_))
    if run.start is not None:
        begin = jax.jit(lambda d: init_state(d, optimizer_), out_shardings=layout)
        return begin(first_d(run)), optimizer_
    init = jax.jit(_init_state(run, optimizer_), out_shardings=layout)
    return init(run.params, run.frozen), optimizer_


def abstract_state(run: Run, optimizer_: optax.GradientTransformation) -> State:
    """Shapes, types and layouts of a state. Nothing is computed; the run may be abstract too."""
    shapes = jax.eval_shape(_init_state(run, optimizer_), run.params, run.frozen)
    layouts = state_shardings(shapes, run.adapter, optimizer_, run.mesh)

    def leaf(shape: jax.ShapeDtypeStruct, layout: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=layout)

    return jax.tree.map(leaf, shapes, layouts)


def _init_d(run: Run) -> Callable[[Any, Any], Any]:
    def init(params: Any, frozen: Any) -> Any:
        return run.adapter.init_d(stacking.stacked(params), frozen, seed=run.config.loop.seed)

    return init


def _init_state(run: Run, optimizer_: optax.GradientTransformation) -> Callable[[Any, Any], State]:
    init = _init_d(run)
    return lambda params, frozen: init_state(init(params, frozen), optimizer_)


def restore_best(run: Run, workdir: str | Path) -> tuple[int, Any]:
    """The best step of the run in ``workdir`` and its ``d``, or the average with ``ema_decay``.

    Raises:
        FileNotFoundError: when there is no checkpoint.
    """
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.best_whole
        if step is None:
            raise FileNotFoundError(f"{workdir} has no checkpoint; train first")
        like = abstract_state(run, optimizer(run.config.optim, steps=1))
        state, _ = checkpoints.restore(step, like, run.meta)
    return step, averaged(state.d, state.opt)


def merged(run: Run, d: Any) -> Any:
    """Plain weights that do what the run's adapter does with ``d``, laid out like the base."""
    if run.mesh.size == 1:  # kernels that are left alone stay the arrays that they are
        return _merge(run.adapter)(run.variables(d))
    plain = jax.eval_shape(quantize.dequantize, run.params)
    layout = parameter_shardings(plain, run.mesh)
    return jax.jit(run.adapter.merge, out_shardings=layout)(run.variables(d))


@functools.lru_cache(maxsize=4)  # the same object for equal adapters, which compiles once
def _merge(adapter: Adapter) -> Callable[..., Any]:
    return jax.jit(adapter.merge)


def describe(run: Run) -> str:
    """One paragraph: the base, the devices, the method, its counts, and what its targets name."""
    base = quantize.size(run.params)
    kept = "" if run.config.model.quantize == "none" else f", layers in {run.config.model.quantize}"
    d = jax.eval_shape(_init_d(run), run.params, run.frozen)
    trained_ = sum(leaf.size for leaf in jax.tree.leaves(d))
    shape = " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    targets = run.config.method.targets
    found = matches(run.adapter.layers, targets)
    named = "".join(f"\n  {target}: {layers}" for target, layers in found.items())
    return (
        f"{run.config.model.path}: {base:,} parameters in {run.config.model.dtype}{kept}\n"
        f"mesh {shape} on {dispatch.device_kind()}\n"
        f"{run.adapter.name} on {', '.join(targets)}: "
        f"{trained_:,} trainable parameters ({trained_ / (base + trained_):.4%})" + named
    )
