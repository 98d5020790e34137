"""Three tasks of lm-evaluation-harness on a local file."""

import json

LONG = " ".join(f"the cat saw {number} red suns over the sea." for number in range(60))
TASKS = ("tiny_choice", "tiny_rolling", "tiny_answer")


def write_tasks(path):
    """TASKS and their examples, in a directory."""
    rows = [
        {
            "question": f"{letter}: is the cat red?{LONG[: 40 * place]}",
            "choices": [" yes, red", "no", "a blue dog"],
            "gold": place % 3,
            "text": LONG[: 500 * place + 20],
        }
        for place, letter in enumerate("abcd")
    ]
    (path / "rows.json").write_text(json.dumps(rows))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(path / "rows.json")},
            "cache_dir": str(path / "cache"),
        },
        "test_split": "test",
    }
    question = {"doc_to_text": "{{question}}\nAnswer:", "doc_to_target": "{{gold}}"}
    specific = (
        {
            **question,
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        {
            **question,
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False},
            "metric_list": [{"metric": "bypass"}],
        },
    )
    for name, own in zip(TASKS, specific, strict=True):
        (path / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **own}))  # is YAML
    return path
