"""Adapters are read and put on the device by other threads, once a version."""

import threading

import jax
import numpy as np
import pytest

from tera_jax.serve.engine.adapter_source import Flat, Given
from tera_jax.serve.engine.device_adapters import DeviceAdapters
from tera_jax.serve.requests import UnknownAdapterError


class Versions(Given):
    """A source with one name, whose version a test changes."""

    now = 1

    def version(self, name):
        raise TimeoutError("another process writes")  # of an index that is being written to

    def load(self, name):
        numbers = self.now * super().load(name).numbers
        return Flat(self.now, numbers)


@pytest.fixture
def placed():
    """By which thread each adapter was put on the device."""
    return []


@pytest.fixture
def source():
    return Versions({"ana": np.ones(4, np.float32)})


@pytest.fixture
def adapters(source, placed):
    def place(numbers):
        placed.append(threading.current_thread())
        return jax.device_put(numbers)

    found = DeviceAdapters(source, place, threads=2, most=1 << 20)
    yield found
    found.close()


def test_another_thread_puts_each_version_on_the_device_once(adapters, source, placed):
    first, second = (adapters.start("ana", 1).result() for _ in range(2))
    assert first.version == 1
    assert first.numbers is second.numbers
    np.testing.assert_array_equal(first.numbers, np.ones(4))
    (thread,) = placed
    assert thread is not threading.current_thread()
    assert (source.hits, adapters.hits) == (1, 1)
    source.now = 2
    assert adapters.start("ana", 1).result() is first  # of a request that came before the put
    third = adapters.start("ana", 2).result()
    assert third.version == 2
    assert len(placed) == 2
    np.testing.assert_array_equal(third.numbers, np.full(4, 2.0))


def test_what_is_on_the_device_needs_no_thread(adapters):
    adapters.start("ana", 1).result()
    adapters.close()
    assert adapters.start("ana", 1).done()


def test_requests_that_come_together_put_an_adapter_there_once(source):
    placed, begun = [], threading.Event()

    def place(numbers):
        assert begun.wait(60)
        placed.append(numbers)
        return jax.device_put(numbers)

    found = DeviceAdapters(source, place, threads=1, most=1 << 20)
    first, second = (found.start("ana", 1) for _ in range(2))
    begun.set()
    assert first.result() is second.result()
    assert len(placed) == 1
    found.close()


def test_what_does_not_fit_is_put_there_again(source, placed):
    def place(numbers):
        placed.append(numbers)
        return jax.device_put(numbers)

    found = DeviceAdapters(source, place, threads=1, most=0)
    first, second = (found.start("ana", 1).result() for _ in range(2))
    found.close()
    assert first.numbers is not second.numbers
    assert len(placed) == 2


def test_what_is_not_there_is_an_error_of_the_result(adapters):
    with pytest.raises(UnknownAdapterError):
        adapters.start("ben", 1).result()
