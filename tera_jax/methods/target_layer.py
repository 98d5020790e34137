"""A layer that a method adapts."""

import dataclasses
import fnmatch


@dataclasses.dataclass(frozen=True)
class TargetLayer:
    """A layer that a method adapts.

    Attributes:
        path: of the module in the model, such as ``("layers", "self_attn", "q_proj")``.
        kernel_shape: of one layer's parameter: (in, out) of a linear layer, (features,) of a norm.
        stack: the leading axes that ``nn.scan`` gave the parameter, such as ``(32,)``.
        num_sharing: how many target layers of the same parent module share its frozen arrays, such
            as 2 for q and v of one shape. Set by :func:`tera_jax.methods.base.bind`.
        largest: the longest (in, out) among all target layers, side by side. Set likewise.
    """

    path: tuple[str, ...]
    kernel_shape: tuple[int, ...]
    stack: tuple[int, ...] = ()
    num_sharing: int = 1
    largest: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The path with slashes."""
        return "/".join(self.path)

    def matches(self, pattern: str) -> bool:
        """Whether a pattern names it.

        Args:
            pattern: of the whole path or of an end of it, with the wildcards of ``fnmatch``:
                ``"q_proj"`` or ``"decoder/*/up_proj"``.
        """
        return fnmatch.fnmatchcase(f"/{self.name}", f"*/{pattern}")
