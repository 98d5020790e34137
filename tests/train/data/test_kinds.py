"""Each kind of records under ``auto`` and ``plain``: exact ids and masks, and what is refused."""

import copy
import dataclasses
import json
import math

import pytest
from tokenizers import processors

from configs.sft import get_config
from tera_jax.methods import TABLE
from tests.train.data.marked import SYSTEM, chat, ids_and_mask, tokenizer
from train import data
from train.config import ColumnsConfig, DataConfig, parse
from train.data import Example, formats, records
from train.evaluation import questions

TURNS = [
    {"role": "user", "content": "What is red?"},
    {"role": "assistant", "content": "the sun"},
    {"role": "user", "content": "And blue?"},
    {"role": "assistant", "content": "the sea"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    for turn in TURNS
]
BOTH = chat("user: What is red?", "assistant!: the sun", "user: And blue?", "assistant!: the sea")
SECOND = chat("user: What is red?", "assistant: the sun", "user: And blue?", "assistant!: the sea")
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"
EOS = "<|im_end|>"


def example(record, columns=None, **fields):
    columns = ColumnsConfig(**(columns or {}))
    config = DataConfig("x", **{"prompt": "auto", "columns": columns, **fields})
    source = records.of_rows([record], config.prompt, columns)
    (found,) = data.tokenize(source.records, tokenizer(), config)
    return found


KINDS = {
    "alpaca": (
        {"instruction": "Name a cat.", "output": "one"},
        chat("user: Name a cat.", "assistant!: one"),
    ),
    "alpaca with an empty input": (
        {"instruction": "Name a cat.", "input": " ", "output": "one"},
        chat("user: Name a cat.", "assistant!: one"),
    ),
    "alpaca with an input": (
        {"instruction": "Say it.", "input": "the sea", "output": "sea"},
        chat("user: Say it.\n\nthe sea", "assistant!: sea"),
    ),
    "alpaca with system and history": (
        {
            "instruction": "And blue?",
            "output": "the sea",
            "system": "Be brief.",
            "history": [["What is red?", "the sun"]],
        },
        BOTH.replace(SYSTEM, BRIEF),
    ),
    "prompt/completion": (
        {"prompt": "What is red?", "completion": "the sun"},
        chat("user: What is red?", "assistant!: the sun"),
    ),
    "prompt/completion of messages": (
        {"prompt": TURNS[:3], "completion": TURNS[3:]},
        SECOND,
    ),
    "messages": ({"messages": TURNS}, BOTH),
    "messages with system and tool": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                TURNS[0],
                {"role": "tool", "content": "one"},
                TURNS[1],
            ]
        },
        chat("user: What is red?", "tool: one", "assistant!: the sun", system=BRIEF),
    ),
    "messages in parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is "}, {"text": "red?"}],
                },
                TURNS[1],
            ]
        },
        chat("user: What is red?", "assistant!: the sun"),
    ),
    "messages that end with the user": (
        {"messages": TURNS[:3]},
        chat("user: What is red?", "assistant!: the sun", "user: And blue?"),
    ),
    "messages as JSON": ({"messages": json.dumps(TURNS)}, BOTH),
    "conversations": ({"conversations": SHAREGPT}, BOTH),
    "conversations with system": (
        {"conversations": SHAREGPT, "system": "Be brief."},
        BOTH.replace(SYSTEM, BRIEF),
    ),
    "conversations with tools": (
        {
            "conversations": [
                SHAREGPT[0],
                {"from": "function_call", "value": "see()"},
                {"from": "observation", "value": "one"},
                SHAREGPT[1],
            ]
        },
        chat("user: What is red?", "assistant!: see()", "tool: one", "assistant!: the sun"),
    ),
    "text": ({"text": "The sky is blue."}, f"⟦The sky is blue.{EOS}⟧"),
    "text with its end": ({"text": f"The sky.{EOS}"}, f"⟦The sky.{EOS}⟧"),
}


@pytest.mark.parametrize("name", KINDS)
def test_ids_and_mask_of_every_kind(name):
    record, text = KINDS[name]
    found = example(record)
    assert found == ids_and_mask(text)
    changed = json.loads(json.dumps(record).replace("sun", "cat").replace("one", "two"))
    changed = json.loads(json.dumps(changed).replace("sky", "sea").replace("Say", "Read"))
    assert changed != record
    assert example(changed) != found


@pytest.mark.parametrize("name", ["messages", "conversations", "alpaca with system and history"])
def test_the_loss_may_be_on_the_last_turn_or_on_all(name):
    record, text = KINDS[name]
    ids, _ = ids_and_mask(text)
    last = SECOND.replace(SYSTEM, BRIEF) if "system" in record else SECOND
    assert example(record, loss="last") == ids_and_mask(last)
    assert example(record, loss="all") == (ids, [1] * len(ids))
    for config in (DataConfig("x", loss="all"), DataConfig("x", train_on_prompt=True)):
        _, targets = data.examples.num_targets([example(record)], config)
        assert targets.tolist() == [len(ids) - 1]


def test_prompts_and_completions_may_stand_as_they_are():
    """As TRL has them: one text, then the end; the loss on completion and end."""
    record = {"prompt": "The sky is", "completion": " blue."}
    assert example(record, prompt="plain") == ids_and_mask(f"The sky is⟦ blue.{EOS}⟧")
    record = {"prompt": "The sky is", "completion": f" blue.{EOS}"}
    assert example(record, prompt="plain") == ids_and_mask(f"The sky is⟦ blue.{EOS}⟧")
    # A token that runs across the end of the prompt is none that inference sees.
    ids, mask = example({"prompt": "the corr", "completion": "ect"}, prompt="plain")
    prompt = tokenizer()("the corr")["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert mask == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    first = example({"text": "The sky"}, prompt="plain", bos="always").ids[0]
    assert first == tokenizer().bos_token_id


def test_what_a_tokenizer_puts_before_a_text_is_put_there():
    bos = tokenizer().bos_token
    llama = copy.deepcopy(tokenizer())
    llama.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer().bos_token_id)]
    )
    config = DataConfig("x", prompt="plain", bos="tokenizer")
    rows = records.of_rows([{"prompt": "The sky is", "completion": " blue."}], "plain").records
    (plain,) = data.tokenize(rows, tokenizer(), config)
    assert plain == ids_and_mask(f"The sky is⟦ blue.{EOS}⟧")
    (with_bos,) = data.tokenize(rows, llama, config)
    assert with_bos == Example([tokenizer().bos_token_id, *plain.ids], [0, *plain.mask])
    for tokens, whole in ((tokenizer(), plain), (llama, with_bos)):
        (prompt,) = data.encode_prompts(rows, tokens, config, inference=True)
        assert prompt == whole.prompt


@pytest.mark.parametrize(
    ("columns", "record", "text"),
    [
        (
            {"prompt": "question", "completion": "answer"},
            {"question": "What is red?", "answer": "the sun", "rejected": "x", "id": 3},
            chat("user: What is red?", "assistant!: the sun"),
        ),
        (
            {"prompt": "q", "completion": "a", "system": "s"},
            {"q": "What is red?", "a": "the sun", "s": "Be brief."},
            chat("user: What is red?", "assistant!: the sun", system=BRIEF),
        ),
        ({"messages": "dialog"}, {"dialog": SHAREGPT, "text": "x"}, BOTH),
        ({"text": "body"}, {"body": "The sky.", "prompt": "x"}, f"⟦The sky.{EOS}⟧"),
    ],
)
def test_columns_of_other_names_are_read(columns, record, text):
    assert example(record, columns) == ids_and_mask(text)
    source = records.of_rows([record], "auto", ColumnsConfig(**columns))
    assert {*source.unused} == {*record} - {*columns.values()}


def test_the_kind_is_said():
    for name, (record, _) in KINDS.items():
        kind = records.of_rows([record]).format
        assert name.startswith(kind)
    assert (
        records.of_rows([{"persona": ["a"], "history": ["b"], "output": "c"}]).format == "convai2"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "is a preference pair \\(field 'chosen'\\)",
        ),
        ({"messages": TURNS, "images": ["a.png"]}, "is a record with images \\(field 'images'\\)"),
        ({"text": "a", "audio": {"path": "x"}}, "is a record with audio"),
        ({"question": "a", "answer": "b"}, "has the fields question, answer, which are of no kind"),
        ({"messages": []}, "has no message in field 'messages': the conversation is empty"),
        ({"messages": "hello"}, "has the fields messages, which are of no kind"),
        ({"messages": TURNS[:1]}, "has no assistant turn to learn, only user"),
        (
            {"messages": [*TURNS, {"role": "narrator", "content": "x"}]},
            "unknown role 'narrator' in",
        ),
        (
            {"messages": [{"role": "user"}, TURNS[1]]},
            "has no text in message 0 of field 'messages'",
        ),
        ({"messages": [{"text": "x"}, TURNS[1]]}, "has no role in message 0 .* its keys are text"),
        (
            {"messages": [3, TURNS[1]]},
            "has 3 as message 0 of field 'messages'; it must be an object",
        ),
        ({"messages": [{**TURNS[1], "tool_calls": [{"id": 1}]}]}, "has 'tool_calls' in message 0"),
        ({"messages": [{**TURNS[1], "weight": 0}]}, "has 'weight' in message 0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]},
            "has a part of type 'image_url' in message 0",
        ),
        ({"messages": TURNS, "tools": [{"name": "x"}]}, "has something in field 'tools'"),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": "\ud83d"}]},
            "lone surrogate U\\+D83D",
        ),
        ({"conversations": TURNS, "context": "x"}, "has something in field 'context', which"),
        ({"instruction": "a", "output": " "}, "has no text in field 'output'"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "has no list of pairs of texts"),
        ({"prompt": TURNS[:1], "completion": []}, "has no message in field 'completion'"),
        ({"prompt": TURNS[:1], "completion": TURNS[:1]}, "has no assistant turn to learn"),
        ({"text": 3}, "has no text in field 'text'"),
        (3, "is 3, but must be an object"),
        ({}, "has the fields none, which are of no kind"),
    ],
)
def test_bad_records_are_refused_by_name(record, message):
    with pytest.raises(ValueError, match=f"record 0 of records {message}|of records .*{message}"):
        records.of_rows([record])


@pytest.mark.parametrize("weight", [1, None, True])
def test_a_full_weight_and_empty_keys_change_nothing(weight):
    turns = [TURNS[0], {**TURNS[1], "weight": weight, "tool_calls": [], "name": None}]
    found = records.of_rows([{"messages": turns, "images": [], "tools": None, "id": 7}])
    assert found.unused == ("id", "images", "tools")
    assert example({"messages": turns}) == example({"messages": TURNS[:2]})
    extra = records.of_rows([{"messages": [{**TURNS[1], "time": 3}]}])
    assert extra.unused == ("messages.time",)


def test_a_missing_column_has_the_nearest_names():
    message = (
        r"record 0 of records has no column 'question', which config.data.columns.prompt names; "
        r"did you mean 'Question' or 'questions'\? Its columns are Question, questions, answer"
    )
    columns = ColumnsConfig(prompt="question", completion="answer")
    rows = [{"Question": "a", "questions": "b", "answer": "c"}]
    with pytest.raises(ValueError, match=message):
        records.of_rows(rows, "auto", columns)
    for given in (
        {"prompt": "a"},
        {"system": "a"},
        {"text": "a", "prompt": "b", "completion": "c"},
    ):
        with pytest.raises(ValueError, match=r"columns names .*; name prompt and completion, or"):
            ColumnsConfig(**given)
    with pytest.raises(ValueError, match="columns is for prompt 'auto' and 'plain', but prompt is"):
        DataConfig("x", columns=columns)


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
