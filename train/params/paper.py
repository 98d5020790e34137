"""The percentages of trainable parameters that the TeRA paper prints, and what gives them.

Where the paper leaves a setting open, it is the one under which the printed digits come out; the
docstring of each says so.
"""

from typing import Any, NamedTuple

L2, L3 = "llama-2-7b", "llama-3-8b"
QV = ("q_proj", "v_proj")

_OUT = {"tensorizations": ("4096|8x8x8x8",)}
# Llama-3's value kernels have 1024 outputs: the digits fit the output split into modes of 8.
_OUT_GQA = {"tensorizations": ("4096|8x8x8x8", "4096|2x8x8x8")}
# Tables 3 and 4 print a smaller count for Llama-3: the digits fit the input split instead.
_IN_GQA = {"tensorizations": ("8x8x8x8|4096", "8x8x8x8|1024")}


class PaperFigure(NamedTuple):
    """One percentage of the paper.

    Attributes:
        table: its number.
        row: model and method as printed.
        percent: as printed, with its digits.
        model: a name of :data:`train.params.shapes.MODELS`.
        method: a row of ``tera_jax.methods.TABLE``.
        settings: of the method's configuration, where they are not its defaults.
        targets: the adapted layers.
        exception: why the printed digits are not met, where they are known not to be.
    """

    table: int
    row: str
    percent: str
    model: str
    method: str
    settings: dict[str, Any]
    targets: tuple[str, ...] = QV
    exception: str = ""


def _table_2(table: int, model: str, percents: str, tera: dict[str, Any]) -> list[PaperFigure]:
    """The ten methods that Tables 2 and 3 share, in their order."""
    methods: list[tuple[str, str, dict[str, Any]]] = [
        ("Prompt Tuning", "prompt", {}),
        ("P-Tuning", "p_tuning", {}),
        ("LoRA", "lora", {"rank": 32}),
        ("HiRA (r=1)", "hira", {"rank": 1}),
        ("HiRA (r=32)", "hira", {"rank": 32}),
        ("MoRA (r=32)", "mora", {"rank": 32}),
        ("QuanTA", "quanta", {}),
        ("LoRETTA", "loretta", {"rank": 32}),
        ("VeRA", "vera", {"rank": 256}),
        ("TeRA", "tera", tera),
    ]
    return [
        PaperFigure(table, name, percent, model, method, settings)
        for (name, method, settings), percent in zip(methods, percents.split(), strict=True)
    ]


def _few(table: int, model: str, percents: str, tera: dict[str, Any]) -> list[PaperFigure]:
    """The five methods of Table 4."""
    rows = _table_2(table, model, "0 0 0 {} {} 0 0 {} {} {}".format(*percents.split()), tera)
    return [row for row in rows if row.percent != "0"]


def _ranks(model: str, percents: str, tera: dict[str, Any]) -> list[PaperFigure]:
    """Table 7."""
    methods: list[tuple[str, str, dict[str, Any]]] = [
        ("LoRA (r=32)", "lora", {"rank": 32}),
        ("LoRA (r=128)", "lora", {"rank": 128}),
        ("HiRA (r=1)", "hira", {"rank": 1}),
        ("HiRA (r=32)", "hira", {"rank": 32}),
        ("HiRA (r=128)", "hira", {"rank": 128}),
        ("TeRA", "tera", tera),
    ]
    return [
        PaperFigure(7, name, percent, model, method, settings)
        for (name, method, settings), percent in zip(methods, percents.split(), strict=True)
    ]


PRINTED: tuple[PaperFigure, ...] = (
    PaperFigure(2, "Full FT", "100", L2, "full", {}),
    *_table_2(2, L2, "0.0012 0.7428 0.2484 0.0078 0.2484 0.2484 0.0408 0.0052 0.0041 0.0039", _OUT),
    PaperFigure(2, "Full FT", "100", L3, "full", {}),
    *_table_2(
        2, L3, "0.0010 0.6240 0.1695 0.0053 0.1695 0.1692 0.0343 0.0045 0.0022 0.0033", _OUT_GQA
    ),
    *_table_2(3, L2, "0.0012 0.7428 0.2484 0.0078 0.2484 0.2484 0.0408 0.0052 0.0041 0.0039", _OUT),
    *_table_2(
        3, L3, "0.0010 0.6240 0.1695 0.0053 0.1695 0.1692 0.0343 0.0045 0.0022 0.0021", _IN_GQA
    ),
    *_few(4, L2, "0.0078 0.2484 0.0052 0.0041 0.0039", _OUT),
    *_few(4, L3, "0.0053 0.1695 0.0045 0.0022 0.0021", _IN_GQA),
    PaperFigure(6, "Query only", "0.0020", L2, "tera", _OUT, ("q_proj",)),
    PaperFigure(6, "Value only", "0.0020", L2, "tera", _OUT, ("v_proj",)),
    PaperFigure(
        6,
        "Query & Value",
        "0.0040",
        L2,
        "tera",
        _OUT,
        exception="twice the rounded 0.0020; Table 2 prints 0.0039 for the same run",
    ),
    *_ranks(L2, "0.2484 0.9861 0.0078 0.2484 0.9861 0.0039", _OUT),
    *_ranks(L3, "0.1695 0.6744 0.0053 0.1695 0.6744 0.0033", _OUT_GQA),
    PaperFigure(10, "TopLoRA (r=16)", "0.1369", L3, "toplora", {"rank": 16}),
    PaperFigure(10, "PiSSA (r=16)", "0.0848", L3, "pissa", {"rank": 16}),
    PaperFigure(10, "DoRA (r=32)", "0.1715", L3, "dora", {"rank": 32}),
    PaperFigure(10, "TeRA", "0.0033", L3, "tera", _OUT_GQA),
)
