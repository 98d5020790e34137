"""What is compared: a method with fields and targets: ``lora:rank=4,targets=v_proj+o_proj``.

After the method come ``field=value``, with commas between; a ``+`` stands between the values of a
field that takes several. Two names are no fields: ``targets``, the layers that are adapted, and
``rate``, the learning rate where a search begins, which is no part of a variant's name.
"""

import ast
import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from tera_jax.methods import TABLE

from ..config import typed

BASE = "base"
"""The name of the base without an adapter."""
_OTHERS: dict[str, Any] = {"targets": tuple[str, ...], "rate": float}
_SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method as it is compared.

    Attributes:
        method: a row of ``tera_jax.methods.TABLE``.
        fields: of its configuration, those that are not left at the recipe's values; ``targets``
            may be one of them.
        rate: the learning rate where a search begins; None for that of the recipe.
        label: a name in place of :attr:`canonical`.
    """

    method: str
    fields: tuple[tuple[str, Any], ...] = ()
    rate: float | None = None
    label: str = ""

    @classmethod
    def parse(cls, spec: str) -> "Variant":
        """The variant that a text describes.

        Raises:
            ValueError: for an unknown method or field, with the nearest ones, and for a value that
                the field does not take.
        """
        method, _, rest = spec.partition(":")
        if method not in TABLE:
            raise ValueError(f"{spec!r} has the unknown method {method!r}; {_near(method, TABLE)}")
        hints = {**typing.get_type_hints(TABLE[method]), **_OTHERS}
        known = [field.name for field in dataclasses.fields(TABLE[method])]
        known = [name for name in (*known, *_OTHERS) if name != _SEED]
        fields: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, text = part.partition("=")
            if name == "targets" and not TABLE[method].default_targets:
                raise ValueError(f"{spec!r}: {method} adapts no layers; leave targets out")
            if name == _SEED:
                raise ValueError(f"{spec!r} sets a seed, but --seeds sets those of all; leave it")
            if name not in known:
                raise ValueError(f"{spec!r}: {method} has no field {name!r}; {_near(name, known)}")
            if not equals or name in fields:
                raise ValueError(f"{spec!r}: give {name} one value, as {name}=VALUE")
            fields[name] = typed.checked(
                hints[name], _value(text, hints[name]), f"{spec!r}: {name}"
            )
        rate = fields.pop("rate", None)
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"{spec!r}: rate is {rate}; it must be above 0 and finite")
        return cls(method, tuple(fields.items()), rate)

    @property
    def canonical(self) -> str:
        """The text that :meth:`parse` reads, with the fields in the order of the method's."""
        order = [field.name for field in dataclasses.fields(TABLE[self.method])]
        given = sorted(self.fields, key=lambda pair: [*order, *_OTHERS].index(pair[0]))
        text = ",".join(f"{name}={shown(value)}" for name, value in given)
        return f"{self.method}:{text}" if text else self.method

    @property
    def name(self) -> str:
        """As results and reports call it."""
        return self.label or self.canonical

    def settings(self) -> dict[str, Any]:
        """The fields that differ from the recipe's."""
        return dict(self.fields)


PLAIN = Variant("lora", (("rank", 1),), label=BASE)
"""Before its first step it is the base."""


def parse_all(specs: Iterable[str]) -> tuple[Variant, ...]:
    """The variants of several texts.

    Raises:
        ValueError: as :meth:`Variant.parse`, for none, and for two of one name.
    """
    variants = tuple(map(Variant.parse, specs))
    if not variants:
        raise ValueError(f"no methods; name at least one of {', '.join(sorted(TABLE))}")
    require_distinct({variant.name: variant.name for variant in variants}, variants)
    return variants


def require_distinct(settings: Mapping[str, Any], variants: Iterable[Variant]) -> None:
    """Raise ``ValueError`` for two variants that are one.

    Args:
        settings: of each variant by its name, as they are after the recipe.
        variants: to be compared.
    """
    seen: dict[str, Variant] = {}
    for variant in variants:
        key = repr(settings[variant.name])
        if key in seen:
            raise ValueError(
                f"{variant.name} and {seen[key].name} are the same method with the same settings; "
                "leave one out"
            )
        seen[key] = variant


def shown(value: Any) -> str:
    """A value as a name has it."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(text: str, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(map(_literal, text.split("+")))
    return _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known))
    return f"did you mean {' or '.join(found)}?" if found else f"choose from {', '.join(known)}"
