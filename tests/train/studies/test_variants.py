"""The names of variants: what they mean, and what is refused."""

import pytest

from benchmarks.variants import CHOICES, METHODS
from tera_jax.methods import TABLE
from train.params.count import count
from train.studies import schema
from train.studies.variants import Variant, parse_all


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("tera", "tera"),
        ("tera:structure=hadamard", "tera:structure=hadamard"),
        ("tera:structure=hadamard,init=orthogonal", "tera:init=orthogonal,structure=hadamard"),
        ("lora:targets=v_proj+o_proj,rank=4", "lora:rank=4,targets=v_proj+o_proj"),
        ("vera:targets=all-linear", "vera:targets=all-linear"),
        ("quanta:axes=8+8+9,rate=1e-3", "quanta:axes=8+8+9"),
        ("tera:tensorizations=576|24x24+576|12x16", "tera:tensorizations=576|24x24+576|12x16"),
        ("tera:tensorizations=v_proj=8|4x2+8|2x4", "tera:tensorizations=v_proj=8|4x2+8|2x4"),
        ("tera:zero_init_mode=longest", "tera:zero_init_mode=longest"),
        ("tera:zero_init_mode=2,gain=1", "tera:zero_init_mode=2,gain=1.0"),
    ],
)
def test_a_name_is_read_again_as_the_same_variant(spec, canonical):
    variant = Variant.parse(spec)
    assert variant.name == canonical
    again = Variant.parse(canonical)
    assert dict(again.fields) == dict(variant.fields)
    assert again.name == canonical


def test_values_have_the_types_of_the_fields():
    variant = Variant.parse("tera:tensorizations=8|4x2,gain=2,zero_init_mode=-1,rate=3e-2")
    assert variant.settings() == {
        "tensorizations": ("8|4x2",),
        "gain": 2.0,
        "zero_init_mode": -1,
    }
    assert variant.rate == 3e-2
    assert Variant.parse("lora").rate is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lorra", "unknown method 'lorra'; did you mean lora"),
        ("zzz", r"unknown method 'zzz'; choose from full, prompt"),
        ("tera:strukture=hadamard", r"no field 'strukture'; did you mean structure\?"),
        ("lora:rank=4.5", "rank is 4.5, a float"),
        ("lora:rank", "give rank one value, as rank=VALUE"),
        ("lora:rank=4,rank=8", "give rank one value"),
        ("tera:structure=fast", "structure is 'fast'; choose one of"),
        ("tera:seed=3", "--seeds sets those of all"),
        ("prompt:targets=q_proj", "prompt adapts no layers; leave targets out"),
        ("lora:rate=0", "rate is 0.0; it must be above 0"),
    ],
)
def test_what_is_refused_names_the_nearest(spec, message):
    with pytest.raises(ValueError, match=message):
        Variant.parse(spec)


def test_two_of_one_name_are_refused():
    with pytest.raises(ValueError, match="leave one out"):
        parse_all(["lora:rank=4,alpha=8", "lora:alpha=8,rank=4"])
    with pytest.raises(ValueError, match="no methods"):
        parse_all([])


def study(methods, **fields):
    tasks = [{"name": "T", "path": "none.json"}]
    return schema.make(schema.build({"model": "m", "tasks": tasks, "methods": methods, **fields}))


def test_two_variants_that_come_to_the_same_are_refused():
    with pytest.raises(ValueError, match=r"tera and tera:gain=16.0 are the same method"):
        study(["tera:gain=16", "tera"])
    assert len(study(["tera:gain=8", "tera"]).variants) == 2


@pytest.mark.parametrize("targets", ["q_proj+v_proj", "v_proj+o_proj", "all-linear"])
def test_every_method_that_adapts_layers_takes_targets(targets):
    adapting = [name for name, method in TABLE.items() if method.default_targets]
    assert {*TABLE} - {*adapting} == {"full", "prompt", "p_tuning"}
    found = study([f"{method}:targets={targets}" for method in adapting])
    for variant in found.variants:
        run = found.run(variant, found.task("T"))
        assert run.method.targets == tuple(targets.split("+"))


def test_the_settings_of_a_study_reach_its_runs():
    found = study(
        ["lora", "lora:rank=4,rate=1e-4"],
        settings={"data": {"prompt": "plain"}, "loop": {"batch_size": 6}},
        tasks=[
            {"name": "T", "path": "a", "data": {"max_tokens": 64}},
            {"name": "U", "path": "b", "data": {"prompt": "auto"}},
        ],
        steps=7,
    )
    first, second = (found.run(found.variants[0], task) for task in found.config.tasks)
    assert (first.data.path, first.data.prompt, first.data.max_tokens) == ("a", "plain", 64)
    assert (second.data.path, second.data.prompt, second.data.max_tokens) == ("b", "auto", None)
    assert (first.loop.batch_size, first.loop.steps, first.method.settings.rank) == (6, 7, 32)
    assert first.optim.learning_rate == 1e-2  # LoRA's of the recipe sft
    other = found.run(found.variants[1], found.task("T"))
    assert (other.method.settings.rank, other.optim.learning_rate) == (4, 1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"settings": {"data": {"promt": "auto"}}}, "did you mean config.data.prompt"),
        ({"settings": {"data": {"path": "x"}}}, "data.path, which the study itself sets"),
        ({"settings": {"optim": {"learning_rate": 1.0}}}, "optim.learning_rate, which the study"),
        ({"settings": {"method": {}}}, "settings has 'method'; it takes fields of model"),
        ({"settings": {"optim": {"ema_decay": 0.9}}}, "ema_decay is 0.9, but train.compare does"),
        ({"settings": {"loop": {"patience": 2}}}, "patience is 2, but train.compare does not"),
        ({"settings": {"optim": {"schedule": "wsd"}}, "steps": 9}, "'wsd' warms up for 10 steps"),
        ({"steps": 0}, "steps is 0"),
        ({"search_steps": 999}, "search_steps is 999, more than the 300 steps"),
        ({"rates": []}, "rates is empty"),
        ({"rates": "all"}, "study.rates is 'all'; it must be"),
        ({"baseline": "vera"}, "baseline 'vera' is none of lora"),
        ({"recipe": "sfx"}, "recipe 'sfx' does not exist; name a file, or one of commonsense"),
        ({"tasks": [{"name": "T", "path": "a", "test": "[9:]"}]}, "give train too"),
        ({"tasks": [{"name": "T", "path": "a", "train": "[9:]"}]}, "give validation and test"),
        ({"tasks": [{"name": "T", "path": "a"}, {"name": "T", "path": "b"}]}, "two of the name"),
        ({"tasks": [{"name": "a b", "path": "a"}]}, "name is 'a b'"),
        ({"tasks": [{"name": "T", "path": "a", "data": {"split_seed": 1}}]}, "the task itself"),
        ({"tasks": [{"name": "T", "path": "a", "rows": 1}]}, "unknown config key"),
    ],
)
def test_a_study_is_checked_before_anything_is_loaded(fields, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        study(["lora"], **fields)


def test_variants_of_the_committed_results_keep_their_names():
    names = [variant.name for variant in (*METHODS, *CHOICES)]
    assert len(set(names)) == len(names)
    assert "tera structure=hadamard init=orthogonal" in names
    assert "tera init=orthogonal targets=v_proj+o_proj" in names


def test_methods_are_compared_at_about_as_many_trainable_parameters():
    counts = {}
    for variant in CHOICES:
        named = ("fourierft", "vblora", "ln_tuning", "tensorizations", "head_dim")
        if any(each in variant.name for each in named):
            settings = variant.settings()
            targets = settings.pop("targets", None)
            counts[variant] = count("smollm2-135m", variant.method, settings, targets).trained
    assert len(counts) == 12
    assert all(35_000 < trained < 40_000 for trained in counts.values()), counts
