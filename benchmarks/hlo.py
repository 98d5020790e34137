"""What a compiled step makes of kernels in e4m3, read from its HLO."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from tera_jax.float8 import Float8Kernel
from tera_jax.quantize import is_quantized

_INSTRUCTION = re.compile(r"%?[\w.\-]+ = (\w+)\[([\d,]*)\]\S* ([\w\-]+)\(")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(")
_VIEWS = ("bitcast", "parameter", "opt-barrier")
_PART = re.compile(r"get-tuple-element\(%?([\w.\-]+)\)")


class Products(NamedTuple):
    """Counts of one program.

    Attributes:
        fp8: matmuls of e4m3 codes by cuBLASLt; a loop's count once.
        others: matmuls of other types by cuBLAS or cuBLASLt.
        transposes: of 8-bit arrays.
        plain: arrays of a kernel's sides, in either order, that are written in 16 or 32 bits: their
            type and sides -> how many. An adapted kernel is one, and what it is made of may be.
    """

    fp8: int
    others: int
    transposes: int
    plain: dict[str, int]

    def __str__(self) -> str:
        plain = ", ".join(f"{count} x {name}" for name, count in self.plain.items()) or "none"
        return (
            f"{self.fp8} matmuls of e4m3 codes, {self.others} others, {self.transposes} "
            f"transposes of 8-bit arrays; 16 or 32-bit arrays of a kernel's shape: {plain}"
        )


def products(text: str, params: Any) -> Products:
    """Of a program's HLO, as ``compiled.as_text()`` has it.

    Args:
        text: optimised.
        params: whose kernels are in e4m3, abstract or real, as a stack or a list.
    """
    leaves = jax.tree.leaves(params, is_leaf=is_quantized)
    sides = {tuple(sorted(leaf.shape[-2:])) for leaf in leaves if isinstance(leaf, Float8Kernel)}
    plain: Counter[str] = Counter()
    for dtype, shape, operation in _written(text):
        wide = dtype in ("bf16", "f16", "f32") and operation not in _VIEWS
        if wide and not sides.isdisjoint(_as_matrix(shape)):
            plain[f"{dtype}[{','.join(map(str, shape))}]"] += 1
    targets = Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    fp8 = targets["__cublas$lt$matmul$f8"]
    others = sum(targets[name] for name in ("__cublas$lt$matmul", "__cublas$gemm"))
    transposes = len(re.findall(r"= (?:f8e4m3fn|s8|u8)\[[\d,]*\]\S* transpose\(", text))
    return Products(fp8, others, transposes, dict(plain))


def _as_matrix(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The sides of an array as a stack of matrices, and of a row of tiles for each input."""
    yield tuple(sorted(shape[-2:]))
    if len(shape) == 3:
        yield tuple(sorted((shape[0], shape[1] * shape[2])))


def _written(text: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(type, shape, operation) of what is written to memory: not of what is inside of fusions."""
    inside = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", text))
    calls = set(re.findall(r"%?([\w.\-]+) = \(.*\) custom-call\(", text))
    skipped = False
    for line in text.splitlines():
        if line.endswith("{") and (head := _HEAD.match(line)):
            skipped = head.group(1) in inside
        elif not skipped and (found := _INSTRUCTION.search(line)):
            dtype, shape, operation = found.groups()
            part = _PART.search(line)  # of what a matmul returns, or of a barrier or loop: a view
            if part and part.group(1) not in calls:
                continue
            yield dtype, tuple(map(int, filter(None, shape.split(",")))), operation
