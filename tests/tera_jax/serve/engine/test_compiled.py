"""An engine compiles all its programs at its start, also for weights that have a place."""

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tera_jax.serve.engine import Engine
from tera_jax.sharding import make_mesh
from tests.tera_jax.serve.engines import BUCKETED, Client, filled, kind


def place(name):
    """Where ``load_pretrained`` puts weights without a mesh of several devices."""
    if name == "device":
        return jax.devices()[0]
    return NamedSharding(make_mesh(1, 1, 1), PartitionSpec())


@pytest.mark.parametrize("name", ["mesh", pytest.param("device", marks=pytest.mark.long)])
def test_nothing_is_compiled_for_the_first_requests(tmp_path, name):
    """The first is alone, and later ones come together."""
    model, _, base, *_ = kind()
    compiled = []

    def listen(event, *_, **__):
        if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
            compiled.append(event)

    with filled(tmp_path / "s", 4) as store:
        params = jax.device_put(base["params"], place(name))
        jax.monitoring.register_event_duration_secs_listener(listen)
        engine = Engine.of_store(model, params, store, BUCKETED)
        at_start = len(compiled)
        for count in (1, 4):
            for client in [Client(engine, [20], f"n{seed}") for seed in range(count)]:
                client.wait()
        engine.close()
    jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == at_start > 0
