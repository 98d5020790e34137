"""Chat templates: where they come from, and the one that is rendered."""

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of ``config.data.chat_template=chatml``."""
_LIMIT = 2**20  # bytes of a template file


def load_template(name: str | None) -> str | None:
    """The text of ``config.data.chat_template``; None for that of the tokenizer.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is too large for a template, or is not UTF-8.
    """
    if name is None:
        return None
    if name == "chatml":
        return CHATML
    file = Path(name)
    if not file.is_file():
        raise FileNotFoundError(
            f"config.data.chat_template={name}: there is no such file; give a Jinja file, chatml, "
            "or leave it out for the template of the tokenizer"
        )
    if file.stat().st_size > _LIMIT:
        raise ValueError(f"{name} has more than {_LIMIT} bytes, too many for a chat template")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8; save the chat template as UTF-8") from None


def template_of(tokenizer: Any, template: str | None = None, with_tools: bool = False) -> str:
    """The template that is rendered.

    Args:
        tokenizer: of ``transformers``.
        template: a Jinja text; None for that of the tokenizer.
        with_tools: for a conversation with tools; a tokenizer may have another template for it.

    Raises:
        ValueError: when none is given and the tokenizer has none.
    """
    if template is not None:
        return template
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template; set config.data.chat_template to a Jinja file or "
            "to chatml, or config.data.prompt=plain for prompts and completions as they stand"
        )
    try:
        return str(tokenizer.get_chat_template(tools=[] if with_tools else None))
    except ValueError as error:  # it has several, and none of them is the default
        raise ValueError(f"{error} Set config.data.chat_template to a Jinja file") from None
