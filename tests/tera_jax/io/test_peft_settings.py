"""Every key of PEFT's configurations is accounted for, and what is not read is named."""

import dataclasses
import enum
import json
from typing import Any

import peft
import pytest

from tera_jax.io.peft import settings
from tera_jax.io.peft.settings import TABLES
from tera_jax.json_files import REQUIRED

CONFIGS = {
    "LORA": peft.LoraConfig,
    "VERA": peft.VeraConfig,
    "RANDLORA": peft.RandLoraConfig,
    "HIRA": peft.HiraConfig,
    "UNILORA": peft.UniLoraConfig,
    "VBLORA": peft.VBLoRAConfig,
    "FOURIERFT": peft.FourierFTConfig,
    "LN_TUNING": peft.LNTuningConfig,
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
}
BEFORE_0_3 = {"LORA": {"enable_lora", "merge_weights"}}
NOT_IN_FILES = {"runtime_config"}
KEYS = [(kind, key) for kind, table in TABLES.items() for key in table]
PROMPT = {"num_virtual_tokens": 3}
PROMPT_OF = {kind: PROMPT if kind in ("PROMPT_TUNING", "P_TUNING") else {} for kind in TABLES}


def read(path, kind="LORA", text=None, **config):
    """What is read of a configuration with these keys."""
    content = {"peft_type": kind, **PROMPT_OF.get(kind, {}), **config}
    (path / "adapter_config.json").write_text(json.dumps(content) if text is None else text)
    return settings.read(path)


def default(field):
    """PEFT's, as JSON has it."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default.value if isinstance(field.default, enum.Enum) else field.default


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_of_peft_has_a_row_with_its_default(kind):
    """A field that a newer PEFT adds, or whose default it changes, fails here."""
    fields = {field.name: field for field in dataclasses.fields(CONFIGS[kind])}
    table = TABLES[kind]
    assert set(fields) - NOT_IN_FILES == set(table) - NOT_IN_FILES - BEFORE_0_3.get(kind, set())
    for name in set(fields) - NOT_IN_FILES - {"peft_type", "num_virtual_tokens"}:
        assert table[name].default == default(fields[name]), name
        assert table[name].takes(table[name].default), name
    assert table["peft_type"].default is REQUIRED
    assert set(CONFIGS) == set(TABLES)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_default_configuration_of_peft_is_read(kind, tmp_path):
    CONFIGS[kind](**PROMPT_OF[kind]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    found = settings.read(tmp_path)
    assert found.items() >= written.items()
    turned = {key: written[key] for key in reversed(written)}
    assert read(tmp_path, text=json.dumps(turned)) == found
    absent = read(tmp_path, kind)
    assert {**absent, "peft_version": written["peft_version"]} == found


def test_every_other_type_is_refused_by_its_name(tmp_path):
    others = [kind.value for kind in peft.PeftType if kind.value not in TABLES]
    assert {"PREFIX_TUNING", "CPT", "MULTITASK_PROMPT_TUNING", "ADALORA", "IA3"} <= set(others)
    for kind in [*others, "NEW"]:
        with pytest.raises(
            ValueError, match=rf"adapter_config\.json is of type '{kind}', and read"
        ):
            read(tmp_path, kind)
    with pytest.raises(ValueError, match=r"adapter_config\.json lacks peft_type, a text; save the"):
        read(tmp_path, text="{}")
    with pytest.raises(ValueError, match="sets peft_type to None, not a text"):
        read(tmp_path, text='{"peft_type": null}')


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_value_of_another_type_is_named_with_file_and_key(kind, key, tmp_path):
    row = TABLES[kind][key]
    if row.kind is Any:
        assert key == "runtime_config"
        return
    refused = 0
    for value in ([["x"]], [{"x": 1}], "?", -1, True, False, 2.5, None):
        if row.takes(value):
            continue
        refused += 1
        with pytest.raises(ValueError, match=rf"adapter_config\.json sets {key} to "):
            read(tmp_path, text=json.dumps({"peft_type": kind, **PROMPT_OF[kind], key: value}))
    assert refused >= 4


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_unknown_key_is_refused_by_name(kind, tmp_path):
    with pytest.raises(ValueError, match=r"has the unknown key 'lora_magic' \(1\); merge the"):
        read(tmp_path, kind, lora_magic=1)
    with pytest.raises(ValueError, match="the key 'r' stands twice"):
        read(tmp_path, text='{"peft_type": "LORA", "r": 4, "r": 8}')
    with pytest.raises(ValueError, match="more than 64 objects and lists"):
        read(tmp_path, text='{"peft_type": ' + "[" * 5000)


@pytest.mark.parametrize("kind", ["LORA", "VERA", "RANDLORA", "HIRA", "UNILORA", "VBLORA"])
@pytest.mark.parametrize("rank", ["8", 8.5, 8.0, True, 0, -1, None, [8]])
def test_a_rank_is_a_whole_number_of_at_least_1(kind, rank, tmp_path):
    assert read(tmp_path, kind, r=1)["r"] == 1
    with pytest.raises(ValueError, match=r"sets r to .*, not a whole number of at least 1; merge"):
        read(tmp_path, kind, r=rank)


START = "path_initial_model_for_weight_conversion, which makes it a plain LoRA"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"alora_invocation_tokens": [5, 6]},
            r"sets alora_invocation_tokens to \[5, 6\], not null",
        ),
        ({"arrow_config": {"top_k": 2}}, "sets arrow_config to .* a router of several adapters"),
        ({"kasa_config": {}}, r"sets kasa_config to \{\}, not null; merge the adapter in PEFT"),
        ({"use_bdlora": {"nblocks": 2}}, "sets use_bdlora to"),
        ({"use_qalora": True}, "sets use_qalora to True, not false"),
        ({"velora_config": {}}, "sets velora_config to"),
        ({"monteclora_config": {}}, "sets monteclora_config to"),
        ({"megatron_config": {}}, "sets megatron_config to"),
        ({"layer_replication": [[0, 2]]}, "sets layer_replication to"),
        ({"trainable_token_indices": [3]}, r"sets trainable_token_indices to \[3\], not an empty"),
        ({"target_parameters": ["mlp.w"]}, "sets target_parameters to"),
        ({"lora_bias": True}, "sets lora_bias to True, not false"),
        ({"bias": "lora_only"}, "sets bias to 'lora_only', not \"none\""),
        ({"fan_in_fan_out": True}, "sets fan_in_fan_out to True, not false; set it to false"),
        ({"task_type": "SEQ_CLS"}, "sets task_type to 'SEQ_CLS', not \"CAUSAL_LM\" or null; the"),
        ({"init_lora_weights": "olora"}, f"sets init_lora_weights to 'olora', .*{START}"),
        ({"init_lora_weights": "corda"}, f"sets init_lora_weights to 'corda', .*{START}"),
        ({"init_lora_weights": "loftq"}, "sets init_lora_weights to 'loftq', .* or merge it"),
        ({"init_lora_weights": "lora_ga"}, f"sets init_lora_weights to 'lora_ga', .*{START}"),
        ({"init_lora_weights": "pissa_niter_4"}, f"to 'pissa_niter_4', .*{START}"),
        ({"init_lora_weights": "new"}, "sets init_lora_weights to 'new'"),
        ({"init_lora_weights": 1}, "sets init_lora_weights to 1, not"),
        (
            {"init_lora_weights": "pissa", "use_dora": True},
            "sets use_dora to True beside init_lora",
        ),
        (
            {"init_lora_weights": "pissa", "rank_pattern": {"q": 2}},
            "sets rank_pattern to .* beside",
        ),
        ({"lora_alpha": 0}, "sets lora_alpha to 0, not a number of at least 1e-06 and below 1e"),
        ({"lora_alpha": 1e300}, "sets lora_alpha to 1e[+]300, not a number"),
        ({"lora_alpha": "16"}, "sets lora_alpha to '16', not a number"),
        ({"lora_dropout": 1.0}, "sets lora_dropout to 1.0, not a number of at least 0 and below 1"),
        ({"rank_pattern": {"q_proj": 0}}, r"sets rank_pattern to \{'q_proj': 0\}, not an object"),
        ({"rank_pattern": {"q_proj": 2.0}}, "sets rank_pattern to"),
        ({"alpha_pattern": {"q_proj": True}}, "sets alpha_pattern to"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "sets layers_to_transform to"),
        (
            {"layers_pattern": "layers"},
            "sets layers_pattern to 'layers' without layers_to_transform",
        ),
        ({"layers_to_transform": [True]}, "sets layers_to_transform to"),
        ({"enable_lora": [True]}, "sets enable_lora to"),
    ],
)
def test_what_is_not_read_of_lora_is_refused_by_name(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_virtual_tokens": None}, "sets num_virtual_tokens to None, not a whole number"),
        ({"num_virtual_tokens": 0}, "sets num_virtual_tokens to 0"),
        ({"num_transformer_submodules": 2}, "sets num_transformer_submodules to 2, not 1 or null"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save to .*, not an empty list or null"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "sets task_type to 'SEQ_2_SEQ_LM'"),
    ],
)
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING"])
def test_what_is_not_read_of_a_prompt_is_refused_by_name(kind, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, kind, **change)
    with pytest.raises(ValueError, match="lacks num_virtual_tokens, a whole number of at least 1"):
        read(tmp_path, text=json.dumps({"peft_type": kind}))
