"""What train.many refuses before the base is loaded, by name."""

import json

import pytest

from tests.train.many_adapters import worlds
from train import many
from train.many_adapters import pipeline, specification
from train.training import lock


@pytest.fixture
def start(tiny_llama, tmp_path, monkeypatch):
    """The command, which must end before the base is loaded."""

    def build(*_):
        raise AssertionError("the base was to be loaded")

    monkeypatch.setattr(pipeline.runs, "build", build)

    def start(adapters, *more, method="tera"):
        many.main(worlds.arguments(tiny_llama, adapters, tmp_path / "run", method, *more))

    return start


@pytest.fixture
def lines(tmp_path):
    """Writes a file of adapters; by default each has good records."""
    good = worlds.write_people(tmp_path / "people", 1).with_name("p0.jsonl")

    def write(*rows):
        rows = [{"data": str(good), **row} for row in rows]
        return worlds.write_lines(tmp_path / "given.jsonl", rows)

    return write


A = {"name": "a"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([A, {"name": "A"}], r"line 2 is named 'A', as .*line 1 is; give each a name of its own"),
        ([A, {}], "line 2 lacks name, a text; give each adapter a name and its data"),
        ([{"name": "../a"}], r"line 1 is named '\.\./a', but its directory has that name"),
        (
            [A, {"name": "b", "data": "none.jsonl"}],
            r"line 2 \('b'\): data file none\.jsonl does not",
        ),
        ([{**A, "steps": 2, "epochs": 1}], "line 1 has both steps and epochs; leave one out"),
        ([{**A, "steps": 0}], "line 1: config.loop.steps is 0; it must be at least 1"),
        ([{**A, "learning_rate": "x"}], "line 1: config.optim.learning_rate is 'x', a str"),
        ([{**A, "num_modes": 3}], "'num_modes': the frozen arrays.*--config.method.num_modes"),
        ([{**A, "seed": -1}], "line 1: config.loop.seed is -1"),
        ([{**A, "batch_size": 4}], "'batch_size': adapters of a run do not differ in it; .*loop"),
        ([{**A, "learning_rat": 1}], "unknown field learning_rat; did you mean learning_rate"),
        ([{**A, "zero_init_mode": 0}], "line 1: config.method: ?zero_init_mode 0|line 1: .*zero"),
        ([], "names no adapters; give at least one"),
    ],
)
def test_a_line_is_refused_by_its_number(start, lines, rows, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        start(lines(*rows))


def test_a_line_that_is_no_object_is_refused(start, tmp_path):
    file = tmp_path / "given.jsonl"
    file.write_text('{"name": "a", "data": "a.jsonl"}\n\n[1]\n')
    with pytest.raises(ValueError, match=r"line 3 is not JSON \(its top level is no object\)"):
        start(file)
    with pytest.raises(FileNotFoundError, match=r"none does not exist; --adapters names"):
        start(tmp_path / "none")


def test_bad_records_are_refused_by_the_line_of_their_adapter(start, lines, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"line 2 \('b'\): .*bad\.jsonl"):
        start(lines(A, {"name": "b", "data": str(tmp_path / "bad.jsonl")}))


LONGER = (
    r"line 2 \('b'\): the longest record has [\d,]+ tokens, but the model's context has [\d,]+;"
)


def test_records_beyond_the_context_are_refused_by_the_line_of_their_adapter(
    start, lines, tmp_path
):
    rows = [{"prompt": "red", "completion": f"the sun {i} " * (200 if i else 1)} for i in range(3)]
    worlds.write_lines(tmp_path / "long.jsonl", rows)
    both = lines(A, {"name": "b", "data": str(tmp_path / "long.jsonl")})
    with pytest.raises(ValueError, match=LONGER):
        start(both)
    with pytest.raises(AssertionError, match="was to be loaded"):
        start(lines(A))


def test_virtual_tokens_count_towards_the_context(start, lines):
    more = "--config.method.num_virtual_tokens={}".format
    with pytest.raises(AssertionError, match="was to be loaded"):
        start(lines(A), more(4), method="prompt")
    with pytest.raises(ValueError, match=LONGER.replace("2", "1", 1).replace("b", "a", 1)):
        start(lines(A), more(2000), method="prompt")


@pytest.mark.parametrize(
    ("method", "flag", "message"),
    [
        ("full", "", "'full' trains a copy of every parameter"),
        ("tera", "--config.loop.grad_accum_steps=2", "grad_accum_steps is 2.*lower --active"),
        ("tera", "--config.export=('hf',)", r"config.export is \('hf',\), but every adapter"),
        ("tera", "--config.evaluate.path=x.json", "generates no answers"),
        ("tera", "--config.data.path=x.json", "each adapter has data of its own; leave it out"),
        ("tera", "--config.optim.ema_decay=0.9", "ema_decay is 0.9, but train.many does not have"),
        ("tera", "--config.loop.patience=2", "patience is 2, but train.many does not have it"),
        ("tera", "--config.model.adapter=x", "model.adapter is 'x', but train.many does not"),
        ("tera", "--config.data.streaming=True", "streaming is True, but train.many does not"),
        ("tera", "--config.loop.loggers=('jsonl',)", "loggers is .*, but train.many does not"),
        ("tera", "--active=0", "--active is 0; it must be at least 1"),
    ],
)
def test_settings_that_many_do_not_have_are_refused(start, lines, method, flag, message):
    with pytest.raises(ValueError, match=message):
        start(lines(A), *filter(None, [flag]), method=method)


def test_a_schedule_longer_than_an_adapters_steps_is_refused(start, lines):
    with pytest.raises(ValueError, match=r"line 1 \('a'\): .*'wsd' warms up for 99 steps"):
        start(lines({**A, "warmup_steps": 99}), "--config.optim.schedule=wsd")


def test_an_unknown_flag_and_several_processes_are_refused(start, lines, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        start(lines(A), "--config_loop.steps=2")
    assert "unknown argument --config_loop.steps=2" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match=r"runs in one process; start it without a launcher"):
        start(lines(A))


def test_a_directory_names_its_adapters_by_their_files(start, lines, tmp_path):
    good = lines(A).with_name("people") / "p0.jsonl"
    place = tmp_path / "data"
    place.mkdir()
    for name in ("b.jsonl", "a.jsonl", ".hidden"):
        (place / name).write_text(good.read_text())
    base = worlds.base("--config=sft", "--model=m")
    found = specification.read(place, base)
    assert [each.name for each in found] == ["a", "b"]
    assert found[0].config.data.path == str(place / "a.jsonl")
    (place / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.jsonl is named 'a', as .*a\.json is"):
        start(place)
    (place / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data is one data set \(state\.json\)"):
        start(place)


def test_fields_that_share_a_network_may_differ(lines):
    base = worlds.base("--config=sft", "--model=m")
    rows = [{**A, "zero_init_mode": 2, "epochs": 1.5}, {"name": "b", "seed": 3}]
    one, two = (each.config for each in specification.read(lines(*rows), base))
    assert (one.method.settings.zero_init_mode, two.method.settings.zero_init_mode) == (
        2,
        "longest",
    )
    assert (one.loop.steps, one.loop.epochs, two.loop.seed) == (None, 1.5, 3)


def test_a_directory_of_another_run_is_refused_and_one_in_use(start, lines, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="run is there and not empty"):
        start(lines(A))
    (run / "config.json").unlink()
    with lock.held(run), pytest.raises(FileExistsError, match="in use by process"):
        start(lines(A))
    with pytest.raises(AssertionError, match="was to be loaded"):
        start(lines(A))


def test_other_values_than_those_of_the_run_are_refused(
    start, lines, tmp_path, tiny_llama, monkeypatch
):
    def stop(*_):
        raise KeyError

    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "fit", stop)
    file = lines(A, {"name": "b"})
    given = worlds.arguments(tiny_llama, file, tmp_path / "run", "tera")
    with pytest.raises(KeyError):
        many.main(given)
    with pytest.raises(KeyError):
        many.main([*given, "--config.loop.log_every=3", "--config.evaluate.batch_size=2"])
    for rows, message in (
        ([A, {"name": "b", "seed": 1}], "run.adapters.b.seed: None -> 1"),
        ([A], "run.active: 2 -> 1; run.adapters.b: .* -> None"),
        ([{"name": "b"}, A], "run.adapters: they stand in another order"),
    ):
        with pytest.raises(FileExistsError, match=message):
            many.main(worlds.arguments(tiny_llama, lines(*rows), tmp_path / "run", "tera"))
    lines(A, {"name": "b"})
    with pytest.raises(FileExistsError, match=r"config\.optim\.weight_decay: 0\.0 -> 0\.1"):
        many.main([*given, "--config.optim.weight_decay=0.1"])
    records = tmp_path / "people" / "p0.jsonl"
    records.write_text(records.read_text().replace("red", "rod"))
    with pytest.raises(ValueError, match=r"made with records of identity .* in a\.data\.path"):
        many.main(given)
