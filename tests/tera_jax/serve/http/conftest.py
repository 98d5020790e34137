import httpx
import openai
import pytest

from tera_jax.llama import load_tokenizer
from tests import parts
from tests.tera_jax.serve.http.fake import FakeEngine, serving


@pytest.fixture(scope="session")
def tokenizer(smollm2_path):
    return parts.small_tokenizer()


@pytest.fixture(scope="session")
def whole_tokenizer(smollm2_path):
    return load_tokenizer(smollm2_path)


@pytest.fixture(scope="module")
def running(tokenizer):
    engine = FakeEngine(len(tokenizer))
    with serving(engine, tokenizer) as (address, _):
        yield address, engine


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running[0]}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def http(running):
    with httpx.Client(base_url=running[0], timeout=30) as found:
        yield found
