import numpy as np

from tests.train.data.words import Words
from train import data
from train.config import DataConfig
from train.data import Example

CONFIG = DataConfig(path="x", max_prompt=6, max_response=3)


def test_prompts_lose_their_beginning_and_responses_their_end():
    config = DataConfig(path="x", max_prompt=4, max_response=2, bos="always", append_eos=True)
    records = [{"instruction": "aa bbb", "output": "c dd eee"}]
    (example,) = data.tokenize(records, Words(), config)
    assert example.prompt == [1, 3, 3, len("Response:")]  # "... aa bbb ### Response:"
    assert example.response == [1, 2]
    config = DataConfig(path="x", max_prompt=4, max_response=4, append_eos=True)
    (example,) = data.tokenize(records, Words(), config)
    assert example.response == [1, 2, 3, 2]
    assert example.prompt == [2, 3, 3, len("Response:")]


def test_a_row_loses_its_end_where_prompt_and_response_are_too_long_together():
    config = DataConfig(path="x", max_prompt=5, max_response=4, max_tokens=6, append_eos=True)
    records = [{"instruction": "a bb", "output": "ccc dddd eeeee"}]
    (example,) = data.tokenize(records, Words(), config, virtual=(90, 91))
    assert example.prompt == [90, 91, 12, 1, 2, 3, len("Response:")]  # "Instruction: a bb ###"
    assert example.response == [3]
    batch = data.collate([example], config, virtual=2)
    assert batch.tokens_BL.shape == (1, 8)
    assert batch.weight_BT.sum() == 1
    config = DataConfig(path="x", max_prompt=5, max_response=4, max_tokens=3)
    (example,) = data.tokenize(records, Words(), config)
    assert example.prompt == [12, 1, 2]
    assert example.response == []
    assert data.collate([example], config).weight_BT.sum() == 0


def test_the_loss_reads_the_state_before_each_response_token():
    batch = data.collate([Example.of([5, 6, 7], [8, 9]), Example.of([4], [3, 2, 1])], CONFIG)
    assert batch.tokens_BL.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0, 0], [4, 3, 2, 1, 0, 0, 0, 0, 0]]
    assert batch.target_positions_BT.tolist() == [[2, 3, 0], [0, 1, 2]]
    assert batch.target_BT.tolist() == [[8, 9, 0], [3, 2, 1]]
    assert batch.weight_BT.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert data.num_tokens(batch) == 5 + 4


def test_the_loss_may_be_on_the_prompt_too():
    config = DataConfig(path="x", max_prompt=3, max_response=2, train_on_prompt=True)
    batch = data.collate([Example.of([5, 6, 7], [8])], config)
    assert batch.target_positions_BT.tolist() == [[0, 1, 2, 0]]
    assert batch.target_BT.tolist() == [[6, 7, 8, 0]]
    assert batch.weight_BT.tolist() == [[1, 1, 1, 0]]


def stream(seed=0, position=0, examples=10):
    rows = [Example.of([i + 1], [i + 1]) for i in range(examples)]
    return data.DataIterator(rows, 4, seed, CONFIG, position)


def firsts(batch):
    return batch.tokens_BL[:, 0].tolist()


def test_every_example_comes_once_an_epoch_in_a_new_order():
    feed = stream()
    seen = [row for _ in range(5) for row in firsts(next(feed))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(1, 11))
    assert seen[:10] != seen[10:]
    assert seen[:4] != firsts(next(stream(seed=1)))


def test_a_stream_goes_on_from_its_position():
    feed = stream()
    for _ in range(4):
        next(feed)
    resumed = stream(position=feed.position)
    assert firsts(next(resumed)) == firsts(next(feed))
    assert firsts(next(stream())) != firsts(next(stream(position=4)))


def test_steps_cover_the_epochs():
    assert stream().num_steps(1.0) == 3
    assert stream().num_steps(2.0) == 5


def test_the_last_held_out_batch_is_filled_with_rows_of_no_weight():
    rows = [Example.of([i + 1], [i + 1]) for i in range(6)]
    batches = list(data.held_out(rows, 4, CONFIG))
    assert [batch.tokens_BL.shape for batch in batches] == [(4, 9), (4, 9)]
    assert np.sum([batch.weight_BT.sum() for batch in batches]) == 6
