"""The configuration of a run."""

from .published import published
from .schema import EXPORTS, Config, default, differences, parse, to_dict, to_json
from .sections import (
    ColumnsConfig,
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
    "ColumnsConfig",
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
