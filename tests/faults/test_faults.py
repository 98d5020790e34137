"""Faults, each once; ``python -m tests.faults.inject --times=20`` for all of them and more."""

import pytest

from tests.faults import faults, inject, table
from tests.faults import scene as scenes
from tests.marks import quick_only
from train import data

QUICK = ("SIGTERM", "damaged checkpoint")


@pytest.fixture(scope="module")
def scene(tiny_llama, records_path, tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    return scenes.Scene(scenes.make_config(directory, tiny_llama, records_path), directory)


# On a full disk the thread that writes TensorBoard's events dies with the error that the run has.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", quick_only(QUICK, sorted(table.FAULTS)))
def test_no_fault_loses_a_run(scene, name):
    assert inject.inject(scene, name, times=1) == 0


def test_a_lost_run_is_counted(scene, monkeypatch):
    """By a fault that changes what the run is: another seed of its order."""

    def other_order(scene, workdir, rng):
        faults.sigterm(scene, workdir, rng)
        order = data.DataIterator._order
        monkeypatch.setattr(
            data.DataIterator, "_order", lambda stream, epoch: order(stream, epoch)[::-1]
        )

    monkeypatch.setitem(table.FAULTS, "another order", table.Fault(other_order))
    assert inject.inject(scene, "another order", times=1) == 1
