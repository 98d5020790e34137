import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tera_jax.ops import segment_attention
from train import data
from train.config import DataConfig, parse
from train.data import Example, packing, records
from train.data.packing import Row, Size
from train.training import run as runs
from train.training import step as steps
from train.training.checkpoint import Checkpoints
from train.training.loop import fit, held_out_loss, to_device

CONFIG = DataConfig(path="x", max_prompt=30, max_response=6, packed_tokens=36)
ROWS = 4


def examples(count=60, virtual=0):
    """Of unlike lengths; the tokens of number i are all i."""
    rng = np.random.default_rng(0)
    sizes = zip(rng.integers(2, 15, count), rng.integers(0, 7, count), strict=True)
    return [Example([i] * int(p + virtual), [i] * int(r)) for i, (p, r) in enumerate(sizes, 1)]


def stream(position=0, config=CONFIG, seed=0):
    return data.Stream(examples(), ROWS, seed, config, position)


def segment_ids(batch):
    return np.asarray(segment_attention.segment_ids(batch.lengths_BM, batch.tokens_BL.shape[1]))


def fed(batch):
    """The number of each record of a batch, row by row."""
    pairs = [
        (row, segment, token)
        for row, (segments, tokens) in enumerate(
            zip(segment_ids(batch).tolist(), batch.tokens_BL.tolist(), strict=True)
        )
        for segment, token in zip(segments, tokens, strict=True)
        if segment
    ]
    return [token for _, _, token in sorted(set(pairs))]


def test_records_go_to_the_first_row_with_room_and_in_order():
    sizes = [(6, 1), (5, 1), (4, 1), (3, 1), (7, 1), (1, 1)]
    assert list(packing.batches(sizes, 2, Row(10, 8, 9))) == [[0, 1, 0, 1], [0, 0]]
    assert list(packing.batches(sizes, 2, Row(10, 1, 9))) == [[0, 1], [0, 1], [0, 1]]
    assert list(packing.batches(sizes, 2, Row(10, 8, 1))) == [[0, 1], [0, 1], [0, 1]]
    assert list(packing.batches([], 2, Row(10, 8, 9))) == []


def test_rows_are_filled_from_the_next_records():
    row = Row(10, 8, 9)
    sizes = [Size(tokens, 1) for tokens in (6, 5, 4, 3, 2)]
    assert packing.order(sizes, row) == [0, 2, 1, 3, 4]
    assert packing.order(sizes, row._replace(targets=2)) == [0, 2, 1, 3, 4]
    assert packing.order(sizes, row._replace(targets=1)) == [0, 1, 2, 3, 4]
    assert packing.order(sizes, row._replace(records=1)) == [0, 1, 2, 3, 4]
    assert packing.order([], row) == []


def test_the_order_of_packing_fills_more_and_stays_near_the_given_one(monkeypatch):
    random = np.random.default_rng(0)
    sizes = [Size(int(tokens), 1) for tokens in 20 + random.gamma(2, 50, 4000).clip(0, 400)]
    row = packing.limits(sizes, 512, 8)

    def filled(order):
        batches = list(packing.batches((sizes[i] for i in order), ROWS, row))
        return sum(size.tokens for size in sizes) / (len(batches) * ROWS * row.tokens)

    order = packing.order(sizes, row)
    assert sorted(order) == list(range(4000))
    # Each comes after all but 128 of those before it.
    early = [number - place for place, number in enumerate(order)]
    assert 64 < max(early) < packing._AHEAD
    assert filled(order) > 0.98 > 0.94 > filled(range(4000))
    monkeypatch.setattr(packing, "_AHEAD", 1)
    assert packing.order(sizes, row) == list(range(4000))


def test_targets_and_records_of_a_row_are_their_share_and_half_as_much_again():
    sizes = [Size(30, 3), Size(10, 1)]
    assert packing.limits(sizes, 100, 4) == (100, 16, 8)
    assert packing.limits(sizes, 100, 20) == (100, 20, 8)
    assert packing.limits(sizes, 100, 200) == (100, 100, 8)
    assert packing.limits([Size(30, 15)], 100, 4) == (100, 80, 5)


def test_a_record_that_no_row_holds_is_refused():
    with pytest.raises(ValueError, match=r"record 1 has 11 tokens and 1 targets, .* holds 10 and"):
        packing.limits([Size(10, 1), Size(11, 1)], 10, 8)
    with pytest.raises(ValueError, match=r"record 0 has 10 tokens and 9 targets, .* 10 and 8"):
        packing.limits([Size(10, 9), *[Size(10, 0)] * 9], 10, 8)
    with pytest.raises(ValueError, match="0 records have no tokens to pack"):
        packing.limits([], 10, 8)


def test_a_row_holds_records_one_after_the_other():
    rows = [Example([5, 6, 7], [8, 9]), Example([4, 4], [3]), Example([2], [1, 1])]
    config = dataclasses.replace(CONFIG, max_prompt=6, max_response=3, packed_tokens=9)
    (batch,) = data.held_out(rows, 2, config)
    assert batch.tokens_BL.tolist() == [[5, 6, 7, 8, 9, 4, 4, 3, 0], [2, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert segment_ids(batch).tolist() == [[1] * 5 + [2] * 3 + [0], [1] * 3 + [0] * 6]
    assert batch.lengths_BM.tolist() == [[5, 3, 0, 0], [3, 0, 0, 0]]
    assert batch.index_BT[:, :4].tolist() == [[2, 3, 6, 0], [0, 1, 0, 0]]
    assert batch.target_BT[:, :4].tolist() == [[8, 9, 3, 0], [1, 1, 0, 0]]
    assert batch.weight_BT[:, :4].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch.weight_BT[:, 4:].sum() == 0
    assert data.num_tokens(batch) == 11


@pytest.mark.parametrize(("loss_on", "virtual"), [("response", 0), ("prompt", 0), ("prompt", 2)])
def test_no_token_is_predicted_from_another_record(loss_on, virtual):
    config = dataclasses.replace(CONFIG, loss_on=loss_on)
    rows = examples(virtual=virtual)
    count = 0
    for batch in data.held_out(rows, ROWS, config, virtual):
        for row, place in np.argwhere(batch.weight_BT):
            index = batch.index_BT[row, place]
            segments = segment_ids(batch)[row, index : index + 2]
            assert segments[0] == segments[1] != 0
            assert batch.tokens_BL[row, index + 1] == batch.target_BT[row, place]
            count += 1
    first = max(1, virtual)
    on_response = sum(len(response) for _, response in rows)
    on_both = sum(len(prompt) + len(response) - first for prompt, response in rows)
    assert count == (on_response if loss_on == "response" else on_both)


def test_every_record_comes_once_an_epoch_in_a_new_order():
    feed, counts = stream(), collections.Counter()
    while feed.position < 200:
        counts.update(fed(next(feed)))
        assert counts.total() == feed.position
        epoch = feed.position // 60
        assert {counts[number] for number in range(1, 61)} <= {epoch, epoch + 1}
    (one, other), (again,) = itertools.islice(stream(), 2), itertools.islice(stream(), 1)
    assert fed(one) == fed(again) != fed(other)
    assert fed(one) != fed(next(stream(seed=1)))
    assert fed(one) != fed(next(stream(position=60)))


@pytest.mark.parametrize("loss_on", ["response", "prompt"])
def test_no_row_holds_more_than_its_tokens_and_targets(loss_on):
    config = dataclasses.replace(CONFIG, loss_on=loss_on)
    batches = list(itertools.islice(stream(config=config), 20))
    assert len({jax.tree.map(np.shape, batch) for batch in batches}) == 1
    shape_BL, shape_BT = batches[0].tokens_BL.shape, batches[0].index_BT.shape
    assert shape_BL == (ROWS, 36)
    assert shape_BT == ((ROWS, 36) if loss_on == "prompt" else (ROWS, 16))
    for batch in batches:
        for place in range(ROWS):
            row = jax.tree.map(lambda array, place=place: array[[place]], batch)
            held = [examples()[number - 1] for number in fed(row)]
            tokens = sum(len(prompt) + len(response) for prompt, response in held)
            assert tokens == row.lengths_BM.sum() <= shape_BL[1]
            targets = sum(len(response) for _, response in held)
            targets = tokens - len(held) if loss_on == "prompt" else targets
            assert targets == row.weight_BT.sum() <= shape_BT[1]


def test_tokens_are_counted_without_padding():
    batches = list(itertools.islice(stream(), 8))
    for batch in batches:
        held = [examples()[number - 1] for number in fed(batch)]
        assert data.num_tokens(batch) == sum(len(p) + len(r) for p, r in held)
        held = [example for example in held if example.response]
        padded = data.collate(held, CONFIG)
        assert data.num_tokens(padded) == sum(len(p) + len(r) for p, r in held)
    assert any(data.num_tokens(batch) < batch.tokens_BL.size for batch in batches)


def test_a_stream_goes_on_from_any_position_with_the_same_batches():
    feed = stream()
    batches = [(feed.position, next(feed)) for _ in range(24)]
    assert feed.position > 3 * 60
    for number, (position, _) in enumerate(batches):
        resumed = stream(position)
        for _, batch in batches[number : number + 3]:
            assert same(next(resumed), batch)
        assert not same(next(stream(position + 1)), batches[number][1])


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def test_steps_cover_the_epochs_and_no_more():
    feed = stream()
    for number in range(1, 25):
        next(feed)
        assert stream().num_steps((feed.position - 0.5) / 60) == number
        assert stream().num_steps((feed.position + 0.5) / 60) == number + 1
    assert feed.position > 3 * 60
    assert {stream(position).num_steps(2.0) for position in range(60)} == {stream().num_steps(2.0)}
    assert stream().num_steps(2.0) < 2 * 60 / ROWS


@pytest.fixture
def build(tiny_config):
    """A run, its tokenised records and its first ``d``."""

    def make(method="tera", mesh=None, **loop):
        config = tiny_config
        if method != "tera":
            config = config.copy_and_resolve_references().unlock()
            config.method = {"name": method, "targets": ("q_proj",), "num_virtual_tokens": 5}
        config.data.max_prompt = 120
        config.data.packed_tokens = 133
        config.mesh.update(mesh or {})
        config.loop.update(loop)
        parsed = parse(config)
        run = runs.build(parsed)
        parts = records.split(parsed.data)
        train, valid = (
            data.tokenize(part, run.tokenizer, parsed.data, run.virtual_tokens) for part in parts
        )
        return run, train, valid

    return make


@pytest.mark.parametrize("method", ["tera", "prompt"])
def test_packed_loss_and_gradient_are_the_padded_ones(build, method):
    run, train, _ = build(method)
    virtual = len(run.virtual_tokens)
    assert virtual == (5 if method == "prompt" else 0)
    padded = data.collate(train[:7], run.config.data, virtual)
    (several,) = data.held_out(train[:7], 3, run.config.data, virtual)
    assert (several.lengths_BM[:, 1] > 0).any()
    d = jax.tree.map(lambda v: v + 0.1, runs.start(run, 1)[0].d)

    @jax.jit
    def value_and_grad(d, batch):
        def nll(d):
            return steps.loss_sum(run.model, run.adapter, run.variables(d), batch).nll

        return jax.value_and_grad(nll)(d)

    expected, found = value_and_grad(d, padded), value_and_grad(d, several)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    close(found[1], expected[1])

    # The second record of a row sees the first.
    first_B1, second_B1, rest_BM = np.split(several.lengths_BM, [1, 2], axis=1)
    joined_BM = np.concatenate([first_B1 + second_B1, rest_BM, 0 * first_B1], axis=1)
    disturbed = value_and_grad(d, several._replace(lengths_BM=joined_BM))
    assert not np.isclose(disturbed[0], expected[0], rtol=1e-4)
    with pytest.raises(AssertionError):
        close(disturbed[1], expected[1])


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def trained(run, train):
    """Losses of the steps of one epoch, and how often the step was traced."""
    feed = data.Stream(train, run.config.loop.batch_size, 0, run.config.data)
    count = feed.num_steps(1.0)
    state, optimizer = runs.start(run, count)
    step = steps.make_train_step(run.model, run.adapter, optimizer, run.mesh, run.params, state)
    losses = []
    with jax.set_mesh(run.mesh):
        for _ in range(count):
            state, metrics = step(state, run.params, run.frozen, to_device(next(feed), run))
            losses.append(float(metrics.loss))
    return losses, step._cache_size()


def test_an_epoch_is_traced_once_and_rows_may_be_sharded(build):
    run, train, _ = build()
    one, traces = trained(run, train)
    assert traces == 1
    assert len(one) < len(train) / 8 / 2
    assert one[-1] < one[0] - 0.5
    run, train, _ = build(mesh={"data": 2, "fsdp": 2, "tensor": 2})
    many, traces = trained(run, train)
    assert traces == 1
    np.testing.assert_allclose(many, one, rtol=2e-5)
    other, _ = trained(run, train[1:])
    assert not np.allclose(other[:3], one[:3], rtol=2e-5)


def test_a_fit_feeds_its_epochs_and_the_held_out_loss_is_the_padded_one(build, tmp_path):
    run, train, valid = build(steps=None, epochs=1.5)
    with jax.set_mesh(run.mesh):
        fit(run, tmp_path, train, valid)
        with Checkpoints(tmp_path) as checkpoints:
            last = checkpoints.latest
            like, _ = runs.start(run, 1)
            state, meta = checkpoints.restore(last, like, run.meta)
            packed_loss = checkpoints.loss(last)
        assert last == data.Stream(train, 8, 0, run.config.data).num_steps(1.5)
        assert len(train) * 1.5 <= meta.position < len(train) * 1.5 + 8 * 4
        padding = dataclasses.replace(run.config.data, packed_tokens=None)
        padded = run._replace(config=dataclasses.replace(run.config, data=padding))
        eval_step = steps.make_eval_step(run.model, run.adapter, run.mesh, run.params)
        loss = held_out_loss(padded, eval_step, state.d, valid)
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    assert loss > 0.01
