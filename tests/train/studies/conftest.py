import pytest

_ONE_SHAPE = ("prompt=hira", "max_prompt=48", "max_response=8", "packed_length=None")
"""So that the held-out loss is compiled once for all parts."""


@pytest.fixture(scope="session")
def flags(tiny_llama, records_path):
    """Of a study of four steps a run, and two rates."""
    return [
        f"--model={tiny_llama}",
        f"--data=T={records_path}[:60]",
        "--validation-rows=6",
        "--test-rows=8",
        "--steps=4",
        "--seeds=2",
        "--rates=1e-2",
        "--set=loop.batch_size=2",
        "--set=model.remat=none",
        *[f"--set=data.{each}" for each in _ONE_SHAPE],
        "--workers=1",
    ]
