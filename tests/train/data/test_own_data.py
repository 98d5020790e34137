"""Data of one's own: bad records, whole rows, questions, the split and the recipe."""

import dataclasses
import json
import math

import pytest

from configs.sft import get_config
from tera_jax.methods import TABLE
from tests.train.data.cases import BOTH, BRIEF, KINDS, SECOND, TURNS, example
from tests.train.data.marked import SYSTEM, chat, ids_and_mask, tokenizer
from train import data
from train.config import DataConfig, parse
from train.data import formats, records
from train.evaluation import questions


def test_mixed_kinds_are_refused_by_row():
    rows = [{"instruction": "a", "output": "b"}] * 3 + [{"messages": TURNS}]
    for skip in (False, True):
        message = "record 3 of records is of kind messages, but those before it are of kind alpaca"
        with pytest.raises(ValueError, match=message):
            records.of_rows(rows, skip_bad_rows=skip)


def test_bad_records_are_counted_and_named_or_left_out():
    rows = [
        {"instruction": f"a{i}", "output": " " if i in (2, 5, 6, 8) else "b"} for i in range(10)
    ]
    message = (
        "record 2 of records has no text in field 'output'.*Of 10 records 4 cannot be used: next "
        "record 5 of records has .*; record 6 of .*config.data.skip_bad_rows=True leaves such"
    )
    with pytest.raises(ValueError, match=message):
        records.of_rows(rows)
    found = records.of_rows(rows, skip_bad_rows=True)
    assert found.records["instruction"][:] == ["a0", "a1", "a3", "a4", "a7", "a9"]
    assert found.dropped == 4
    assert found.skipped.startswith("records: 4 of 10 records are left out (config.data.skip_bad_")
    assert "record 6 of records has no text" in found.skipped
    assert found.skipped.endswith("; and 1 more")
    with pytest.raises(ValueError, match="no record can be used: records: 1 of 1 records are left"):
        records.of_rows(rows[2:3], skip_bad_rows=True)
    assert found.identity == records.of_rows([rows[i] for i in (0, 1, 3, 4, 7, 9)]).identity


def test_records_that_the_template_refuses_are_named_or_left_out(tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}{% if m['content'] == 'bad' %}{{ raise_exception('no bad') }}"
        "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    path = tmp_path / "r.jsonl"
    rows = [{"prompt": "bad" if i in (3, 17) else f"a{i}", "completion": "b"} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)))
    fields = {"prompt": "auto", "chat_template": str(template), "validation_rows": 10}
    config = DataConfig(str(path), **fields)
    with pytest.raises(ValueError, match=r"record (3|17) of .*r.jsonl is refused by .*: no bad"):
        data.prepare(config, tokenizer())
    found = data.prepare(DataConfig(str(path), skip_bad_rows=True, **fields), tokenizer())
    assert len(found.train) + len(found.held_out) == 28
    lines = "\n".join(found.lines)
    assert "record 3 of" in lines
    assert "record 17 of" in lines
    table = next(line for line in found.lines if "loss tokens" in line).splitlines()
    assert sum(int(row.split()[7]) for row in table[1:]) == 2


def test_questions_are_what_comes_before_the_answer():
    for name in ("messages", "conversations", "alpaca with system and history"):
        record, _ = KINDS[name]
        config = DataConfig("x", prompt="auto")
        rows = records.of_rows([record]).records
        (found,) = data.encode_prompts(rows, tokenizer(), config, (7, 8), inference=True)
        whole, mask = ids_and_mask(SECOND.replace(SYSTEM, BRIEF) if "system" in record else SECOND)
        assert found == [7, 8, *whole[: mask.index(1)]]
        assert formats.prompt_text(rows[0], config).endswith("user: And blue?")


def test_questions_of_a_test_set_need_no_output(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"instruction": "Is it red?", "answer": "true"}]))
    config = DataConfig("x", prompt="auto")
    (asked,) = questions.load(str(path), "boolq", config)
    assert asked.golds == ("true",)
    (found,) = data.encode_prompts([asked.record], tokenizer(), config, inference=True)
    text = chat("user: Is it red?") + "<|im_start|>assistant\n"
    assert found == ids_and_mask(text)[0]


def test_a_changed_template_is_another_identity(tmp_path):
    template = tmp_path / "t.jinja"
    config = DataConfig("x", prompt="auto", chat_template=str(template))
    found = []
    for text in ("a", "b"):
        template.write_text(text)
        found.append(records.identities({}, config)["config.data.chat_template"])
    assert found[0] != found[1]
    assert records.identities({}, DataConfig("x", prompt="auto")) == {}


def test_the_recipe_learns_whole_answers_and_their_end(tmp_path):
    """Of a plain Alpaca file with long answers, and of every method."""
    answer = " ".join(["the red cat saw one sun"] * 40)
    rows = [{"instruction": f"Say {i} of the sea.", "output": answer} for i in range(20)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps(rows))
    for method in TABLE:
        config = get_config(method)
        config.data.path, config.model.path = str(path), "-"
        assert parse(config).optim.schedule == "cosine"
    found = data.prepare(parse(config).data, tokenizer())
    assert found.train.cuts.responses == found.held_out.cuts.responses == 0
    assert (len(found.train), len(found.held_out)) == (18, 2)
    expected = {
        str(ids_and_mask(chat(f"user: {r['instruction']}", f"assistant!: {answer}"))) for r in rows
    }
    assert {str((one.ids, one.mask)) for one in (*found.train, *found.held_out)} == expected
    longest = max(len(one.ids) for one in found.train)
    with pytest.raises(
        ValueError, match=f"the longest record has {longest} tokens, but the model's"
    ):
        data.require_context(found.train, parse(config).data, longest - 1)
    data.require_context(found.train, parse(config).data, longest)
    with pytest.raises(ValueError, match=f"the longest record has {longest + 2:,} tokens"):
        data.require_context(found.train, parse(config).data, longest + 1, virtual=2)


def test_packed_rows_are_as_long_as_the_longest_record():
    rows = [KINDS["messages"][0], *[KINDS["prompt/completion"][0]] * 8]
    config = DataConfig("x", prompt="auto", packed_length=16)
    sets = [data.tokenize(records.of_rows([row]).records, tokenizer(), config)[0] for row in rows]
    whole = len(ids_and_mask(BOTH)[0])
    (batch, *_) = data.held_out(sets, 2, config)
    assert batch.tokens_BL.shape == (2, 8 * math.ceil(whole / 8))
    ids, mask = ids_and_mask(BOTH)
    assert batch.tokens_BL[0, :whole].tolist() == ids
    targets = batch.target_positions_BT[0][batch.weight_BT[0] > 0]
    assert targets.tolist()[: sum(mask)] == [i - 1 for i, m in enumerate(mask) if m]
    plain = data.collate(sets[:2], dataclasses.replace(config, packed_length=None))
    assert plain.lengths_BM is None
    assert plain.target_BT[0][plain.weight_BT[0] > 0].tolist() == [
        i for i, m in zip(ids, mask, strict=True) if m
    ]
    everything = data.collate(sets[:1], dataclasses.replace(config, packed_length=None, loss="all"))
    assert everything.weight_BT.sum() == whole - 1
    assert everything.target_BT[0][: whole - 1].tolist() == ids[1:]


def test_rows_are_whole_or_lose_their_end():
    long, short = KINDS["messages"][0], KINDS["prompt/completion"][0]
    ids, mask = ids_and_mask(BOTH)
    rows = records.of_rows([long]).records
    whole = data.tokenize(rows, tokenizer(), DataConfig("x", prompt="auto", max_prompt=1))
    assert whole[0] == (ids, mask)
    assert whole.cuts == (1, 0, 0, sum(mask), len(ids), 0)
    cut = data.tokenize(rows, tokenizer(), DataConfig("x", prompt="auto", max_tokens=len(ids) - 1))
    assert cut[0] == (ids[:-1], mask[:-1])
    assert cut.cuts[:3] == (1, 0, 1)
    ends = records.of_rows([{"messages": TURNS[:3]}]).records
    limit = DataConfig(
        "x",
        prompt="auto",
        max_tokens=len(data.tokenize(ends, tokenizer(), DataConfig("x", prompt="auto"))[0].ids) - 1,
    )
    assert data.tokenize(ends, tokenizer(), limit).cuts[:3] == (1, 1, 0)
    assert example(short) != example(long)


def test_too_many_cut_responses_name_the_limit_that_cuts_none(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps({"messages": TURNS}) for _ in range(20)))
    ids, _ = ids_and_mask(BOTH)
    config = DataConfig(str(path), prompt="auto", max_tokens=len(ids) - 1)
    with pytest.raises(
        ValueError, match=f"18 of 18 training .*set config.data.max_tokens={len(ids)}"
    ):
        data.prepare(config, tokenizer())
    whole = DataConfig(str(path), prompt="auto", max_tokens=len(ids))
    assert data.prepare(whole, tokenizer()).train.cuts.responses == 0


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (40, 4), (1300, 120)])
def test_a_tenth_is_held_out_but_no_more_than_120(count, held_out):
    rows = [{"instruction": f"a{i}", "output": "b"} for i in range(count)]
    given = {"config.data.path": records.of_rows(rows, "hira")}
    train, valid = records.split(DataConfig("x"), given)
    assert (len(train), len(valid)) == (count - held_out, held_out)
    same = records.split(DataConfig("x", validation_rows=held_out), given)[1]
    assert valid["instruction"][:] == same["instruction"][:]
