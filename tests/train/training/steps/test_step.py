import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax.fingerprint import fingerprint
from tera_jax.network import cost_model
from tests.margins import roundings
from tests.marks import quick_only
from train import data
from train.config import default, parse
from train.data import records
from train.training import run as runs
from train.training.loop import fit, held_out_loss, to_device
from train.training.steps import loss
from train.training.steps import step as steps


@functools.cache
def built(config):
    """A run, its training examples and those that are held out: loaded once for all tests."""
    run = runs.build(config)
    parts = records.split(config.data)
    return run, *(data.tokenize(part, run.tokenizer, config.data) for part in parts)


@pytest.fixture
def parts(tiny_config):
    """A run on a mesh, its training examples, its state and its jitted step."""

    def make(**mesh):
        tiny_config.mesh.update(mesh)
        run, examples, held_out = built(parse(tiny_config))
        state, optimizer = runs.init_train_state(run, run.config.loop.steps)
        step = steps.make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
        return run, state, step, examples, held_out

    return make


def train(run, state, step, examples, count):
    stream = data.DataIterator(examples, run.config.loop.batch_size, 0, run.config.data)
    losses = []
    with jax.set_mesh(run.mesh):
        for _ in range(count):
            batch = to_device(next(stream), run)
            state, metrics = step(state, run.params, run.frozen, batch)
            losses.append(float(metrics.loss))
    return state, losses


def test_training_changes_d_and_nothing_else(parts):
    run, state, step, examples, _ = parts()
    before = fingerprint(run.params), fingerprint(run.frozen), fingerprint(state.d)
    state, losses = train(run, state, step, examples, 12)
    after = fingerprint(run.params), fingerprint(run.frozen), fingerprint(state.d)
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert losses[-1] < losses[0] - 0.5
    assert int(state.step) == 12
    assert step._cache_size() == 1  # one trace serves every step


@pytest.mark.parametrize(
    "mesh",
    quick_only(
        [{"data": 2, "fsdp": 2, "tensor": 2}],
        [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}, {"fsdp": 4, "tensor": 2}],
    ),
)
def test_a_sharded_run_equals_one_device(parts, mesh):
    one_run, state, step, examples, _ = parts()
    one, one_losses = train(one_run, state, step, examples, 6)
    run, state, step, examples, _ = parts(**mesh)
    assert run.mesh.size == 8
    kernel = run.params["layers"]["self_attn"]["q_proj"]["kernel"]
    shards = run.mesh.shape["fsdp"] * run.mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size == kernel.size // shards
    many, losses = train(run, state, step, examples, 6)
    np.testing.assert_allclose(losses, one_losses, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(many.d), jax.tree.leaves(one.d), strict=True):
        assert a.sharding.is_fully_replicated
        np.testing.assert_allclose(a, b, atol=5e-4)
    assert step._cache_size() == 1
    _, other = train(run, *_restart(run), examples[1:], 6)
    assert not np.allclose(other, one_losses, rtol=2e-5)


def _restart(run):
    state, optimizer = runs.init_train_state(run, run.config.loop.steps)
    return state, steps.make_train_step(
        run.model, run.adapter, optimizer, run.mesh, run.params, state
    )


def test_the_loss_is_the_mean_over_target_tokens_of_all_rows(parts):
    """Against log-probabilities of the whole logits, summed by hand."""
    run, state, _, examples, _ = parts()
    batch = data.collate(examples[:8], run.config.data)
    variables = run.variables(jax.tree.map(lambda v: v + 0.1, state.d))
    nll, tokens = loss.loss_sum(run.model, run.adapter, variables, batch)
    logits_BLV, _ = run.adapter.apply(run.model, variables, batch.tokens_BL)
    logp_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
    expected, count = 0.0, 0
    for row, example in enumerate(examples[:8]):
        for offset, token in enumerate(example.response):
            expected -= logp_BLV[row, len(example.prompt) + offset - 1, token]
            count += 1
    assert int(tokens) == count
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_chunks_of_the_logits_do_not_change_loss_or_gradient(parts, monkeypatch):
    run, state, _, examples, _ = parts()
    batch = data.collate(examples[:8], run.config.data)
    d = jax.tree.map(lambda v: v + 0.1, state.d)

    def value_and_grad():
        def nll(d):
            return loss.loss_sum(run.model, run.adapter, run.variables(d), batch).nll

        return jax.jit(jax.value_and_grad(nll))(d)

    whole = value_and_grad()
    monkeypatch.setattr(loss, "_LOGITS_AT_ONCE", 3 * 8 * run.model.config.vocab_size)
    chunked = value_and_grad()
    for a, b in zip(*map(jax.tree.leaves, (whole, chunked)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_held_out_loss_does_not_depend_on_the_batch_size(parts, tiny_config):
    losses = []
    for size in (4, 7):
        tiny_config.evaluate.batch_size = size
        run, state, _, _, held_out = parts()
        eval_step = steps.make_eval_step(run.model, run.adapter, run.mesh, run.params)
        losses.append(held_out_loss(run, eval_step, state.d, held_out))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_a_held_out_set_of_nothing_is_one_error(parts, tmp_path):
    run, state, _, examples, _ = parts()
    eval_step = steps.make_eval_step(run.model, run.adapter, run.mesh, run.params)
    without = [data.Example.of(example.prompt, []) for example in examples[:3]]
    for valid, message in (
        ([], "there are no held-out records"),
        (without, "none of the 3 held-out records has a token for the loss"),
    ):
        with pytest.raises(ValueError, match=message):
            held_out_loss(run, eval_step, state.d, valid)
        with pytest.raises(ValueError, match=message):
            fit(run, tmp_path, examples, valid)
    with pytest.raises(ValueError, match="there are no training records"):
        fit(run, tmp_path, [], without)


@pytest.mark.parametrize(
    ("method", "ahead", "mesh"),
    quick_only(
        [("tera", True, {"data": 2, "fsdp": 2})],
        [("tera", True, {"data": 2, "fsdp": 2}), ("tera", False, {}), ("lora", False, {})],
        names=3,
    ),
)
def test_a_batch_in_parts_takes_the_same_steps(tiny_config, monkeypatch, method, ahead, mesh):
    """Whether a method builds kernels ahead of the parts or not."""
    monkeypatch.setattr(cost_model, "route", lambda *_: "build" if ahead else "through")
    tiny_config.method = {**default(method).method.to_dict(), "targets": ("q_proj", "v_proj")}
    tiny_config.mesh.update(mesh)
    run = runs.build(parse(tiny_config))
    train, _ = records.split(run.config.data)
    examples = data.tokenize(train, run.tokenizer, run.config.data)

    def after(grad_accum_steps):
        state, optimizer = runs.init_train_state(run, 4)
        base = (run.model, run.adapter, optimizer, run.mesh, run.params, state)
        step = steps.make_train_step(*base, grad_accum_steps=grad_accum_steps)
        stream = data.DataIterator(examples, 8, 0, run.config.data)
        with jax.set_mesh(run.mesh):
            for _ in range(3):
                state, metrics = step(state, run.params, run.frozen, to_device(next(stream), run))
        return jax.device_get((state.d, metrics))

    whole, parts = after(1), after(2)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    start = jax.device_get(runs.init_d(run))
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (whole[0], start)), strict=True)
    ]
    assert max(moved) > 1e-3


def test_built_kernels_serve_all_parts_of_a_batch(tiny_config, monkeypatch):
    monkeypatch.setattr(cost_model, "route", lambda *_: "build")
    run = runs.build(parse(tiny_config))
    train, _ = records.split(run.config.data)
    examples = data.tokenize(train, run.tokenizer, run.config.data)
    batch = data.collate(examples[:8], run.config.data)
    d = jax.tree.map(lambda v: v + 0.1, runs.init_d(run))
    variables = run.variables(d)
    built = run.adapter.materialize(variables, batch.tokens_BL.size)
    assert len(jax.tree.leaves(built)) == len(run.adapter.layers)
    nlls = [
        float(loss.loss_sum(run.model, run.adapter, given, batch, materialized=kernels).nll)
        for given, kernels in (
            (variables, None),
            (variables, built),
            (run.variables(jax.tree.map(jnp.zeros_like, d)), built),  # d is in the kernels
            (variables, jax.tree.map(lambda leaf: 0.9 * leaf, built)),
        )
    ]
    np.testing.assert_allclose(nlls[1:3], nlls[0], rtol=1e-5)
    assert abs(nlls[3] / nlls[0] - 1) > 1e-4


def test_states_are_not_picked_where_most_have_a_target(tiny_config, monkeypatch):
    tiny_config.data.update(train_on_prompt=True, max_prompt=40, max_response=8)
    run = runs.build(parse(tiny_config))
    train, _ = records.split(run.config.data)
    examples = data.tokenize(train, run.tokenizer, run.config.data)
    batch = data.collate(examples[:8], run.config.data)
    assert (batch.weight_BT == 0).any()
    assert batch.target_positions_BT[0, 0] == 0  # shared with the filling
    d = jax.tree.map(lambda v: v + 0.1, runs.init_d(run))

    def value_and_grad(batch):
        def nll(d):
            return loss.loss_sum(run.model, run.adapter, run.variables(d), batch).nll

        return jax.jit(jax.value_and_grad(nll))(d)

    dense = value_and_grad(batch)
    # Twice as long a row has few targets for its length, and they are picked.
    wide = batch._replace(tokens_BL=np.pad(batch.tokens_BL, ((0, 0), (0, 48))))
    picked = value_and_grad(wide)
    # Sums over the targets, and over the widths of seven products a layer, there and back.
    model = run.model.config
    bound = roundings("float32", batch.weight_BT.sum() + 14 * model.num_layers * model.hidden_size)
    for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(picked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=bound * np.abs(b).max())
    fewer = value_and_grad(batch._replace(weight_BT=batch.weight_BT * (np.arange(47) != 3)))
    assert abs(fewer[0] / dense[0] - 1) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "products"), [("tera", 2), ("full", 4)])
def test_logits_are_made_once_where_the_head_is_frozen(tiny_config, method, products, dtype):
    """A product with the head forward and one back; a trained one again, and its own gradient."""
    tiny_config.model.dtype = dtype
    if method == "full":
        tiny_config.method = {"name": "full", "targets": ("q_proj",)}
    run = runs.build(parse(tiny_config))
    train, _ = records.split(run.config.data)
    examples = data.tokenize(train, run.tokenizer, run.config.data)
    batch = data.collate(examples[:8], run.config.data)
    d = runs.init_d(run)

    def nll(d):
        return loss.loss_sum(run.model, run.adapter, run.variables(d), batch).nll

    vocab = run.model.config.vocab_size
    made = [
        eqn
        for eqn in equations(jax.make_jaxpr(jax.value_and_grad(nll))(d).jaxpr)
        if eqn.primitive.name == "dot_general"
        and any(vocab in v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    ]
    assert len(made) == products


def equations(jaxpr):
    """Those of inner functions included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
