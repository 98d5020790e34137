"""The benchmark of the sums of e4m3 matmuls."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import fp8_sums
from tests.margins import roundings, within


def test_a_cpu_adds_up_in_float32(capsys):
    fp8_sums.main(["--tokens=8", "--inputs", "64", "--outputs=48"])
    _, _, *rows = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[:3] for row in table] == [
        ["forward", "64", "float32"],
        ["forward", "64", "bfloat16"],
        ["backward", "48", "float32"],
        ["backward", "48", "bfloat16"],
    ]
    for _, size, dtype, *errors in table:
        fast, exact, rounding = map(float, errors)
        assert fast == exact
        # bfloat16: the sum is handed over in it, and so is the scaled result
        count = int(size) + 2 if dtype == "float32" else 3
        within(fast, roundings(getattr(jnp, dtype), count))
        assert fast >= rounding > 0


def test_another_sum_is_seen():
    right = np.ones((2, 3))
    assert fp8_sums.error(jnp.ones((2, 3)), right) == 0
    assert abs(fp8_sums.error(1.5 * jnp.ones((2, 3), jnp.bfloat16), right) - 0.5) < 1e-12


def test_sides_that_no_matmul_takes_are_refused(capsys):
    with pytest.raises(SystemExit):
        fp8_sums.main(["--inputs", "40"])
    assert "sides [40]; an e4m3 matmul takes multiples of 16" in capsys.readouterr().err
