"""Each kind of records under ``auto`` and ``plain``: exact ids and masks, and what is refused."""

import copy
import json

import pytest
from tokenizers import processors

from tests.train.data.cases import BOTH, BRIEF, EOS, KINDS, SECOND, SHAREGPT, TURNS, example
from tests.train.data.marked import SYSTEM, chat, ids_and_mask, tokenizer
from train import data
from train.config import ColumnsConfig, DataConfig
from train.data import Example, records


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
        ({"prompt": "a", "response": "b"}, "has the fields prompt, response, which are of no kind"),
        (
            {"prompt": "a", "text": "b"},
            "has something in field 'prompt', which config.data.prompt=",
        ),
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
        ({"messages": [{**TURNS[1], "reasoning": "x"}]}, "has 'reasoning' in message 0"),
        ({"messages": [{**TURNS[1], "weight": 0}]}, "has 'weight' in message 0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]},
            "has a part of type 'image_url' in message 0",
        ),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": "\ud83d"}]},
            "lone surrogate U\\+D83D",
        ),
        ({"conversations": TURNS, "context": "x"}, "has something in field 'context', which"),
        ({"instruction": "a", "output": " "}, "has no text in field 'output'"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "has no list of pairs of texts"),
        ({"instruction": "a", "output": "b", "history": "[" * 9999}, "has no list of pairs of"),
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
    assert found.unused == ("id", "images")
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
