import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tera_jax.llama import Cache, Llama, LlamaConfig, init_cache, load_pretrained
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.sharding import make_mesh, rows
from tests.margins import roundings, within
from tests.marks import quick_only

TOLERANCE = 2e-4  # of the range of the logits

# The plain decoder, and the two whose attention differs.
in_each_attention = pytest.mark.parametrize("tiny", ["llama-3", "mistral", "qwen3"], indirect=True)


def relative(ours, theirs):
    return float(np.max(np.abs(ours - theirs)) / np.ptp(theirs))


@pytest.fixture
def qwen3(tiny_path):
    return load_pretrained(tiny_path("qwen3"))


def test_logits_equal_transformers(tiny, tokens_BL, load_torch, apply):
    path, model, params = tiny
    with torch.no_grad():
        theirs = load_torch(path)(torch.tensor(tokens_BL)).logits.numpy()
    difference = relative(apply(model, params, tokens_BL), theirs)
    print(f"largest difference over range {difference:.1e}")  # shown by pytest -rP
    within(difference, TOLERANCE)
    # Each of the family's peculiarities matters at this tolerance.
    for change in (
        {"rope_theta": 2 * model.config.rope_theta},
        {"rms_norm_eps": 0.1},
        {"rope_scaling": None},
        {"sliding_window": None},
    ):
        other = dataclasses.replace(model.config, **change)
        if other != model.config:
            assert relative(apply(Llama(other), params, tokens_BL), theirs) > 10 * TOLERANCE


def test_parameters_are_stacked_and_named(tiny):
    _, model, params = tiny
    config = model.config
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    layers, width = config.num_layers, config.hidden_size
    attention = shapes["layers"]["self_attn"]
    assert shapes["embed_tokens"] == {"embedding": (config.vocab_size, width)}
    assert shapes["norm"] == {"scale": (width,)}
    assert ("lm_head" in shapes) != config.tie_word_embeddings
    assert shapes["layers"]["input_layernorm"] == {"scale": (layers, width)}
    assert set(attention["q_proj"]) == ({"kernel", "bias"} if config.attention_bias else {"kernel"})
    assert attention["q_proj"]["kernel"] == (layers, width, config.num_heads * config.head_dim)
    assert ("q_norm" in attention) == config.qk_norm
    assert shapes["layers"]["mlp"]["down_proj"] == {
        "kernel": (layers, config.intermediate_size, width)
    }


@in_each_attention
def test_packed_rows_equal_separate_rows(tiny, tokens_BL, apply):
    _, model, params = tiny
    separate = apply(model, params, tokens_BL[:, :12])
    packed_BL = np.concatenate([tokens_BL[0, :12], tokens_BL[1, :12], tokens_BL[0, :4]])[None]
    segment_ids_BL = np.repeat([1, 2, 0], [12, 12, 4])[None].astype(np.int32)
    packed = apply(model, params, packed_BL, None, segment_ids_BL)
    np.testing.assert_allclose(packed[0, :12], separate[0], atol=2e-5)
    np.testing.assert_allclose(packed[0, 12:24], separate[1], atol=2e-5)
    assert np.all(np.isfinite(packed))
    wrong = np.where(segment_ids_BL == 2, 1, segment_ids_BL)
    moved = apply(model, params, packed_BL, None, wrong)
    assert np.max(np.abs(moved[0, 12:24] - separate[1])) > 1e-2
    first = apply(model, params, packed_BL, np.arange(28, dtype=np.int32)[None], segment_ids_BL)
    # RoPE is relative: absolute positions of the row do as well as those of the segment.
    np.testing.assert_allclose(first[0, 12:24], separate[1], atol=1e-4)


@in_each_attention
def test_right_padding_changes_nothing(tiny, tokens_BL, apply):
    _, model, params = tiny
    whole = apply(model, params, tokens_BL)
    padded_BL = tokens_BL.copy()
    padded_BL[:, 17:] = 0
    padded = apply(model, params, padded_BL)
    np.testing.assert_allclose(padded[:, :17], whole[:, :17], atol=1e-5)
    assert np.max(np.abs(padded[:, 17:] - whole[:, 17:])) > 1e-2


@in_each_attention
def test_cached_decoding_equals_the_full_forward(tiny, tokens_BL, apply):
    _, model, params = tiny
    whole = apply(model, params, tokens_BL)
    # Row 0 is left-padded by 3, row 1 not at all, so the last 3 tokens of row 0 are left out.
    pads = np.asarray([[3], [0]])
    padded_BL = np.stack([np.roll(tokens_BL[0], 3), tokens_BL[1]])
    padded_BL[0, :3] = 0
    index_BL = np.arange(24, dtype=np.int32)[None] - pads
    segment_ids_BL = (index_BL >= 0).astype(np.int32)
    positions_BL = np.maximum(index_BL, 0).astype(np.int32)

    @jax.jit
    def step(params, tokens, positions, segments, cache):
        return model.apply({"params": params}, tokens, positions, segments, cache)

    def decode(segment_ids_BL):
        cache, logits = init_cache(model.config, 2, 30), []
        for start, stop in ((0, 16), (16, 20), *((slot, slot + 1) for slot in range(20, 24))):
            part = np.s_[:, start:stop]
            out, cache = step(
                params, padded_BL[part], positions_BL[part], segment_ids_BL[part], cache
            )
            logits.append(out)
        assert isinstance(cache, Cache)
        assert int(cache.length) == 24
        return np.concatenate(logits, axis=1)

    cached = decode(segment_ids_BL)
    assert np.all(np.isfinite(cached))
    np.testing.assert_allclose(cached[0, 3:], whole[0, :21], atol=2e-5)
    np.testing.assert_allclose(cached[1], whole[1], atol=2e-5)
    wrong = decode(np.ones_like(segment_ids_BL))
    assert np.max(np.abs(wrong[0, 3:] - whole[0, :21])) > 1e-2


def test_a_cache_needs_positions(qwen3, tokens_BL):
    model, params = qwen3
    with pytest.raises(ValueError, match="with a cache, positions_BL must be given"):
        model.apply({"params": params}, tokens_BL, cache=init_cache(model.config, 2, 30))


def test_remat_changes_neither_loss_nor_gradient(qwen3, tokens_BL):
    model, params = qwen3

    def value_and_grad(remat):
        model_ = Llama(model.config, remat=remat)
        return jax.value_and_grad(
            lambda params: jnp.mean(jnp.square(model_.apply({"params": params}, tokens_BL)[0]))
        )

    expected = jax.jit(value_and_grad("none"))(params)
    assert float(expected[0]) > 0
    for remat in ("full", "dots"):
        found = jax.jit(value_and_grad(remat))(params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
        )
    # That something is recomputed shows in the jaxpr.
    counts = {
        remat: str(jax.make_jaxpr(value_and_grad(remat))(params)).count("dot_general")
        for remat in ("none", "full", "dots")
    }
    assert counts["none"] < counts["dots"] < counts["full"]
    with pytest.raises(ValueError, match="remat='some' is unknown; choose one of none, full, dots"):
        Llama(model.config, remat="some").init(jax.random.key(0), tokens_BL)


@in_each_attention
def test_hidden_then_logits_of_any_leading_shape(tiny, tokens_BL, apply):
    _, model, params = tiny
    variables = {"params": params}
    hidden_BLD, cache = model.apply(variables, tokens_BL, method="hidden")
    assert cache is None
    whole = apply(model, params, tokens_BL)
    last = model.apply(variables, hidden_BLD[:, -1], method="logits")
    one = model.apply(variables, hidden_BLD[0, 3], method="logits")
    np.testing.assert_allclose(last, whole[:, -1], atol=1e-5)
    np.testing.assert_allclose(one, whole[0, 3], atol=1e-5)
    assert np.max(np.abs(last - whole[:, -2])) > 1e-2


def test_bfloat16_keeps_float32_where_it_matters(qwen3, tokens_BL, apply):
    model, params = qwen3
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    low = Llama(model.config, dtype=jnp.bfloat16)
    logits = apply(low, half, tokens_BL)
    assert logits.dtype == np.float32
    # float32 logits are not rounded to the 8 bits of bfloat16
    assert np.any(logits.astype(jnp.bfloat16).astype(np.float32) != logits)
    error = relative(logits, apply(model, params, tokens_BL))
    assert error > 1e-4
    within(error, 0.05)
    assert low.apply({"params": half}, tokens_BL, method="hidden")[0].dtype == jnp.bfloat16

    def loss(model, params):
        return jnp.mean(jnp.square(model.apply({"params": params}, tokens_BL)[0]))

    def kernel(tree):
        return np.asarray(tree["layers"]["self_attn"]["q_proj"]["kernel"], np.float32)

    found = kernel(jax.jit(jax.grad(partial(loss, low)))(half))
    expected = kernel(jax.jit(jax.grad(partial(loss, model)))(params))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error > 1e-4
    # A layer rounds two norms, seven products, the heads' positions, norms and sums, and the gate,
    # there and back.
    within(error, roundings("bfloat16", 2 * 16 * model.config.num_layers))
    # Parameters keep the dtype they are stored in.
    mixed = Llama(model.config, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    leaf = jax.eval_shape(mixed.init, jax.random.key(0), tokens_BL)["params"]["norm"]["scale"]
    assert leaf.dtype == jnp.float32
    apply(mixed, params, tokens_BL)


@pytest.mark.parametrize("family", quick_only(["qwen3"], ["qwen2", "qwen3", "mistral"]))
@pytest.mark.parametrize("context", [False, True])
def test_sharded_equals_single(family, context, tiny_path, tokens_BL, apply):
    single, params = load_pretrained(tiny_path(family))
    tokens_BL = np.concatenate([tokens_BL, tokens_BL[::-1] + 1]) % 128
    expected = apply(single, params, tokens_BL)
    mesh = make_mesh(2, 2, 2)
    model, sharded = load_pretrained(tiny_path(family), mesh=mesh)
    shardings = parameter_shardings(params, mesh)
    jax.tree.map(lambda leaf, wanted: _assert_sharded(leaf, wanted), sharded, shardings)
    assert sharded["norm"]["scale"].sharding.is_fully_replicated
    assert not sharded["layers"]["mlp"]["up_proj"]["kernel"].sharding.is_fully_replicated
    placed_BL = jax.device_put(tokens_BL, rows(mesh))
    if context:
        with jax.set_mesh(mesh):
            found = apply(model, sharded, placed_BL)
            # A batch that the mesh does not divide still runs.
            odd = apply(model, sharded, tokens_BL[:3])
        np.testing.assert_allclose(odd, expected[:3], atol=2e-5)
    else:
        found = apply(model, sharded, placed_BL)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.max(np.abs(found - expected[::-1])) > 1e-2


def _assert_sharded(leaf, wanted):
    assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)


def test_a_window_shorter_than_the_text_is_seen_in_every_path(tokens_BL, apply):
    config = LlamaConfig(128, 64, 96, 1, 4, 2, 16, 64, 1e-5, sliding_window=4)
    model = Llama(config)
    params = jax.jit(model.init)(jax.random.key(0), tokens_BL)["params"]
    changed_BL = tokens_BL.copy()
    changed_BL[:, 5] += 1
    ones_BL = np.ones_like(tokens_BL)
    positions_BL = np.broadcast_to(np.arange(24, dtype=np.int32), (2, 24))
    for extra in (
        (),
        (None, ones_BL),
        (positions_BL, ones_BL, init_cache(config, 2, 24)),
    ):
        difference = apply(model, params, tokens_BL, *extra) - apply(
            model, params, changed_BL, *extra
        )
        # With one layer, token 5 is seen from 5 to 8 and nowhere else.
        seen_L = np.any(np.abs(difference) > 1e-6, axis=(0, 2))
        assert np.flatnonzero(seen_L).tolist() == [5, 6, 7, 8]
    target_positions_BT = jnp.asarray(np.broadcast_to(np.arange(2, 12, dtype=np.int32), (2, 10)))
    unrolled = model.clone(unroll=True)
    before, after = (
        unrolled.apply(
            {"params": params}, tokens, target_positions_BT=target_positions_BT, method="hidden"
        )[0]
        for tokens in (tokens_BL, changed_BL)
    )
    seen_T = np.any(np.abs(before - after) > 1e-6, axis=(0, 2))
    assert (2 + np.flatnonzero(seen_T)).tolist() == [5, 6, 7, 8]
