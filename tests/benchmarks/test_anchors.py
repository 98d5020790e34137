"""The anchors in torch: they start at the base, train what they say, and leave nothing behind."""

import functools
import gc
import math

import numpy as np
import pytest
import torch
import transformers

from benchmarks import anchors, rounds, torch_llamas
from benchmarks.anchors import ADAPTERS, Batch, Measurement, Setting, check, measure, random_batch
from tests.margins import within
from tests.marks import quick_only

TINY = torch_llamas.tiny()
BATCH = random_batch(TINY, rows=4, length=24)


def count(adapter, config):
    """Parameters on the query and value projections of all layers."""
    width = config.hidden_size
    outs = [n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads)]
    each = {
        "lora": [32 * (width + out) for out in outs],
        "hira": [32 * (width + out) for out in outs],
        "vera": [256 + out for out in outs],
    }
    return config.num_hidden_layers * sum(each[adapter])


@pytest.fixture(scope="module", params=quick_only(["lora"], ADAPTERS))
def found(request):
    setting = Setting(request.param)
    return request.param, measure(TINY, [BATCH], setting, steps=8, learning_rate=1e-2)


def test_a_run_starts_at_the_base_and_its_loss_falls(found):
    _, row = found
    assert row.first_loss == row.base_loss
    assert row.last_loss < row.first_loss - 0.1
    check(row)


def test_the_trained_parameters_are_those_of_the_closed_formula(found):
    adapter, row = found
    assert row.trained == count(adapter, TINY)


def test_a_run_has_a_name_and_takes_time(found):
    adapter, row = found
    assert row.name == f"{adapter} eager bfloat16 sdpa"
    assert row.tokens_per_second > 0
    assert 0 < row.first_seconds < row.warmup_seconds
    assert (row.graphs, row.late, row.breaks, row.note) == (0, 0, 0, "")


def test_the_clock_is_read_around_rounds_and_the_median_counts(monkeypatch):
    ticks = iter([0, 7, 8, 11, 100, 112, 200, 206, 300, 309])  # the first step, two more, 3 rounds
    monkeypatch.setattr(anchors, "_now", lambda: next(ticks))
    monkeypatch.setattr(rounds, "ROUNDS", 3)
    row = measure(TINY, [padded(), BATCH], Setting("lora"), steps=4)
    assert (row.first_seconds, row.warmup_seconds, row.step_seconds) == (7, 10, 9 / 4)
    assert row.tokens_per_second == (96 + 40 + 96 + 40) / 9


def test_the_base_is_random_and_of_bfloat16():
    base = anchors.make_base(TINY, Setting("lora"))
    weights = [p for name, p in base.named_parameters() if "norm" not in name]
    assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
    for weight in weights:
        within(abs(float(weight.detach().float().std()) / 0.15 - 1), 0.1, of_draws=True)
    assert base.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_shapes_of_7b_are_those_of_llama_2(monkeypatch):
    monkeypatch.setattr(anchors, "DEVICE", "meta")
    base = anchors.make_base(torch_llamas.llama_2_7b(), Setting("lora"))
    assert sum(p.numel() for p in base.parameters()) == 6_738_415_616
    assert count("lora", torch_llamas.llama_2_7b()) == 16_777_216


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_alone_are_trained_and_in_float32(adapter, monkeypatch):
    made = []
    real = anchors.peft.get_peft_model
    monkeypatch.setattr(
        anchors.peft, "get_peft_model", lambda *args: made.append(real(*args)) or made[-1]
    )
    start = dict(anchors.make_base(TINY, Setting(adapter)).named_parameters())
    measure(TINY, [BATCH], Setting(adapter), steps=1, warmup=1)
    moved = set()
    for name, value in made[0].named_parameters():
        if value.requires_grad:
            assert adapter in name
            assert value.dtype == torch.float32
            moved.add(name)
        else:
            key = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(value, start.pop(key))
    assert not start
    assert moved


def padded(left=False):
    """A batch of two rows, of 24 and 16 tokens."""
    mask_BL = np.ones((2, 24), bool)
    mask_BL[1, 16:] = False
    mask_BL = mask_BL[:, ::-1] if left else mask_BL
    tokens_BL = np.where(mask_BL, BATCH.tokens_BL[:2], 0)
    return Batch(tokens_BL, np.where(mask_BL, tokens_BL, -100), mask_BL)


def test_padding_is_not_counted_and_changes_no_loss():
    batches = [padded(), random_batch(TINY, 2, 16, seed=1)]
    assert [batch.real for batch in batches] == [40, 32]
    first = measure(TINY, batches, Setting("lora"), steps=3, warmup=2)
    tokens, labels, mask = padded()
    mask = np.pad(mask, ((0, 0), (0, 8)))
    wider = Batch(
        np.pad(tokens, ((0, 0), (0, 8))),
        np.pad(labels, ((0, 0), (0, 8)), constant_values=-100),
        mask,
    )
    assert wider.real == 40
    second = measure(TINY, [wider, batches[1]], Setting("lora"), steps=3, warmup=2)
    assert second.first_loss == pytest.approx(first.first_loss, rel=1e-3)
    full = Batch(tokens, np.where(labels == -100, 0, labels))
    third = measure(TINY, [full], Setting("lora"), steps=1, warmup=1)
    assert third.first_loss != pytest.approx(first.first_loss, rel=1e-3)


@pytest.mark.parametrize("batch", [BATCH, padded()])
def test_attention_without_a_mask_is_the_same(batch):
    rows = [
        measure(TINY, [batch], Setting("lora", attention=attention), steps=1, learning_rate=1e-2)
        for attention in anchors.ATTENTION
    ]
    assert rows[0].first_loss == pytest.approx(rows[1].first_loss, rel=1e-3)
    assert rows[0].last_loss == pytest.approx(rows[1].last_loss, rel=5e-3)


def test_attention_without_a_mask_refuses_padding_on_the_left():
    with pytest.raises(ValueError, match="padding on the left"):
        measure(TINY, [padded(left=True)], Setting("lora", attention="causal"))


def test_remat_runs_layers_twice_to_the_same_loss(monkeypatch):
    calls = []
    layer = transformers.models.llama.modeling_llama.LlamaMLP
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args: calls.append(0) or forward(*args))
    rows, counts = [], []
    for remat in (False, True):
        calls.clear()
        row = measure(TINY, [BATCH], Setting("lora", remat=remat), steps=2, warmup=1)
        rows.append(row)
        counts.append(len(calls))
    steps = 1 + 2 * rounds.ROUNDS
    assert counts == [2 + steps * 2, 2 + steps * 4]
    assert rows[0].last_loss == rows[1].last_loss


@pytest.mark.parametrize("arithmetic", anchors.ARITHMETIC)
def test_arithmetic_is_that_of_the_adapters_and_is_put_back(arithmetic, monkeypatch):
    seen = set()
    real = anchors.mean_loss

    def loss(*args):
        seen.add(torch.get_float32_matmul_precision())
        return real(*args)

    monkeypatch.setattr(anchors, "mean_loss", loss)
    before = torch.get_float32_matmul_precision()
    setting = Setting("lora", arithmetic=arithmetic)
    row = measure(TINY, [BATCH], setting, steps=3, learning_rate=1e-2)
    check(row)
    assert seen == {"high" if arithmetic == "tf32" else "highest"}
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.long
def test_a_compiled_step_is_one_graph_and_one_more_for_all_other_lengths(monkeypatch):
    """Traced as on a GPU, and then run without a compiler."""
    compiler = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiler)
    setting = Setting("lora", compiled=True, attention="causal", remat=True)
    row = measure(TINY, [BATCH], setting, steps=3, learning_rate=1e-2)
    check(row)
    assert (row.graphs, row.late, row.breaks) == (1, 0, 0)
    batches = [random_batch(TINY, 4, length) for length in (24, 17, 30)]
    row = measure(TINY, batches, setting, steps=3, warmup=1)
    assert (row.graphs, row.late, row.breaks) == (2, 1, 0)


def alive():
    return sum(type(x) is transformers.LlamaForCausalLM for x in gc.get_objects())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_short_memory_is_a_note_and_frees_the_model(error, monkeypatch):
    def wrapped(*args):
        try:
            raise error
        except RuntimeError as cause:
            raise RuntimeError("backend failed") from cause

    gc.collect()
    before = alive()
    monkeypatch.setattr(anchors, "mean_loss", wrapped)
    row = measure(TINY, [BATCH], Setting("lora"))
    error.__traceback__ = None  # this test holds the error, and with it the frames
    gc.collect()
    assert row.note == "out of memory"
    assert math.isnan(row.step_seconds)
    assert alive() == before
    check(row)


def test_other_errors_are_raised(monkeypatch):
    def fail(*args):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(anchors, "mean_loss", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(TINY, [BATCH], Setting("lora"))


def test_a_run_leaves_no_model():
    gc.collect()
    before = alive()
    measure(TINY, [BATCH], Setting("vera"), steps=1, warmup=1)
    assert alive() == before


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="lora eager"):
        measure(TINY, [BATCH], Setting("lora"), steps=3, learning_rate=1e30)


@pytest.mark.parametrize("losses", [(5.0, 5.2, 4.0), (5.0, 5.0, 5.0)])
def test_a_wrong_start_and_a_loss_that_does_not_fall_are_errors(losses):
    base, first, last = losses
    with pytest.raises(ValueError, match="starts elsewhere, or has not fallen"):
        check(Measurement("x", base_loss=base, first_loss=first, last_loss=last))


def test_the_table_has_a_row_for_each_setting(monkeypatch, capsys):
    words = "anchors --model=tiny --adapters lora hira --modes eager --rows=2 --length=9 --steps=4"
    monkeypatch.setattr("sys.argv", [*words.split(), "--learning-rate=0.01"])
    anchors.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| lora eager bfloat16 sdpa",
        "| hira eager bfloat16 sdpa",
    ]
    assert len({line.count("|") for line in lines}) == 1
