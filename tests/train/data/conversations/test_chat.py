"""Conversations through chat templates: ids are those of transformers, masks those of its marks."""

import copy

import pytest

from tests.train.data.marked import chat, ids_and_mask, tokenizer
from train.data.conversations import chat as chats
from train.data.conversations import templates
from train.data.conversations.messages import Turns

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is red?"},
    {"role": "assistant", "content": "the sun"},
    {"role": "tool", "content": "one two"},
    {"role": "assistant", "content": "a cat"},
    {"role": "user", "content": "And blue?"},
    {"role": "assistant", "content": "the sea"},
]
TEXTS = [f"{turn['role']}: {turn['content']}" for turn in TURNS]
LEARNED = [text.replace("assistant:", "assistant!:") for text in TEXTS]
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m['content'] | trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}"
)
"""With marks, and no space after a turn."""
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}(think)\n{% endif %}{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The last turn is written otherwise than those before it, as in Qwen3's template."""


def one(messages=TURNS, template=None, loss="assistant", first=0):
    (found,) = chats.render(tokenizer(), [Turns(messages, first)], template, loss)
    return found


@pytest.mark.parametrize("template", [None, templates.CHATML, LLAMA3])
@pytest.mark.parametrize("loss", ["assistant", "last", "all"])
def test_ids_are_those_of_transformers(template, loss):
    expected = tokenizer().apply_chat_template(TURNS, chat_template=template)["input_ids"]
    assert one(template=template, loss=loss).ids == expected
    other = [*TURNS[:-1], {"role": "assistant", "content": "the dog"}]
    assert one(other, template, loss).ids != expected


@pytest.mark.parametrize("template", [templates.CHATML, LLAMA3])
def test_masks_are_those_of_transformers_where_the_template_has_marks(template):
    expected = tokenizer().apply_chat_template(
        TURNS, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    assert one(template=template).mask == expected
    assert sum(expected) > 6
    assert one(template=template, loss="all").mask == [1] * len(expected)
    last = one(template=template, loss="last").mask
    assert last != expected
    assert sum(last) == len(tokenizer()("the sea<|im_end|>")["input_ids"])


def test_turns_are_found_by_difference_where_it_has_none():
    ids, mask = ids_and_mask(chat(*LEARNED, system=""))
    assert one() == (ids, mask)
    ids, mask = ids_and_mask(chat(*TEXTS[:-1], LEARNED[-1], system=""))
    assert one(loss="last") == (ids, mask)
    assert one(loss="all") == (ids, [1] * len(ids))


@pytest.mark.parametrize("template", [LLAMA3, LLAMA3.replace("{% generation %}", "")])
def test_marks_and_differences_agree(template):
    template = template.replace(
        "{% endgeneration %}", "{% endgeneration %}" * ("% gen" in template)
    )
    assert one(template=template).mask == one(template=LLAMA3).mask


def test_turns_of_a_prompt_are_not_learned():
    for template in (None, LLAMA3):
        mask = one(template=template, first=5).mask
        assert mask == one(template=template, loss="last").mask
        assert mask != one(template=template, first=4).mask != one(template=template).mask


def test_many_conversations_are_each_as_alone():
    given = [Turns(TURNS), Turns(TURNS[1:3]), Turns(TURNS[2:]), Turns(TURNS[:5])]
    for template in (None, LLAMA3):
        found = chats.render(tokenizer(), given, template)
        for turns, example in zip(given, found, strict=True):
            alone = one(turns.messages, template)
            assert str(example) == str(alone)


def test_a_first_turn_of_the_assistant_needs_marks():
    assert "begins with a turn of the assistant" in str(one(TURNS[2:]))
    ids, mask = one(TURNS[2:3], LLAMA3)
    assert (
        tokenizer().decode([i for i, m in zip(ids, mask, strict=True) if m]) == "the sun<|im_end|>"
    )


def test_a_turn_that_is_written_otherwise_later_is_refused_with_the_reason():
    found = one(template=THINKING)
    assert "has a turn of the assistant (message 2) that cannot be told" in str(found)
    assert "conversation up to it are not the first of the whole" in str(found)
    ids, mask = one(template=THINKING, loss="last")
    learned = tokenizer().decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert learned == "(think)\nthe sea<|im_end|>\n"


def test_tokens_that_run_into_an_answer_are_refused():
    """With ``Answer:`` at the end of a prompt, an answer may begin in the same token."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    messages = [{"role": "user", "content": "the corr"}, {"role": "assistant", "content": "ect"}]
    assert len(tokenizer()("the correct")["input_ids"]) == 2
    assert "prompt for it are not the first" in str(one(messages, template))
    messages[1]["content"] = " is"
    assert one(messages, template) == ids_and_mask("the corr⟦ is⟧")


def test_what_a_template_says_is_passed_on():
    alternate = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    twice = [TURNS[1], TURNS[1], TURNS[2]]
    assert str(one(twice, alternate)) == (
        "is refused by the chat template: roles must alternate user/assistant"
    )
    assert not isinstance(one(twice), ValueError)
    broken = "{% for m in messages %}{{ m['content'] + 3 }}{% endfor %}"
    assert "is refused by the chat template: TypeError: can only concatenate" in str(
        one(TURNS, broken)
    )
    with pytest.raises(ValueError, match="is refused by the chat template: roles must alternate"):
        chats.prompt_ids(tokenizer(), Turns(twice), alternate)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "tries to leave its sandbox: access to"),
        ("{{ messages.append(3) }}", "tries to leave its sandbox: access to attribute 'append'"),
        ("{{ messages[0].update(role='x') }}", "tries to leave its sandbox"),
        ("{{ cycler.__init__.__globals__ }}", "tries to leave its sandbox"),
        ("{% for m in messages %}", "is no Jinja: Unexpected end of template"),
    ],
)
def test_a_template_that_leaves_the_sandbox_is_refused(template, message):
    with pytest.raises(ValueError, match=f"the chat template {message}"):
        one(template=template)
    with pytest.raises(ValueError, match=f"the chat template {message}"):
        chats.prompt_ids(tokenizer(), Turns(TURNS), template)
    assert TURNS[0]["role"] == "system"


def test_a_prompt_ends_where_the_assistant_begins():
    text = chat(*TEXTS[:-1], system="") + "<|im_start|>assistant\n"
    found = chats.prompt_ids(tokenizer(), Turns(TURNS[:-1]))
    assert found == tokenizer()(text, add_special_tokens=False)["input_ids"]
    whole = one().ids
    assert whole[: len(found)] == found


def test_a_tokenizer_without_a_template_is_told_what_to_set():
    bare = copy.deepcopy(tokenizer())
    bare.chat_template = None
    message = "has no chat template; set config.data.chat_template to a Jinja file or to chatml, or"
    with pytest.raises(ValueError, match=message):
        chats.render(bare, [Turns(TURNS)])
    with pytest.raises(ValueError, match=message):
        chats.prompt_ids(bare, Turns(TURNS))
    (found,) = chats.render(bare, [Turns(TURNS)], templates.load_template("chatml"))
    assert found == one(template=templates.CHATML)


def test_templates_are_files_or_a_name(tmp_path):
    assert templates.load_template(None) is None
    file = tmp_path / "t.jinja"
    file.write_text(LLAMA3)
    assert templates.load_template(str(file)) == LLAMA3
    with pytest.raises(FileNotFoundError, match=r"chat_template=.*none.jinja: there is no such"):
        templates.load_template(str(tmp_path / "none.jinja"))
    (tmp_path / "b.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"b.jinja is not UTF-8"):
        templates.load_template(str(tmp_path / "b.jinja"))
