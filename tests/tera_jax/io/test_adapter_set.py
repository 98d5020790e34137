"""Sets of adapters: one trace for all of them, and each does what it does alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tera_jax
from tera_jax.adapters.factory import make
from tera_jax.methods import TABLE, TargetLayer
from tests.margins import within
from tests.parts import SMALL, SMALL_METHODS

LAYERS = (TargetLayer(("q_proj",), (32, 32), (2,)),)


def write(directory, name="lora", seed=1, **fields):
    """An adapter away from its start, its base and its variables."""
    random = np.random.default_rng(0)
    params = {
        layer.name: {"kernel": jnp.asarray(random.standard_normal((2, *layer.kernel_shape)), "f4")}
        for layer in LAYERS
    }
    adapter = make(name, TABLE[name](**{**SMALL_METHODS[name], **fields}), LAYERS)
    frozen = jax.jit(adapter.init_frozen)(params)
    random = np.random.default_rng(seed)
    d = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype),
        jax.jit(adapter.init_d)(params, frozen),
    )
    variables = {"params": params, "frozen": frozen, "d": d}
    tera_jax.save_adapter(directory, adapter, variables, "base", check_frozen=False)
    return params, adapter, variables


def test_adapters_are_switched_without_a_trace(tmp_path):
    own = {name: write(tmp_path / name, seed=seed) for seed, name in enumerate(("ana", "ben"))}
    params = own["ana"][0]
    adapters = tera_jax.load_adapters({name: tmp_path / name for name in own}, params)
    assert adapters.names == ("ana", "ben")
    traces = []

    @jax.jit
    def merged(adapters, params, index):
        traces.append(index)
        return adapters.adapter.merge(adapters.variables(params, index))

    found = {}
    for name, (_, adapter, variables) in own.items():
        found[name] = merged(adapters, params, adapters.index(name))
        expected = jax.jit(adapter.merge)(variables)
        for a, b in zip(*map(jax.tree.leaves, (found[name], expected)), strict=True):
            within(float(jnp.abs(a - b).max()), 1e-6)
    assert len(traces) == 1
    gap = jnp.abs(found["ana"]["q_proj"]["kernel"] - found["ben"]["q_proj"]["kernel"])
    assert float(gap.max()) > 1e-3
    with pytest.raises(ValueError, match="there is no adapter 'eva'; the set has ana, ben"):
        adapters.index("eva")


def test_adapters_that_differ_are_refused_by_name(tmp_path):
    params = write(tmp_path / "ana")[0]
    write(tmp_path / "hira", "hira")
    write(tmp_path / "rank", rank=2)
    for name, message in (
        ("hira", "'hira' is of method 'hira', not 'lora' as 'ana'"),
        ("rank", "'rank' is of rank 2, not 4 as 'ana'"),
    ):
        with pytest.raises(ValueError, match=message):
            tera_jax.load_adapters({"ana": tmp_path / "ana", name: tmp_path / name}, params)
    with pytest.raises(ValueError, match="there are no adapters"):
        tera_jax.load_adapters({}, params)


@pytest.mark.long
def test_logits_and_mixed_rows_of_a_set_are_those_of_each_adapter(tmp_path):
    model = tera_jax.llama.Llama(tera_jax.llama.LlamaConfig.from_hf(SMALL))
    tokens_BL = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 9)), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens_BL)["params"]
    adapter = tera_jax.adapt(model, tokens_BL, method="lora")
    frozen = adapter.init_frozen(params)
    expected = []
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        d = jax.tree.map(
            lambda leaf, random=random: (
                leaf + jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype)
            ),
            adapter.init_d(params, frozen),
        )
        variables = {"params": params, "frozen": frozen, "d": d}
        tera_jax.save_adapter(tmp_path / str(seed), adapter, variables, "base")
        expected.append(jax.jit(lambda v: adapter.apply(model, v, tokens_BL)[0])(variables))
    adapters = tera_jax.load_adapters({name: tmp_path / name for name in ("1", "2")}, params)
    run = jax.jit(lambda a, p, index: a.apply(model, p, index, tokens_BL)[0])
    for name, logits in zip(adapters.names, expected, strict=True):
        found = run(adapters, params, adapters.index(name))
        within(float(jnp.abs(found - logits).max()), 1e-5)
    assert run._cache_size() == 1
    assert float(jnp.abs(expected[0] - expected[1]).max()) > 1e-2
    bank = adapters.bank(params)
    rows = {"params": params, "frozen": frozen, "d": bank.gather(bank.index([2, 1]))}
    mixed, _ = jax.jit(lambda v: adapter.apply_rows(model, v, tokens_BL))(rows)
    within(float(jnp.abs(mixed - jnp.stack([expected[1][0], expected[0][1]])).max()), 1e-4)
