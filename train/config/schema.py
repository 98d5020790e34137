"""The configuration of a run: a ``ConfigDict`` at the edge, a frozen dataclass within."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from tera_jax import sharding
from tera_jax.llama.decode.config import GenerationConfig
from tera_jax.methods import TABLE, method_class
from tera_jax.methods.base import FullMethod

from . import typed
from .names import require_known
from .sections import (
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    MeshConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
)

EXPORTS = ("adapter", "peft", "hf", "orbax", "gguf")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: its sections, and what no section can check alone.

    Attributes:
        model: the base.
        data: records, and how they become tokens.
        method: what is trained.
        optim: the optimizer.
        loop: batches and cadence.
        evaluate: what is measured.
        decoding: how answers are generated.
        mesh: of the devices.
        export: what is written at the end, of :data:`EXPORTS`.
    """

    model: ModelConfig
    data: DataConfig
    method: MethodConfig
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    decoding: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    export: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        loop, shards = self.loop, self.mesh.data * self.mesh.fsdp
        sizes = {"loop": loop.batch_size, "evaluate": self.evaluate.batch_size}
        for section, size in sizes.items():
            if size % shards:
                raise ValueError(
                    f"{section}.batch_size {size} is not a multiple of mesh data x fsdp = {shards}"
                )
        if loop.batch_size % (loop.grad_accum_steps * shards):
            raise ValueError(
                f"loop.batch_size {loop.batch_size} is not a multiple of loop.grad_accum_steps x "
                f"mesh data x fsdp = {loop.grad_accum_steps * shards}"
            )
        if self.model.quantize != "none" and isinstance(self.method.settings, FullMethod):
            raise ValueError(
                f"method.name {self.method.name!r} trains the base's own weights, which "
                f"model.quantize {self.model.quantize!r} does not keep; set it to 'none', or "
                "choose another method"
            )
        for name in self.export:
            if name not in EXPORTS:
                raise ValueError(f"export has {name!r}; choose from {', '.join(EXPORTS)}")


def classes(method: str) -> dict[str, Any]:
    """The class whose fields are the keys of each section.

    Raises:
        ValueError: for an unknown method.
    """
    return {
        "model": ModelConfig,
        "data": DataConfig,
        "method": method_class(method),
        "optim": OptimConfig,
        "loop": LoopConfig,
        "evaluate": EvaluateConfig,
        "decoding": GenerationConfig,
        "mesh": MeshConfig,
    }


def keys(method: str) -> set[str]:
    """Every key, such as ``config.loop`` and ``config.loop.steps``.

    Raises:
        ValueError: for an unknown method.
    """
    sections = classes(method)
    names = ["export", "method.name", "method.targets", *sections]
    for section, cls in sections.items():
        names += [f"{section}.{name}" for name in typed.names(cls)]
    return {f"config.{name}" for name in names}


def require_keys(tree: Mapping[str, Any], method: str) -> None:
    """Raise ``ValueError`` for a key of ``tree`` that a run of the method does not have."""
    known = keys(method)
    for section, value in tree.items():
        require_known(f"config.{section}", known)
        for name in value if isinstance(value, Mapping) else ():
            require_known(f"config.{section}.{name}", known)


def default(method: str = "tera") -> ml_collections.ConfigDict:
    """Every field at its default, for a file in ``configs/`` to fill in and change.

    Raises:
        ValueError: for an unknown method.
    """
    tree = {section: typed.fields(cls) for section, cls in classes(method).items()}
    targets = method_class(method).default_targets
    tree["method"] = {"name": method, "targets": targets, **tree["method"]}
    tree["mesh"] = _Mesh(tree["mesh"])
    return ml_collections.ConfigDict({**tree, "export": ()})


class _Mesh(ml_collections.ConfigDict):
    """What tells the flags that this field may also be a text."""


class _MeshParser(flags.ArgumentParser):
    def parse(self, argument: Any) -> Any:
        return _Mesh(sharding.parse_mesh(argument)) if isinstance(argument, str) else argument


config_flags.register_flag_parser_for_type(_Mesh, _MeshParser())


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Validate a ``ConfigDict`` (or what :func:`to_dict` gave) into a :class:`Config`.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    name = tree.get("method", {}).get("name")
    if name not in TABLE:
        raise ValueError(f"config.method.name {name!r}; choose one of {sorted(TABLE)}")
    require_keys(tree, name)
    method = dict(tree.pop("method"))
    targets = method.pop("targets", None)
    method.pop("name")
    if isinstance(tree.get("mesh"), str):
        tree["mesh"] = sharding.parse_mesh(tree["mesh"])
    hint = tuple[str, ...]
    parsed = MethodConfig(
        name=name,
        targets=typed.checked(hint, targets, "config.method.targets"),
        settings=typed.build(TABLE[name], method, "config.method"),
    )
    return typed.build(Config, tree, "config", method=parsed)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it; :func:`parse` reads it back."""
    tree = dataclasses.asdict(config)
    method = tree["method"]
    tree["method"] = {"name": method["name"], "targets": method["targets"], **method["settings"]}
    return tree


def to_json(config: Config) -> dict[str, Any]:
    """As :func:`to_dict`, with the types that JSON gives back: a list for each tuple."""
    return json.loads(json.dumps(to_dict(config)))


def differences(a: Any, b: Any, where: str = "config") -> list[str]:
    """``key: a's value -> b's value`` for each leaf in which two dictionaries differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(set(a) | set(b))
        return [row for k in keys for row in differences(a.get(k), b.get(k), f"{where}.{k}")]
    same = (list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b)
    return [] if same else [f"{where}: {a!r} -> {b!r}"]
