"""The configuration of a run."""

from .published import published
from .schema import EXPORTS, Config, default, differences, parse, to_dict, to_json
from .sections import (
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    MeshConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
)

__all__ = [
    "EXPORTS",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "LoopConfig",
    "MeshConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "default",
    "differences",
    "parse",
    "published",
    "to_dict",
    "to_json",
]
