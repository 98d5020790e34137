"""A store of very many adapters, by name. Imports no JAX."""

from tera_jax.serve.store.entry import Entry as Entry
from tera_jax.serve.store.entry import Flat as Flat
from tera_jax.serve.store.entry import UnknownAdapterError as UnknownAdapterError
from tera_jax.serve.store.store import SHARD_ROWS as SHARD_ROWS
from tera_jax.serve.store.store import Store as Store
