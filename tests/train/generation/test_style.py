"""Prompts are those that the model was trained on."""

import pytest

from tests.marks import quick_only
from tests.parts import small_tokenizer
from train import data
from train.config import DataConfig
from train.generation import requests
from train.generation.style import style_of

CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes ?"},
    {"role": "user", "content": "red?"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.mark.parametrize(
    ("prompt", "bos"),
    quick_only(
        [("llm-adapters", "inference")],
        [("hira", "never"), ("llm-adapters", "inference")],
        names=2,
    ),
)
def test_a_run_of_a_named_template_is_asked_in_it(tokenizer, prompt, bos):
    config = DataConfig(path="-", prompt=prompt, bos=bos)
    style = style_of(tokenizer, config)
    expected = data.encode_prompts(
        [{"instruction": "red?", "input": "a"}, {"instruction": "red?"}],
        tokenizer,
        config,
        inference=True,
    )
    assert style.ids({"instruction": "red?", "input": "a", "output": ""}) == expected[0]
    assert style.ids({"prompt": "red?"}) == expected[1]
    assert style.ids({"messages": CHAT[:1]}) != expected[1]
    with pytest.raises(ValueError, match=f"has 3 messages, but the run's template {prompt} takes"):
        style.ids({"messages": CHAT})
    long = style.ids({"prompt": "red? " * 400})
    assert len(long) > config.max_prompt  # whole, where training would cut it


def test_a_dialogue_has_its_turns(tokenizer):
    config = DataConfig(path="-", prompt="convai2", bos="always")
    style = style_of(tokenizer, config)
    turn = {"persona": ["i ski."], "history": ["hi", "yes ?", "red?"], "output": "x"}
    (expected,) = data.encode_prompts([turn], tokenizer, config, inference=True)
    system = {"role": "system", "content": "i ski."}
    assert style.ids({"messages": [system, *CHAT]}) == style.ids(turn) == expected
    assert style.remembers
    assert not style_of(tokenizer, DataConfig(path="-")).remembers


def test_a_run_of_chats_is_asked_by_its_own_template(tokenizer, tmp_path):
    (tmp_path / "mine.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    config = DataConfig(
        path="-", prompt="auto", bos="tokenizer", chat_template=str(tmp_path / "mine.jinja")
    )
    style = style_of(tokenizer, config)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert style.ids({"messages": CHAT[:1]}) == ids("[user]hi[assistant]")
    assert style.ids({"prompt": "hi"}) == ids("[user]hi[assistant]")
    assert style.ids({"instruction": "hi", "input": "b"}) == ids("[user]hi\n\nb[assistant]")
    assert style_of(tokenizer).ids({"prompt": "hi"}) != style.ids({"prompt": "hi"})
    with pytest.raises(ValueError, match="has neither 'prompt' nor 'messages', but question"):
        style.ids({"question": "hi"})
    (tmp_path / "mine.jinja").unlink()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        style_of(tokenizer, config)


def test_a_run_of_plain_prompts_is_asked_as_they_stand(tokenizer):
    config = DataConfig(path="-", prompt="plain", bos="always")
    style = style_of(tokenizer, config)
    assert not style.remembers
    assert style.ids({"prompt": "red? the"}) == [
        tokenizer.bos_token_id,
        *tokenizer("red? the", add_special_tokens=False)["input_ids"],
    ]


def test_other_models_are_asked_by_their_chat_template(tokenizer):
    style = style_of(tokenizer)
    expected = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert style.ids({"messages": CHAT}) == expected
    assert style.ids({"prompt": "red?"}) == style.ids({"messages": CHAT[2:]})
    raw = style_of(tokenizer, raw=True)
    assert raw.ids({"prompt": "red?"}) == tokenizer("red?")["input_ids"]
    with pytest.raises(ValueError, match="has 3 messages, but --raw takes one text"):
        raw.ids({"messages": CHAT})


def test_the_space_around_a_named_templates_answer_is_left_out(tokenizer):
    style = style_of(tokenizer, DataConfig(path="-"))
    pieces = ["\n", " a", " ", "\n", "b ", "  "]
    assert "".join(style.clean(iter(pieces))) == "a \nb"
    assert "".join(style_of(tokenizer).clean(iter(pieces))) == "".join(pieces)
    assert style.stop == ("Q:", "R:")


def test_files_of_prompts_are_read_by_line_and_by_record(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("one\r\n\n two\u2028three\n", encoding="utf-8")
    assert requests.read(text) == [
        (f"line 1 of {text}", {"prompt": "one"}),
        (f"line 3 of {text}", {"prompt": " two\u2028three"}),
    ]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"prompt": "one"}\n{"messages": []}\n')
    assert [name for name, _ in requests.read(rows)] == [
        f"record 0 of {rows} (line 1)",
        f"record 1 of {rows} (line 2)",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a", "ends in none of .txt"),
        ("a.txt", b"\n\n", "has no prompt"),
        ("a.txt", b"a\n\xff", "is not UTF-8: line 2 has the byte 0xff"),
        ("a.jsonl", b"3\n", r"record 0 of .* \(line 1\) is no object"),
        ("a.jsonl", b'{"text": "a"}', "has neither 'prompt' nor 'messages', but text"),
        ("a.jsonl", b'{"prompt": " "}', "has no text in field 'prompt'"),
        ("a.jsonl", b'{"messages": []}', "has no list of messages"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "no text under 'content' in message 0"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "assistant", "content": "a"}]}',
            "ends with the assistant's message",
        ),
    ],
)
def test_a_prompt_that_is_none_is_named(tokenizer, tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        requests.encoded(requests.read(file), style_of(tokenizer))
