"""All numbers in one file of JSON, and all figures in one page without a network."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tera_jax import atomic

from .analysed import Analysed
from .figures import Drawn
from .measures import EPSILONS, KEPT, TOP, Measured, tolerances

PAGE, NUMBERS = "index.html", "analysis.json"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #444; }
"""
_COLUMNS = (
    "run",
    "task",
    "setting",
    "seed",
    "trainable",
    "NLL",
    "rank",
    "entropy",
    "stable",
    "drift",
)
_WORDS = 3
"""Columns of words, which stand to the left."""


def numbers(
    runs: Sequence[Analysed], drawn: Sequence[Drawn], left_out: Sequence[str]
) -> dict[str, Any]:
    """What ``analysis.json`` holds."""
    return {
        "version": 1,
        "model": runs[0].member.config.model.path,
        "intruder_epsilons": list(EPSILONS),
        "intruder_directions": TOP,
        "overlap_directions": KEPT,
        "runs": [_run(run) for run in runs],
        "figures": [each._asdict() for each in drawn],
        "left_out": list(left_out),
    }


def _run(run: Analysed) -> dict[str, Any]:
    member = run.member
    return {
        "path": str(member.path),
        "task": member.task,
        "label": member.label,
        "method": member.method,
        "targets": list(member.config.method.targets),
        "seed": member.seed,
        "frozen_seed": member.frozen_seed,
        "learning_rate": member.config.optim.learning_rate,
        "step": run.step,
        "trained": run.trained,
        "nll": run.nll,
        "last_nll": run.last_nll,
        "elsewhere": {name: list(both) for name, both in run.elsewhere.items()},
        "kernels": [_kernel(each) for each in run.kernels],
    }


def _kernel(kernel: Measured) -> dict[str, Any]:
    return {
        "path": kernel.path,
        "module": kernel.module,
        "layer": kernel.layer,
        "shape": list(kernel.shape),
        "norm": kernel.norm,
        "drift": kernel.drift,
        **kernel.ranks,
        "tolerances": tolerances(kernel.shape),
        "intruders": kernel.intruders,
        "places": kernel.places,
        "spectrum": kernel.spectrum,
    }


def write(
    runs: Sequence[Analysed], drawn: Sequence[Drawn], left_out: Sequence[str], output: Path
) -> None:
    """Write both files beside the pictures.

    Args:
        runs: in their order.
        drawn: figures whose files are in the directory.
        left_out: lines about runs and figures.
        output: the directory.
    """
    atomic.write_json(output / NUMBERS, numbers(runs, drawn, left_out))
    atomic.write_text(output / PAGE, page(runs, drawn, left_out, output))


def page(
    runs: Sequence[Analysed], drawn: Sequence[Drawn], left_out: Sequence[str], output: Path
) -> str:
    """The page as HTML. Its pictures are within it."""
    model = html.escape(runs[0].member.config.model.path)
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Analysis of {model}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Analysis of {len(runs)} runs on {model}</h1>",
        "<p>Ranks are means over kernels: singular values above float32's tolerance, the entropy "
        f"rank and the stable rank. All numbers of the kernels are in {NUMBERS}.</p>",
        *_table(runs),
    ]
    for task in dict.fromkeys(each.task for each in drawn):
        lines.append(f"<h2>{html.escape(task)}</h2>")
        lines += [_figure(each, output) for each in drawn if each.task == task]
    if left_out:
        lines.append("<h2>Left out</h2><ul>")
        lines += [f"<li>{html.escape(line)}</li>" for line in left_out]
        lines.append("</ul>")
    return "\n".join([*lines, "</body></html>", ""])


def _figure(drawn: Drawn, output: Path) -> str:
    picture = base64.b64encode((output / f"{drawn.name}.svg").read_bytes()).decode()
    title, caption, name = map(html.escape, (drawn.title, drawn.caption, drawn.name))
    return (
        f'<figure id="{name}"><h3>{title}</h3>'
        f'<img alt="{title}" src="data:image/svg+xml;base64,{picture}">'
        f'<figcaption>{caption} <a href="{name}.csv">Table</a>, '
        f'<a href="{name}.png">PNG</a>, <a href="{name}.svg">SVG</a></figcaption></figure>'
    )


def _table(runs: Sequence[Analysed]) -> list[str]:
    lines = ["<table><thead>", _line("th", _COLUMNS), "</thead><tbody>"]
    for run in runs:
        member, kernels = run.member, run.kernels
        means = [
            sum(each.ranks[name] for each in kernels) / len(kernels)
            for name in ("rank_float32", "entropy_rank", "stable_rank")
        ]
        drift = sum(each.drift for each in kernels) / len(kernels)
        words = str(member.path), member.task, member.label, str(member.seed), f"{run.trained:,}"
        nll = "" if run.nll is None else f"{run.nll:.4f}"
        lines.append(_line("td", [*words, nll, *(f"{of:.1f}" for of in means), f"{drift:.3g}"]))
    return [*lines, "</tbody></table>"]


def _line(tag: str, cells: Sequence[str]) -> str:
    kinds = ["" if place < _WORDS else ' class="number"' for place in range(len(cells))]
    inner = "".join(
        f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
    )
    return f"<tr>{inner}</tr>"
