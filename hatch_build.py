"""The wheel has one top-level package: the application and its recipes lie inside of it."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = {
    "train": "tera_jax/train",
    "configs": "tera_jax/train/recipes",
    "examples/quickstart": "tera_jax/train/examples/quickstart",
}
"""Folders of the checkout, and where the wheel has them."""


class Hook(BuildHookInterface):
    """Adds these folders. An editable installation reads the checkout, where they lie beside."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build."""
        if version == "standard":
            build_data["force_include"].update(INSIDE)
