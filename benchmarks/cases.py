"""The cases of benchmarks/steps.py: what is trained, on which layers, and the adapter of each."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.commonsense import get_config
from tera_jax import adapt
from tera_jax.adapters.base import Adapter
from tera_jax.adapters.interceptor import calls, dequantized
from tera_jax.adapters.linear import LinearAdapter
from tera_jax.llama import Llama
from tera_jax.methods import Method, NotMergeableError, TargetLayer
from tera_jax.network import cost_model
from train.config import parse

QV = ("q_proj", "v_proj")
ALL = (*QV, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ("tera:all:longer", "tera:all:longer:fast", "tera:all:longer:structured")
"""TeRA of each structure on all linear layers, with the shorter side of each kernel whole."""
FROZEN = "frozen"


class Case(NamedTuple):
    """A setting of our own."""

    method: str
    rows: int
    length: int
    remat: str = "dots"
    targets: tuple[str, ...] = QV
    fields: tuple[tuple[str, Any], ...] = ()
    route: str = ""  # of TeRA, as cost_model.Route; by its own choice
    ahead: bool = False  # kernels built before the layers
    fused: bool | None = None  # narrow modes by the Pallas kernel; None where it is used
    loop: bool | None = None  # over the layers; None as train.main has it on a GPU
    kept: bool = False  # all layers whole for the backward pass, on fsdp
    packed: int = 0  # tokens of a row of real records; 0 pads each

    @property
    def name(self) -> str:
        """The words of a row."""
        words = [
            self.method,
            f"packed {self.packed}" if self.packed else "",
            *(f"{k}={v}" if isinstance(v, str) else f"{v}" for k, v in self.fields),
            self.route,
        ]
        words += [
            {None: "", True: "fused", False: "unfused"}[self.fused],
            "ahead" * self.ahead,
            {None: "", True: "loop", False: "unrolled"}[self.loop],
            "kept" * self.kept,
            "" if self.remat == "dots" else f"remat {self.remat}",
        ]
        if self.targets != QV:
            words.append("all linear" if self.targets == ALL else "+".join(self.targets))
        return " ".join(word for word in words if word)


_OPTIONS: dict[str, dict[str, Any]] = {
    **{route: {"route": route} for route in get_args(cost_model.Route)},
    **{remat: {"remat": remat} for remat in ("none", "dots", "full")},
    "ahead": {"ahead": True},
    "kept": {"kept": True},
    "fused": {"fused": True},
    "unfused": {"fused": False},
    "loop": {"loop": True},
    "unrolled": {"loop": False},
    "fast": {"fields": (("structure", "hadamard_factor"),)},
    "structured": {"fields": (("structure", "hadamard"),)},
    "all": {"targets": ALL},
    "longer": {"fields": (("side", "longer"),)},
    "orthogonal": {"fields": (("init", "orthogonal"),)},
}


def named(names: Iterable[str], rows: int, length: int, remat: str) -> Iterator[Case]:
    """``tera:ahead`` or ``tera:all:longer:structured``: a method, then options."""
    for name in names:
        method, *options = name.split(":")
        case = Case(method, rows, length, remat)
        for option in options:
            if option not in _OPTIONS:
                raise SystemExit(f"{name}: {option!r} is no option; {', '.join(_OPTIONS)}")
            changes = _OPTIONS[option]
            fields = case.fields + changes.get("fields", ())
            case = case._replace(**changes | {"fields": fields})
        yield case


@dataclasses.dataclass(frozen=True)
class _Nothing(Method):
    """Of the bias."""

    mergeable: ClassVar[bool] = False


class _Bias(Adapter):
    """Trains a bias of the token embeddings, and nothing else."""

    @classmethod
    def select(cls, name: str, found: Any, targets: Any) -> tuple[TargetLayer, ...]:
        return ()

    def init_d(self, params: Any, frozen: Any, seed: Any = 0) -> dict[str, Any]:
        del frozen, seed
        return {"bias": jnp.zeros(params["embed_tokens"]["embedding"].shape[1], jnp.float32)}

    def _apply(self, model: nn.Module, variables: Any, made: Any, *args: Any, **kwargs: Any) -> Any:
        bias_D = variables["d"]["bias"]

        def biased(module: Any, embed: Any, tokens: Any) -> Any:
            y = embed(tokens)
            return y + bias_D.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

        embeddings = calls(lambda module: isinstance(module, nn.Embed), biased)
        with nn.intercept_methods(embeddings), nn.intercept_methods(dequantized):
            return model.apply({"params": variables["params"]}, *args, **kwargs)

    def _merge(self, variables: Any) -> Any:
        raise NotMergeableError("the bias is of the embedding's result; there is no kernel for it")


class _Ahead(LinearAdapter):
    """An adapter whose kernels are made before the layers, once a step."""

    def _apply(self, model: nn.Module, variables: Any, made: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("method") == "hidden":
            made = self.materialize(variables, args[0].size)
        return super()._apply(model, variables, made, *args, **kwargs)


def make_adapter(case: Case, model: Llama) -> Adapter:
    """The adapter of a case; ranks are those of the recipes, 32 for LoRA and HiRA."""
    if case.method == FROZEN:
        return _Bias(FROZEN, _Nothing(), ())
    config = get_config(case.method)
    config.model.path = config.data.path = "-"
    for key, value in case.fields:
        config.method[key] = value
    settings = parse(config).method.settings
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    adapter = adapt(model, tokens, method=case.method, config=settings, targets=case.targets)
    return _Ahead(adapter.name, adapter.method, adapter.layers) if case.ahead else adapter
