"""A bank of adapters on a small Llama: every row of a batch is what its own adapter gives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tera_jax import adapt, quantize
from tera_jax.adapters.bank import make_bank, make_row, stack
from tera_jax.llama import Llama
from tera_jax.llama.sharding import parameter_shardings
from tera_jax.methods import TABLE, NotMergeableError
from tera_jax.methods.base import NotByRowsError
from tera_jax.network import cost_model
from tera_jax.sharding import BATCH, make_mesh, replicated
from tests.margins import within
from tests.marks import quick_only
from tests.parts import SMALL_METHODS
from tests.tera_jax.adapters import test_factory
from tests.tera_jax.adapters.test_factory import CONFIG
from tests.tera_jax.adapters.test_norm import Shifted

NAMES = sorted(set(TABLE) - {"full"})
QUICK = ("tera", "unilora", "prompt")
KINDS = (
    *("tera", "lora", "loretta", "dora", "pissa", "toplora", "ia3", "hira", "vera"),
    *("unilora", "unires", "ln_tuning", "prompt"),
)
"""One method for each way that rows are computed: by a network, by factors, by those that a row
prepares or reads from a vector, by an ``apply_rows`` of its own, by scales, in norms, by tokens.
Meshes, packed rows and gradients are tested with these; logits with all."""
ENTRIES = [2, 0, 1, 2, 3, 0, 1, 3]
VARIANTS = {"remat": {"remat": "full"}, "unrolled": {"unroll": True, "remat": "dots"}}


@functools.cache
def made(name):
    """The adapter, the model, base and frozen, three d, tokens, and the bank."""
    adapter, model, v, tokens_BL = test_factory.made(name)
    random = np.random.default_rng(3)

    def moved(leaf):
        return leaf + jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype)

    d = [v["d"], *(jax.tree.map(moved, v["d"]) for _ in range(2))]
    base = {"params": v["params"], "frozen": v["frozen"]}
    return adapter, model, base, d, tokens_BL, make_bank(adapter, *base.values(), d)


def mixed(name, model=None, entries=ENTRIES, **kwargs):
    adapter, plain, base, _, tokens_BL, bank = made(name)

    @jax.jit
    def run(bank, index_B):
        variables = {**base, "d": bank.gather(index_B)}
        return adapter.apply_rows(model or plain, variables, tokens_BL, **kwargs)[0]

    index_B = bank.index(entries)
    if adapter.num_virtual_tokens and "segment_ids_BL" not in kwargs:
        kwargs["segment_ids_BL"] = adapter.segment_ids(tokens_BL, index_B)
    return run(bank, index_B)


@functools.partial(jax.jit, static_argnums=0)
def of_base(model, params, tokens_BL):
    return model.apply({"params": params}, tokens_BL)[0]


@functools.cache
def each_alone(name):
    """Logits of all rows under every adapter: by its merged weights where there are such."""
    adapter, model, base, d, tokens_BL, _ = made(name)
    count = adapter.num_virtual_tokens
    run = functools.partial(of_base, model, tokens_BL=tokens_BL[:, count:])
    alone = jax.jit(lambda d: adapter.apply(model, {**base, "d": d}, tokens_BL)[0])
    merge = jax.jit(adapter.merge)
    found = [run(base["params"])]
    for one in d:
        try:
            found.append(run(merge({**base, "d": one})))
        except NotMergeableError:
            found.append(alone(one)[:, count:])
    return found


def rows_of(name, entries=ENTRIES):
    return jnp.stack([each_alone(name)[entry][row] for row, entry in enumerate(entries)])


def answers(name, logits_BLV):
    return logits_BLV[:, made(name)[0].num_virtual_tokens :]


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", quick_only(QUICK, NAMES))
def test_every_row_is_what_its_own_adapter_gives(name):
    found = answers(name, mixed(name))
    within(error(found, rows_of(name)), 2e-5)
    assert error(found, rows_of(name, [*ENTRIES[1:], 2])) > 1e-2
    within(error(found[1], each_alone(name)[0][1]), 2e-6)  # the base


@pytest.mark.parametrize("variant", ["remat", "unrolled"])
@pytest.mark.parametrize(
    "name", quick_only(("tera",), ("tera", "lora", "dora", "unires", "prompt"))
)
def test_scanned_unrolled_and_rematerialised_rows_agree(name, variant):
    model = Llama(CONFIG, **VARIANTS[variant])
    within(error(answers(name, mixed(name, model)), rows_of(name)), 2e-5)


@pytest.mark.parametrize("name", quick_only(("dora",), KINDS))
def test_gradients_of_a_bank_are_those_of_each_adapter_alone(name):
    adapter, _, base, d, tokens_BL, bank = made(name)
    model = Llama(CONFIG, remat="full")
    entries = [each if each else 1 for each in ENTRIES]
    count = adapter.num_virtual_tokens

    def loss(logits_BLV):
        return jnp.sum(jnp.sin(3 * logits_BLV[:, count:]))

    def at_once(d):
        rows = bank.index(entries) - 1
        both = {**base, "d": stack(adapter, d)}
        return loss(adapter.apply(model, both, tokens_BL, rows=rows)[0])

    @jax.jit
    @jax.grad
    def alone(one, mine_B):
        logits_BLV = adapter.apply(model, {**base, "d": one}, tokens_BL)[0]
        return loss(jnp.where(mine_B[:, None, None], logits_BLV, 0))  # sin(0) adds nothing

    found = jax.jit(jax.grad(at_once))(d)
    numbers_B = np.asarray(entries)
    expected = [alone(one, numbers_B == number) for number, one in enumerate(d, 1)]
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        within(np.abs(a - b).max(), 2e-4 * np.abs(b).max())
        assert np.any(b)


@pytest.mark.parametrize("name", quick_only(("lora",), KINDS[:-1]))  # but virtual tokens
def test_segments_of_a_packed_row_have_one_adapter(name):
    segment_ids_BL = jnp.asarray([[1] * 4 + [2] * 5] * 8, jnp.int32)
    adapter, model, base, d, tokens_BL, _ = made(name)
    found = mixed(name, segment_ids_BL=segment_ids_BL)
    run = jax.jit(
        lambda d, tokens_BL: adapter.apply(
            model, {**base, "d": d}, tokens_BL, segment_ids_BL=segment_ids_BL[:1]
        )[0]
    )
    for row, entry in ((0, 2), (2, 1)):
        alone = run(d[entry - 1], tokens_BL[row : row + 1])
        within(error(found[row], alone[0]), 2e-5)
    assert error(found, mixed(name)) > 1e-2


@pytest.mark.parametrize("name", quick_only(("tera",), KINDS))
def test_rows_are_sharded_over_a_mesh(name):
    adapter, model, base, _, tokens_BL, bank = made(name)
    mesh = make_mesh(2, 2, 2)
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(BATCH))
    layout = parameter_shardings(base["params"], mesh)
    index_B = bank.index(ENTRIES)
    segment_ids = None
    if adapter.num_virtual_tokens:
        segment_ids = jax.device_put(adapter.segment_ids(tokens_BL, index_B), by_row)

    @functools.partial(jax.jit, in_shardings=(layout, replicated(mesh), by_row, by_row))
    def run(params, bank, index_B, tokens_BL):
        variables = {**base, "params": params, "d": bank.gather(index_B)}
        return adapter.apply_rows(model, variables, tokens_BL, segment_ids_BL=segment_ids)[0]

    with jax.set_mesh(mesh):
        found = run(
            jax.device_put(base["params"], layout),
            jax.device_put(bank, replicated(mesh)),
            jax.device_put(index_B, by_row),
            jax.device_put(tokens_BL, by_row),
        )
    within(error(answers(name, jax.device_get(found)), rows_of(name)), 2e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    quick_only(
        [("int8", "dora")],
        itertools.product(("int8", "nf4", "fp8"), ("tera", "lora", "dora")),
        names=2,
    ),
)
def test_on_a_quantised_base_rows_are_what_each_alone_gives(name, kind, monkeypatch):
    """By the route that multiplies by the kernel as it is stored, as rows do."""
    monkeypatch.setattr(cost_model, "route", lambda *_: "through")
    adapter, model, base, d, tokens_BL, _ = made(name)
    params = quantize.quantize(base["params"], kind, *[16] * (kind != "fp8"))
    bank = make_bank(adapter, params, base["frozen"], d)
    base = {**base, "params": params}
    variables = {**base, "d": bank.gather(bank.index(ENTRIES))}
    found = jax.jit(lambda v: adapter.apply_rows(model, v, tokens_BL)[0])(variables)
    alone = jax.jit(lambda v: adapter.apply(model, v, tokens_BL)[0])
    for row, entry in ((0, 2), (2, 1)):
        expected = alone({**base, "d": d[entry - 1]})[row]
        within(error(found[row], expected), 1e-4 if kind == "fp8" else 2e-5)
        assert error(found[row], alone({**base, "d": d[2]})[row]) > 1e-2


def test_norms_have_scales_of_each_row(monkeypatch):
    monkeypatch.setitem(TABLE, "shifted", Shifted)
    _, model, base, _, tokens_BL, _ = made("lora")
    adapter = adapt(model, tokens_BL[:1, :2], method="shifted")
    random = np.random.default_rng(0)
    zero = adapter.init_d(base["params"], {})
    d = [
        jax.tree.map(
            lambda v: v + 0.3 * jnp.asarray(random.standard_normal(v.shape), v.dtype), zero
        )
        for _ in range(3)
    ]
    bank = make_bank(adapter, base["params"], {}, d)
    variables = {**base, "frozen": {}, "d": bank.gather(bank.index(ENTRIES))}
    found = jax.jit(lambda v: adapter.apply_rows(model, v, tokens_BL)[0])(variables)
    merged = [adapter.merge({**base, "frozen": {}, "d": one}) for one in (zero, *d)]
    run = jax.jit(lambda params: model.apply({"params": params}, tokens_BL)[0])
    for row, entry in enumerate(ENTRIES):
        within(error(found[row], run(merged[entry])[row]), 2e-5)
        assert error(found[row], run(merged[(entry + 1) % 4])[row]) > 1e-2


def test_a_method_that_trains_everything_says_what_to_do():
    adapter, model, v, tokens_BL = test_factory.made("full")
    with pytest.raises(NotByRowsError, match="each row would have a base of its own"):
        make_bank(adapter, v["params"], {}, [v["d"]])
    with pytest.raises(NotByRowsError, match="choose another method"):
        adapter.apply(model, v, tokens_BL, rows=jnp.zeros(8, jnp.int32))


def test_what_does_not_fit_is_one_clear_error():
    adapter, model, base, d, tokens_BL, bank = made("lora")
    with pytest.raises(ValueError, match=r"entries \[-1, 4\] are not in the bank of 4"):
        bank.index([0, 4, -1])
    with pytest.raises(ValueError, match="one integer for each row"):
        bank.index(np.asarray([0.5]))
    other = adapt(model, tokens_BL[:1], method="lora", config=TABLE["lora"](rank=2))
    unlike = other.init_d(base["params"], {})
    with pytest.raises(ValueError, match=r"adapter 2 .* is \(2, 32, 2\) in place of \(2, 32, 4\)"):
        make_bank(adapter, base["params"], {}, [d[0], unlike])
    rows = {**base, "d": bank.gather(bank.index([1, 2]))}
    with pytest.raises(ValueError, match=r"arrays of \[2\] rows for a batch of 8"):
        adapter.apply_rows(model, rows, tokens_BL)
    untied = Llama(CONFIG.__class__(**{**CONFIG.__dict__, "tie_word_embeddings": False}))
    params = untied.init(jax.random.key(0), tokens_BL[:, :2])["params"]
    head = adapt(untied, tokens_BL[:1], method="lora", targets=["lm_head"])
    one = make_bank(head, params, {}, [head.init_d(params, {})])
    rows = {"params": params, "frozen": {}, "d": one.gather(one.index([1] * 8))}
    with pytest.raises(NotByRowsError, match="brings its own matmul"):
        head.apply_rows(untied, rows, tokens_BL)


@pytest.mark.parametrize("name", quick_only(("unilora",), NAMES))
def test_one_row_is_that_of_the_bank(name):
    adapter, _, base, d, _, bank = made(name)
    row = jax.jit(functools.partial(make_row, adapter))(*base.values(), d[1])
    for a, b, c in zip(*map(jax.tree.leaves, (row, bank.row(2), bank.row(1))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not np.allclose(a, c, atol=1e-3)
    half = make_row(adapter, *base.values(), d[1], jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}


def test_an_entry_has_the_size_of_its_arrays():
    _, _, _, d, _, bank = made("lora")
    assert bank.bytes_an_entry == sum(leaf.nbytes for leaf in jax.tree.leaves(d[0]))
    assert SMALL_METHODS["lora"] == {"rank": 4}
