"""A server for the Python of a page that asks one."""

import contextlib
from unittest import mock

import openai

from tests import parts
from tests.tera_jax.serve.http.fake import FakeEngine, serving


@contextlib.contextmanager
def answering(text):
    """OpenAI's client asks a server of the tests, whatever address the page has."""
    if "openai.OpenAI(" not in text:
        yield
        return
    tokenizer, client = parts.small_tokenizer(), openai.OpenAI
    with (
        serving(FakeEngine(len(tokenizer)), tokenizer) as (address, _),
        contextlib.ExitStack() as clients,
    ):

        def local(base_url, **fields):
            assert base_url == "http://127.0.0.1:8000/v1"
            return clients.enter_context(client(base_url=f"{address}/v1", **fields))

        with mock.patch.object(openai, "OpenAI", local):
            yield
