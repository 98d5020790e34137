"""The nearest update of a frozen network, by alternating least squares in each d."""

import math

import numpy as np

from tera_jax.analysis.theorems import Network

SCHEMES = [((4,), (2, 2)), ((2, 2), (2, 2)), ((2, 2, 2), (2, 2)), ((3, 2), (4,)), ((8,), (2, 4))]


def drawn(random, in_modes, out_modes, scale=1.0, orthogonal=False):
    """A frozen network of full ranks, and the square matrices of its modes."""

    def factor(size):
        matrix = random.standard_normal((size, size)) / math.sqrt(size)
        return scale * (np.linalg.qr(matrix)[0] if orthogonal else matrix)

    sides = [[factor(size) for size in modes] for modes in (in_modes, out_modes)]
    left, right = (_kron(side) for side in sides)
    core = random.standard_normal((len(left), len(right))) / math.sqrt(len(left))
    return Network(left.T, core, right, tuple(in_modes), tuple(out_modes))


def made(network, vectors):
    """The update with these d."""
    scale = np.array(1.0)
    for vector in vectors:
        scale = np.multiply.outer(scale, vector)
    scaled = network.core_RS * scale.reshape(network.core_RS.shape)
    return network.left_JR @ scaled @ network.right_SO


def distance(wanted, network, vectors):
    """The squared Frobenius norm of the difference."""
    return float(np.sum((wanted - made(network, vectors)) ** 2))


def least(wanted, network, random, near, starts=4, sweeps=60):
    """The least :func:`distance` that was found, from the d in ``near`` and from others."""
    ranks = network.in_ranks + network.out_ranks
    begun = [[random.standard_normal(rank) for rank in ranks] for _ in range(starts)]
    best = math.inf
    for vectors in ([*near], *begun):
        for _ in range(sweeps):
            for mode, rank in enumerate(ranks):
                columns = []
                for entry in range(rank):
                    unit = [*vectors]
                    unit[mode] = np.eye(rank)[entry]
                    columns.append(made(network, unit).ravel())
                solved = np.linalg.lstsq(np.array(columns).T, wanted.ravel(), rcond=None)
                vectors[mode] = solved[0]
        best = min(best, distance(wanted, network, vectors))
    return best


def _kron(matrices):
    found = np.ones((1, 1))
    for matrix in matrices:
        found = np.kron(found, matrix)
    return found
