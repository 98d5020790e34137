"""Counts of a compiled step's matmuls and kernels."""

import jax
import jax.numpy as jnp

from benchmarks.hlo import products
from tera_jax import float8

TEXT = """HloModule step

%wrapped_transpose_computation (param_1: f8e4m3fn[32,16]) -> f8e4m3fn[16,32] {
  %param_1 = f8e4m3fn[32,16]{1,0} parameter(0)
  ROOT %transpose.2 = f8e4m3fn[16,32]{1,0} transpose(%param_1), dimensions={1,0}
}

ENTRY %main (codes: f8e4m3fn[32,16], other: bf16[16,32]) -> bf16[8,32] {
  %codes = f8e4m3fn[32,16]{1,0} parameter(0)
  %other = bf16[16,32]{1,0} parameter(1)
  %turned = f8e4m3fn[16,32]{1,0} fusion(%codes), kind=kInput, calls=%wrapped_transpose_computation
  %gemm.1 = (bf16[8,32]{1,0}, s8[64]{0}) FP8
  %gemm.2 = (bf16[8,16]{1,0}, s8[64]{0}) FP8
  %gemm.3 = (bf16[8,48]{1,0}, s8[64]{0}) LT
  ROOT %get-tuple-element.1 = bf16[8,32]{1,0} get-tuple-element(%gemm.1), index=0
}
"""
FP8 = 'custom-call(%x, %codes), custom_call_target="__cublas$lt$matmul$f8"'
TEXT = TEXT.replace("FP8", FP8).replace("LT", FP8.removesuffix('$f8"') + '"')
INSIDE = """%fused_computation (param_0: f8e4m3fn[32,16]) -> bf16[16,32] {
  %param_0 = f8e4m3fn[32,16]{1,0} parameter(0)
  %convert.1 = bf16[32,16]{1,0} convert(%param_0)
  ROOT %transpose.1 = bf16[16,32]{1,0} transpose(%convert.1), dimensions={1,0}
}

"""
COPY = "  %copied = bf16[16,32]{1,0} fusion(%codes), kind=kInput, calls=%fused_computation\n"


def test_matmuls_transposes_and_plain_kernels_are_counted():
    params = {"kernel": float8.by_channels(jnp.ones((16, 32)))}
    found = products(TEXT, params)
    assert found == (2, 1, 1, {})
    assert "2 matmuls of e4m3 codes, 1 others, 1 transposes" in str(found)
    assert str(found).endswith("shape: none")
    # what a fusion writes counts, and what is inside of it does not
    text = TEXT.replace("  %gemm.1 =", COPY + "  %gemm.1 =").replace("ENTRY", INSIDE + "ENTRY")
    assert products(text, params).plain == {"bf16[16,32]": 1}
    assert products(text, {"kernel": jnp.ones((16, 32))}).plain == {}
    # what a matmul returns counts, and what a barrier lets through does not
    returned = TEXT.replace("bf16[8,32]", "bf16[16,32]")
    assert products(returned, params).plain == {"bf16[16,32]": 1}
    assert products(returned.replace("custom-call(%x", "opt-barrier(%x"), params).plain == {}


def test_a_program_of_a_dequantised_kernel_writes_it():
    kernel = float8.by_channels(jnp.ones((16, 32)))

    def compiled(function):
        return jax.jit(function).lower(kernel).compile().as_text()

    assert products(compiled(lambda k: k.dequantize()), {"a": kernel}).plain == {"f32[16,32]": 1}
    assert not products(compiled(lambda k: k.channel_scales * 2), {"a": kernel}).plain
