"""The configuration of a run."""

from .schema import (
    EXPORTS,
    Config,
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    MeshConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    default,
    differences,
    parse,
    to_dict,
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
    "to_dict",
]
