"""cuDNN runs on a GPU alone: here a stand-in does what JAX's documentation of it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import sharding
from tera_jax.llama import Llama, LlamaConfig
from tera_jax.llama.model import REMAT
from tera_jax.ops import dispatch, segment_attention
from tests.margins import roundings
from tests.marks import quick_only
from tests.parts import SMALL

LENGTHS_BM = np.asarray([[5, 3, 0], [2, 9, 1], [12, 0, 0]], np.int32)
ROWS, LENGTH = len(LENGTHS_BM), 12
CONFIG = LlamaConfig.from_hf(SMALL)


def stand_in(query, key, value, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type):
    """Each segment by itself; what is in none is no number."""
    assert mask_type is segment_attention._cudnn.MaskType.CAUSAL
    assert query.shape == key.shape == value.shape
    assert q_offsets.shape[1] == q_seqlen.shape[1] + 1
    start_BS1, size_BS1 = q_offsets[:, :-1, None], q_seqlen[:, :, None]
    place_11L = jnp.arange(query.shape[1])[None, None]
    inside = (place_11L >= start_BS1) & (place_11L < start_BS1 + size_BS1) & (size_BS1 > 0)
    same = jnp.any(inside[..., :, None] & inside[..., None, :], axis=1)
    same &= place_11L.mT >= place_11L
    scores = jnp.einsum("blnh,bsnh->bnls", query, key, preferred_element_type=jnp.float32) * scale
    shares = jax.nn.softmax(jnp.where(same[:, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bnls,bsnh->blnh", shares.astype(value.dtype), value)
    assert q_seqlen is kv_seqlen
    assert q_offsets is kv_offsets
    return jnp.where(jnp.any(inside, axis=1)[..., None, None], out, jnp.nan)


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(segment_attention._cudnn, "dot_product_attention", stand_in)
    monkeypatch.setattr(segment_attention, "supported", lambda *_: True)
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)


def segment_ids():
    ids_BL = np.zeros((ROWS, LENGTH), np.int32)
    for row, lengths in enumerate(LENGTHS_BM):
        ids_BL[row, : lengths.sum()] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    return ids_BL


def test_segments_are_numbered_from_one():
    found = segment_attention.segment_ids(LENGTHS_BM, LENGTH)
    assert found.dtype == jnp.int32
    assert found.tolist() == segment_ids().tolist()


def test_the_rest_of_a_row_is_a_segment_too():
    start_BN, size_BS = segment_attention.segments(jnp.asarray(LENGTHS_BM), LENGTH)
    assert size_BS.tolist() == [[5, 3, -1, 4], [2, 9, 1, -1], [12, -1, -1, -1]]
    assert start_BN.tolist() == [[0, 5, -1, 8, -1], [0, 2, 11, -1, -1], [0, -1, -1, -1, -1]]


@pytest.mark.parametrize("kv_heads", quick_only([2], [4, 2]))
def test_segments_do_what_their_mask_does(kv_heads, on_gpu):
    shapes = [(ROWS, LENGTH, heads, 8) for heads in (4, kv_heads, kv_heads)]
    query, key, value = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
    ids_BL = segment_ids()
    mask = (ids_BL[:, :, None] == ids_BL[:, None, :])[:, None]

    def masked(*given):
        return jax.nn.dot_product_attention(*given, mask=mask, is_causal=True)

    def by_segment(*given):
        return segment_attention.attention(*given, jnp.asarray(LENGTHS_BM))

    found, expected = by_segment(query, key, value), masked(query, key, value)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    grads = [
        jax.grad(lambda *given, f=f: jnp.sum(jnp.sin(f(*given))), (0, 1, 2))(query, key, value)
        for f in (by_segment, masked)
    ]
    # Sums over places and over a head's entries.
    bound = roundings("float32", LENGTH + query.shape[-1])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=bound * np.abs(b).max())
    other = segment_attention.attention(query, key, value, jnp.asarray(LENGTHS_BM[:, ::-1]))
    assert not np.allclose(other, expected, atol=1e-2)


def test_a_model_takes_the_segments_where_they_are_supported(on_gpu, monkeypatch):
    model = Llama(CONFIG, dtype=jnp.bfloat16)
    tokens_BL = np.random.default_rng(0).integers(64, size=(ROWS, LENGTH))
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "on_gpu", lambda: False)
        params = model.init(jax.random.key(0), tokens_BL)["params"]

    def hidden():
        return jax.jit(
            lambda lengths_BM: model.apply(
                {"params": params}, tokens_BL, lengths_BM=lengths_BM, method="hidden"
            )[0].astype(jnp.float32)
        )(LENGTHS_BM)

    calls = []
    attention = segment_attention.attention
    monkeypatch.setattr(
        segment_attention, "attention", lambda *args: calls.append(0) or attention(*args)
    )
    found = hidden()
    assert (traced := len(calls))
    monkeypatch.setattr(dispatch, "on_gpu", lambda: False)
    expected = hidden()
    assert len(calls) == traced
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_what_is_not_supported_is_left_to_the_mask(monkeypatch):
    assert not segment_attention.supported(4, 128)  # a CPU
    monkeypatch.setattr(dispatch, "on_gpu", lambda: True)
    monkeypatch.setattr(dispatch, "compute_capability", lambda: 9.0)
    assert segment_attention.supported(4, 128)
    assert segment_attention.supported(31, 128)
    assert not segment_attention.supported(32, 128)
    monkeypatch.setattr(dispatch, "compute_capability", lambda: 8.0)
    assert not segment_attention.supported(4, 128)
    monkeypatch.setattr(dispatch, "compute_capability", lambda: 9.0)
    with jax.set_mesh(sharding.make_mesh(2, 1, 2)):
        assert segment_attention.supported(4, 128, rows=6, heads=2)
        assert not segment_attention.supported(4, 128, rows=3, heads=2)
        assert not segment_attention.supported(4, 128, rows=6, heads=1)
    with jax.set_mesh(jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,))):
        assert not segment_attention.supported(4, 128)


@pytest.mark.long
def test_on_a_mesh_each_device_has_its_rows_and_heads(on_gpu):
    shapes = [(2 * ROWS, LENGTH, heads, 8) for heads in (4, 2, 2)]
    given = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes)]
    lengths_BM = jnp.concatenate([LENGTHS_BM, LENGTHS_BM[:, ::-1]])

    def loss(*given):
        return jnp.sum(jnp.sin(segment_attention.attention(*given, lengths_BM)))

    step = jax.value_and_grad(loss, (0, 1, 2))
    expected = step(*given)
    with jax.set_mesh(mesh := sharding.make_mesh(1, 2, 2)):
        placed = jax.device_put(given, sharding.rows(mesh))
        assert "shard_map[" in str(jax.make_jaxpr(step)(*placed))
        found = jax.jit(step)(*placed)
    for mine, right in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-5)


def test_rematerialisation_keeps_it_on_a_mesh_as_on_one_device(monkeypatch):
    """Its forward pass is traced once, and so not computed again."""
    monkeypatch.setattr(segment_attention._cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(segment_attention._cudnn, "check_compute_capability", lambda *_: True)
    query = jnp.ones((2, 256, 2, 64), jnp.bfloat16)
    lengths_BM = jnp.full((2, 1), 100, jnp.int32)

    @functools.partial(jax.checkpoint, policy=REMAT["dots"])
    def loss(query):
        found = segment_attention.attention(query, query, query, lengths_BM)
        return jnp.sum(found.astype(jnp.float32))

    def count():
        with jax.numpy_dtype_promotion("standard"):
            text = str(jax.make_jaxpr(jax.grad(loss))(query))
        return [text.count(f"dot_product_attention_{way}") for way in ("fwd", "bwd")]

    with jax.set_mesh(sharding.make_mesh(2, 1, 2)):
        assert count() == [1, 1]


def test_a_gpu_is_told_of_the_segments(monkeypatch):
    """Lowered for one, as far as this goes without it."""
    monkeypatch.setattr(segment_attention._cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(
        segment_attention._cudnn, "check_compute_capability", lambda capability: True
    )
    x = jax.ShapeDtypeStruct((ROWS, 64, 4, 64), jnp.bfloat16)
    lengths = jax.ShapeDtypeStruct(LENGTHS_BM.shape, jnp.int32)

    def total(query, key, value, lengths_BM):
        out = segment_attention.attention(query, key, value, lengths_BM)
        return jnp.sum(out.astype(jnp.float32))

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(x, x, x, lengths)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(f"max_seg_per_batch\\22: {LENGTHS_BM.shape[1] + 1}") == 2  # and back
    assert "fmhaSoftmaxBackward" in text
