"""Full fine-tuning: every parameter is trained, as a float32 copy."""

import dataclasses

from tera_jax.methods.base import FullMethod


@dataclasses.dataclass(frozen=True)
class Full(FullMethod):
    """Full fine-tuning: every parameter is trained. Nothing to configure."""
