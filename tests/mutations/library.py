"""Mutations of the library.

A test may be renamed or moved: ``python -m tests.mutations`` then says that it is not there.
"""

from tests.mutations.patch import Patch

_TERA = "tests/tera_jax/methods/test_tera.py::"
_GAIN = _TERA + "test_gain_1_preserves_the_mean_square_and_other_gains_scale_it"
_ROUTES = "tests/tera_jax/network/test_contraction.py::test_both_routes_equal_the_float64_reference"
_LORA = "tests/tera_jax/methods/test_lora.py::test_outputs_and_gradients_equal_peft[shape0]"
_FIRST = "tests/train/training/steps/test_first_steps.py::"
_MODEL = "tests/tera_jax/llama/test_model.py::"
_LOGITS = _MODEL + "test_logits_equal_transformers[llama-2]"
_WINDOW = _MODEL + "test_a_window_shorter_than_the_text_is_seen_in_every_path"
_PACKED = _MODEL + "test_packed_rows_equal_separate_rows[llama-3]"
_SEGMENTS = "tests/tera_jax/ops/test_segment_attention.py::"
_NORM = "tests/tera_jax/ops/test_rms_norm.py::"
_RANDOM = "tests/tera_jax/test_random.py::"
_FP8 = "tests/tera_jax/ops/test_fp8_matmul.py::"
_FP8_BASE = "tests/tera_jax/adapters/test_fp8_base.py::"
_PIECES = "tests/tera_jax/llama/test_pieces.py::"
_ENDS = (
    "tests/tera_jax/llama/decode/test_generate.py"
    "::test_a_row_ends_at_eos_and_the_loop_with_the_last_row"
)

PATCHES = (
    Patch(
        "gain",
        "the dense core has gain 1 whatever is asked",
        "tera_jax/network/random_network.py",
        "scheme.ranks, in_rank, gain)",
        "scheme.ranks, in_rank, 1.0)",
        f"{_GAIN}[16x4|64-dense]",
    ),
    Patch(
        "gain",
        "the transform's core has the gain twice",
        "tera_jax/network/random_network.py",
        "std = gain / math.sqrt(in_rank)",
        "std = gain**2 / math.sqrt(in_rank)",
        f"{_GAIN}[64|4x16-hadamard]",
    ),
    Patch(
        "gain",
        "the deviation of a factor is 1 / fan in",
        "tera_jax/network/random_network.py",
        "std = gain / math.sqrt(fan_in)",
        "std = gain / fan_in",
        f"{_GAIN}[16x4|64-dense]",
    ),
    Patch(
        "order of d",
        "a network takes the d from the last to the first",
        "tera_jax/network/contraction.py",
        "grouped = joined(factors, d)",
        "grouped = joined(factors, d[::-1])",
        f"{_ROUTES}[float32-2x2x2x2x2x2x2|2x2x2x2x2x2x2]",
    ),
    Patch(
        "order of d",
        "the entries of a narrow d are taken from the last to the first",
        "tera_jax/network/contraction.py",
        "factor.matrix.astype(acc) * factor.d_R.astype(acc)[:, None]",
        "factor.matrix.astype(acc) * factor.d_R.astype(acc)[::-1, None]",
        f"{_ROUTES}[float32-6|4]",
    ),
    Patch(
        "order of d",
        "the d after the one that is asked for starts at zero",
        "tera_jax/methods/tera.py",
        "index = zero - 1 if zero > 0",
        "index = zero if zero > 0",
        f"{_TERA}test_all_d_are_ones_but_one[2]",
    ),
    Patch(
        "packed positions",
        "only the first token of a segment has its new position",
        "tera_jax/llama/loop.py",
        "lax.cummax(jnp.where(starts_BL, index_BL, 0), axis=1)",
        "jnp.where(starts_BL, index_BL, 0)",
        _PACKED,
    ),
    Patch(
        "packed positions",
        "a segment has one token more, of the next",
        "tera_jax/ops/segment_attention.py",
        "end_BM[:, None, :] <= token_L",
        "end_BM[:, None, :] < token_L",
        f"{_SEGMENTS}test_segments_are_numbered_from_one",
    ),
    Patch(
        "packed positions",
        "segments begin where they end",
        "tera_jax/ops/segment_attention.py",
        "jnp.cumsum(size_BS, axis=1) - size_BS",
        "jnp.cumsum(size_BS, axis=1)",
        f"{_SEGMENTS}test_the_rest_of_a_row_is_a_segment_too",
    ),
    Patch(
        "1/r",
        "LoRA's scale is alpha",
        "tera_jax/methods/low_rank.py",
        "return self.alpha / self.rank",
        "return self.alpha",
        _LORA,
    ),
    Patch(
        "1/r",
        "LoRA's scale is alpha over the root of the rank, as in rsLoRA",
        "tera_jax/methods/low_rank.py",
        "return self.alpha / self.rank",
        "return self.alpha / math.sqrt(self.rank)",
        _LORA,
    ),
    Patch(
        "1/r",
        "LoRA's update has the scale, its branch has not",
        "tera_jax/methods/low_rank.py",
        "scale * hidden, b_RO",
        "hidden, b_RO",
        _LORA,
    ),
    Patch(
        "mask",
        "a token sees the next one, where there is a cache",
        "tera_jax/llama/model.py",
        "age_BTS >= 0",
        "age_BTS >= -1",
        f"{_MODEL}test_cached_decoding_equals_the_full_forward[llama-3]",
    ),
    Patch(
        "mask",
        "a token sees all tokens",
        "tera_jax/llama/attention.py",
        "is_causal=causal,",
        "is_causal=False,",
        _LOGITS,
    ),
    Patch(
        "mask",
        "the window is a token too wide, where there is a cache",
        "tera_jax/llama/model.py",
        "age_BTS < self.config.sliding_window",
        "age_BTS <= self.config.sliding_window",
        _WINDOW,
    ),
    Patch(
        "mask",
        "a record sees those before it in its row",
        "tera_jax/llama/model.py",
        "segment_ids_BL[:, None, :, None] == segment_ids_BL",
        "segment_ids_BL[:, None, :, None] >= segment_ids_BL",
        _PACKED,
    ),
    Patch(
        "norm's eps",
        "the kernel of the gradient has none",
        "tera_jax/ops/rms_norm.py",
        "lax.rsqrt(square / width + eps)",
        "lax.rsqrt(square / width)",
        f"{_NORM}test_the_gradient_equals_float64[float32-256]",
    ),
    Patch(
        "norm's eps",
        "it is added to the root",
        "tera_jax/ops/rms_norm.py",
        "lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)",
        "(1 / (jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True)) + eps))",
        f"{_NORM}test_it_norms",
    ),
    Patch(
        "norm's eps",
        "TopLoRA's is that of torch whatever is asked",
        "tera_jax/methods/toplora.py",
        "keepdims=True) + eps)",
        "keepdims=True) + 2.0**-23)",
        "tests/tera_jax/methods/test_toplora.py"
        "::test_apply_equals_loops_over_the_definition[3.0-shape0]",
    ),
    Patch(
        "seed fold-in",
        "the layers of a stack start alike",
        "tera_jax/adapters/stack.py",
        "jax.random.fold_in(key, number)",
        "jax.random.fold_in(key, 0 * number)",
        f"{_FIRST}test_layers_of_a_stack_start_from_draws_of_their_own",
    ),
    Patch(
        "seed fold-in",
        "the address of a draw goes in by its length",
        "tera_jax/random.py",
        "zlib.crc32(name.encode())",
        "len(name)",
        f"{_RANDOM}test_addresses_part_the_seeds",
    ),
    Patch(
        "EOS",
        "an answer goes on behind its end",
        "tera_jax/llama/decode/steps.py",
        "done_B | jnp.isin(token_B, eos_ids)",
        "done_B",
        _ENDS,
    ),
    Patch(
        "EOS",
        "a row that has ended is not filled up",
        "tera_jax/llama/decode/steps.py",
        "jnp.where(done_B, self.pad_id, token_B)",
        "token_B",
        _ENDS,
    ),
    Patch(
        "stream",
        "a piece may end within a character",
        "tera_jax/llama/pieces.py",
        "return text.endswith(_CUT) or (self._holds",
        "return (self._holds",
        f"{_PIECES}test_joined_they_are_the_text_and_no_character_is_cut[sentencepiece]",
    ),
    Patch(
        "stream",
        "what may begin a stop text is given out",
        "tera_jax/llama/pieces.py",
        "keep = max(_beginning(self._held, text) for text in self._stop)",
        "keep = 0",
        f"{_PIECES}test_a_text_ends_before_the_first_stop[given0-stop0-expected0]",
    ),
    Patch(
        "repeats",
        "the penalty counts what stands before a row",
        "tera_jax/llama/decode/config.py",
        "(slot_1S >= first_B[:, None]) & (slot_1S < end_B[:, None])",
        "slot_1S < end_B[:, None]",
        "tests/tera_jax/llama/decode/test_config.py"
        "::test_the_penalty_on_repeats_is_that_of_transformers_on_the_tokens_of_a_row",
    ),
    Patch(
        "repeats",
        "the penalty raises scores below 0",
        "tera_jax/llama/decode/config.py",
        "scores_BV * penalty, scores_BV / penalty",
        "scores_BV / penalty, scores_BV / penalty",
        "tests/tera_jax/llama/decode/test_config.py"
        "::test_the_penalty_on_repeats_is_that_of_transformers_on_the_tokens_of_a_row",
    ),
    Patch(
        "fp8",
        "the cotangent is not scaled by output before it is cast",
        "tera_jax/ops/fp8_matmul.py",
        "ct_TO.astype(jnp.float32) * scales_O[None, :]",
        "ct_TO.astype(jnp.float32)",
        f"{_FP8}test_product_and_gradient_are_float64_s_of_the_same_codes[float32-shape0]",
    ),
    Patch(
        "fp8",
        "a row of zeros has a scale of zero",
        "tera_jax/float8.py",
        "jnp.maximum(largest / LARGEST, jnp.float32(2.0**_LEAST_EXPONENT))",
        "largest / LARGEST",
        f"{_FP8}test_zeros_and_huge_numbers_stay_finite[float32]",
    ),
    Patch(
        "fp8",
        "a scale of twice the least power of two",
        "tera_jax/float8.py",
        "jnp.where(mantissa <= LARGEST / 2**9, 9, 8)",
        "8",
        "tests/tera_jax/test_float8.py::test_scales_are_the_least_powers_of_two_that_do",
    ),
    Patch(
        "fp8",
        "no kernel is multiplied by its codes",
        "tera_jax/adapters/interceptor.py",
        "not isinstance(stored, Float8Kernel) or",
        "True or",
        f"{_FP8_BASE}test_a_branch_stands_beside_the_product_of_codes",
    ),
    Patch(
        "fp8",
        "DoRA multiplies by the plain kernel",
        "tera_jax/methods/dora.py",
        "y, base = self._scaled(d, kernel, dropped, how)",
        "y, base = self._scaled(d, kernel, dropped, PLAIN)",
        f"{_FP8_BASE}test_a_method_that_does_nothing_yet_leaves_the_product_of_codes[dora]",
    ),
    Patch(
        "fp8",
        "mixed rows of an adapted layer cast their input",
        "tera_jax/adapters/row_interceptor.py",
        "inputs, bias, method.casts_input",
        "inputs, bias, True",
        f"{_FP8_BASE}test_mixed_rows_are_what_each_gives_alone[tera-fields1-through]",
    ),
)
