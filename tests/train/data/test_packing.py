import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tera_jax.ops import segment_attention
from train import data
from train.config import DataConfig
from train.data import Example, packing
from train.data.packing import Row, Size

CONFIG = DataConfig(path="x", max_prompt=30, max_response=6, packed_length=36)
ROWS = 4


def examples(count=60, virtual=0):
    """Of unlike lengths; the tokens of number i are all i."""
    rng = np.random.default_rng(0)
    sizes = zip(rng.integers(2, 15, count), rng.integers(0, 7, count), strict=True)
    return [Example.of([i] * int(p + virtual), [i] * int(r)) for i, (p, r) in enumerate(sizes, 1)]


def stream(position=0, config=CONFIG, seed=0):
    return data.DataIterator(examples(), ROWS, seed, config, position)


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
    rows = [
        Example.of([5, 6, 7], [8, 9]),
        Example.of([4, 4], [3]),
        Example.of([2], [1, 1]),
    ]
    config = dataclasses.replace(CONFIG, max_prompt=6, max_response=3, packed_length=9)
    (batch,) = data.held_out(rows, 2, config)
    assert batch.tokens_BL.tolist() == [[5, 6, 7, 8, 9, 4, 4, 3, 0], [2, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert segment_ids(batch).tolist() == [[1] * 5 + [2] * 3 + [0], [1] * 3 + [0] * 6]
    assert batch.lengths_BM.tolist() == [[5, 3, 0, 0], [3, 0, 0, 0]]
    assert batch.target_positions_BT[:, :4].tolist() == [[2, 3, 6, 0], [0, 1, 0, 0]]
    assert batch.target_BT[:, :4].tolist() == [[8, 9, 3, 0], [1, 1, 0, 0]]
    assert batch.weight_BT[:, :4].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch.weight_BT[:, 4:].sum() == 0
    assert data.num_tokens(batch) == 11


@pytest.mark.parametrize(("train_on_prompt", "virtual"), [(False, 0), (True, 0), (True, 2)])
def test_no_token_is_predicted_from_another_record(train_on_prompt, virtual):
    config = dataclasses.replace(CONFIG, train_on_prompt=train_on_prompt)
    rows = examples(virtual=virtual)
    count = 0
    for batch in data.held_out(rows, ROWS, config, virtual):
        for row, place in np.argwhere(batch.weight_BT):
            position = batch.target_positions_BT[row, place]
            segments = segment_ids(batch)[row, position : position + 2]
            assert segments[0] == segments[1] != 0
            assert batch.tokens_BL[row, position + 1] == batch.target_BT[row, place]
            count += 1
    first = max(1, virtual)
    on_response = sum(sum(example.mask) for example in rows)
    on_both = sum(len(example.ids) - first for example in rows)
    assert count == (on_both if train_on_prompt else on_response)


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


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_no_row_holds_more_than_its_tokens_and_targets(train_on_prompt):
    config = dataclasses.replace(CONFIG, train_on_prompt=train_on_prompt)
    batches = list(itertools.islice(stream(config=config), 20))
    assert len({jax.tree.map(np.shape, batch) for batch in batches}) == 1
    shape_BL, shape_BT = batches[0].tokens_BL.shape, batches[0].target_positions_BT.shape
    assert shape_BL == (ROWS, 36)
    assert shape_BT == ((ROWS, 36) if train_on_prompt else (ROWS, 16))
    for batch in batches:
        for place in range(ROWS):
            row = jax.tree.map(lambda array, place=place: array[[place]], batch)
            held = [examples()[number - 1] for number in fed(row)]
            tokens = sum(len(example.ids) for example in held)
            assert tokens == row.lengths_BM.sum() <= shape_BL[1]
            targets = sum(sum(example.mask) for example in held)
            targets = tokens - len(held) if train_on_prompt else targets
            assert targets == row.weight_BT.sum() <= shape_BT[1]


def test_tokens_are_counted_without_padding():
    batches = list(itertools.islice(stream(), 8))
    for batch in batches:
        held = [examples()[number - 1] for number in fed(batch)]
        assert data.num_tokens(batch) == sum(len(example.ids) for example in held)
        held = [example for example in held if example.response]
        padded = data.collate(held, CONFIG)
        assert data.num_tokens(padded) == sum(len(example.ids) for example in held)
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
