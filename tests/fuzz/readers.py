"""Every reader of files that others wrote, with a file that it reads, and what is damaged in it."""

import csv
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pyarrow as pa
import pyarrow.parquet as pq

from tera_jax import adapt, load_adapter, save_adapter
from tera_jax.io.adapter_files import save_peft
from tera_jax.llama import Llama, LlamaConfig, load_pretrained, load_tokenizer, save_pretrained
from tests import parts
from tests.fuzz.damage import damaged, damaged_json, damaged_safetensors
from tests.tera_jax.llama.checkpoint.gguf_files import write_gguf
from train.data import records

Damage = Callable[[bytes, random.Random], bytes]


class Reader(NamedTuple):
    """``read`` gets the directory ``place``, in which ``file`` is damaged by ``damage``."""

    name: str
    place: Path
    file: str
    read: Callable[[Path], Any]
    damage: Damage


def make(directory: Path) -> list[Reader]:
    """Write what is read, and name the readers."""
    config = LlamaConfig.from_hf(parts.SMALL)
    model = Llama(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    tokenizer = parts.small_tokenizer()
    wide = Llama(LlamaConfig.from_hf(parts.SMALL | {"vocab_size": len(tokenizer)}))
    wide_params = jax.jit(wide.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    save_pretrained(wide, wide_params, directory / "hf", tokenizer, max_shard_bytes=100_000)
    adapter = adapt(model, jnp.zeros((1, 2), jnp.int32), method="lora")
    frozen = adapter.init_frozen(params)
    variables = {"params": params, "frozen": frozen, "d": adapter.init_d(params, frozen)}
    save_adapter(directory / "adapter", adapter, variables, "base")
    save_peft(directory / "peft", adapter, variables, "base")
    (directory / "gguf").mkdir()
    write_gguf(directory / "gguf" / "model.gguf", model, params)
    (directory / "records").mkdir()
    text = parts.records(directory / "records" / "records.json").read_bytes()
    lines = "\n".join(map(json.dumps, json.loads(text)[:20]))
    (directory / "records" / "records.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    rows = json.loads(text)[:20]
    pq.write_table(pa.Table.from_pylist(rows), directory / "records" / "records.parquet")
    with (directory / "records" / "records.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    chats = [{"messages": _turns(row["instruction"], row["output"])} for row in rows]
    (directory / "records" / "chats.json").write_text(json.dumps(chats))

    def adapted(path: Path) -> Any:
        return load_adapter(path, params)

    def data(name: str, prompt: str = "hira") -> Callable[[Path], Any]:
        return lambda path: records.load(str(path / name), prompt)

    def gguf(path: Path) -> Any:
        return load_pretrained(path / "model.gguf")

    return [
        Reader("adapter.json", directory / "adapter", "adapter.json", adapted, damaged_json),
        Reader(
            "adapter arrays",
            directory / "adapter",
            "adapter.safetensors",
            adapted,
            damaged_safetensors,
        ),
        Reader("PEFT config", directory / "peft", "adapter_config.json", adapted, damaged_json),
        Reader(
            "PEFT arrays",
            directory / "peft",
            "adapter_model.safetensors",
            adapted,
            damaged_safetensors,
        ),
        Reader("config.json", directory / "hf", "config.json", load_pretrained, damaged_json),
        Reader(
            "index", directory / "hf", "model.safetensors.index.json", load_pretrained, damaged_json
        ),
        Reader(
            "arrays",
            directory / "hf",
            min(path.name for path in (directory / "hf").glob("*.safetensors")),
            load_pretrained,
            damaged_safetensors,
        ),
        Reader("tokenizer.json", directory / "hf", "tokenizer.json", load_tokenizer, damaged_json),
        Reader(
            "tokenizer config",
            directory / "hf",
            "tokenizer_config.json",
            load_tokenizer,
            damaged_json,
        ),
        Reader("GGUF", directory / "gguf", "model.gguf", gguf, damaged),
        Reader(
            "records", directory / "records", "records.json", data("records.json"), damaged_json
        ),
        Reader(
            "gzipped records",
            directory / "records",
            "records.jsonl.gz",
            data("records.jsonl.gz"),
            damaged,
        ),
        Reader("CSV", directory / "records", "records.csv", data("records.csv"), damaged),
        Reader(
            "parquet", directory / "records", "records.parquet", data("records.parquet"), damaged
        ),
        Reader(
            "chats", directory / "records", "chats.json", data("chats.json", "auto"), damaged_json
        ),
    ]


def _turns(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
