"""Analysed runs without arrays of a model: what is drawn needs no base."""

import functools
from pathlib import Path

import numpy as np

from tera_jax.adapters.factory import make
from tera_jax.analysis.updates import Update
from tera_jax.methods import TargetLayer
from tests.train.analysis.drawn_runs import config_of
from train.analysis.analysed import Analysed
from train.analysis.measures import Bases, measure
from train.analysis.members import Member, with_labels

LAYERS = (
    TargetLayer(("layers", "self_attn", "q_proj"), (16, 16), (3,)),
    TargetLayer(("layers", "self_attn", "v_proj"), (16, 8), (3,)),
)


def analysed(*settings):
    """A run for each of (method, seed, loss, fields), in their order."""
    members = []
    for number, (method, seed, _, fields) in enumerate(settings):
        config = config_of("model", method, seed, **fields)
        adapter = make(method, config.method.settings, LAYERS)
        members.append(Member(Path(f"runs/{number}"), config, adapter))
    found = []
    for member, (_, seed, loss, _) in zip(with_labels(members), settings, strict=True):
        kernels = [
            measure(_update(layer, index, member.label, seed), index[0], Bases())
            for layer in LAYERS
            for index in np.ndindex(*layer.stack)
        ]
        d = {"d1": np.linspace(-1, 1, 9), "d2": np.linspace(0.5, 1.5, 9) + seed}
        trained = 100 + 10 * len(member.label)
        found.append(Analysed(member, 6, trained, loss, loss, kernels, d, {}))
    return found


@functools.cache
def _update(layer, index, label, seed):
    random = np.random.default_rng([*map(ord, label), seed, *index, len(layer.name)])
    kernel = np.random.default_rng(index).standard_normal(layer.kernel_shape)
    rank = 4 if label.startswith("lora") else min(layer.kernel_shape)
    a, b = (random.standard_normal((side, rank)) for side in layer.kernel_shape)
    alone = TargetLayer(layer.path, layer.kernel_shape)
    return Update(alone, index, 0.05 * a @ b.T, kernel)
