"""Adapters are read and put on the device by other threads, once a version."""

import threading

import numpy as np
import pytest

from tera_jax.serve.engine.adapter_source import Flat, Given
from tera_jax.serve.engine.prepared import PreparedAdapters
from tera_jax.serve.requests import UnknownAdapterError
from tera_jax.sharding import make_mesh


class Versions(Given):
    """A source with one name, whose version a test changes."""

    version = 1

    def load(self, name):
        numbers = self.version * super().load(name).numbers
        return Flat(self.version, numbers)


@pytest.fixture
def made():
    """What is prepared, by which thread."""
    return []


@pytest.fixture
def source():
    return Versions({"ana": np.ones(4, np.float32)})


@pytest.fixture
def adapters(source, made):
    def row(numbers):
        made.append(threading.current_thread())
        return {"d": 2 * numbers}

    found = PreparedAdapters(source, row, threads=2, most=1 << 20)
    yield found
    found.close()


def test_another_thread_prepares_each_version_once(adapters, source, made):
    first, second = (adapters.start("ana").result() for _ in range(2))
    assert first.version == 1
    assert first.row() is second.row()
    np.testing.assert_array_equal(first.row()["d"], np.full(4, 2.0))
    (thread,) = made
    assert thread is not threading.current_thread()
    source.version = 2
    third = adapters.start("ana").result()
    assert third.version == 2
    assert len(made) == 2
    np.testing.assert_array_equal(third.row()["d"], np.full(4, 4.0))


def test_on_several_devices_the_thread_that_takes_it_prepares_it(source, made):
    """Programs of two threads could reach the devices in different orders."""

    def row(numbers):
        made.append(threading.current_thread())
        return {"d": numbers}

    found = PreparedAdapters(source, row, threads=2, most=1 << 20, mesh=make_mesh(2, 1, 1))
    first, second = (found.start("ana").result() for _ in range(2))
    assert not made
    assert first.row() is second.row()
    assert made == [threading.current_thread()]
    found.close()


def test_what_is_not_there_is_an_error_of_the_result(adapters):
    with pytest.raises(UnknownAdapterError):
        adapters.start("ben").result()
