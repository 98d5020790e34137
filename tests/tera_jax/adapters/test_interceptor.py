"""The interceptor, on a linen model that is not the Llama: dense layers, bias, scan and remat."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tera_jax import trees
from tera_jax.adapters.factory import adapt
from tera_jax.adapters.targets import model_layers
from tera_jax.methods.tera import TeRA
from tests import initial
from tests.marks import quick_only


class Layer(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BD, _):
        q_BD = nn.Dense(8, name="q_proj", dtype=self.dtype)(x_BD)
        v_BNH = nn.DenseGeneral((2, 4), name="v_proj", dtype=self.dtype)(x_BD)
        return nn.tanh(q_BD + v_BNH.reshape(x_BD.shape)), None


class Tower(nn.Module):
    """Three scanned layers and a plain head."""

    lifted: tuple[str, ...] = ("params", "d", "frozen")
    remat: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BD):
        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        layers = nn.scan(
            layer,
            variable_axes=dict.fromkeys(self.lifted, 0),
            split_rngs={"params": True},
            length=3,
        )
        x_BD, _ = layers(self.dtype, name="layers")(x_BD.astype(self.dtype), None)
        return nn.Dense(6, name="head", dtype=self.dtype)(x_BD)


X = jnp.asarray(np.random.default_rng(0).standard_normal((5, 8)), jnp.float32)
EVERY = ("q_proj", "v_proj", "head")


def variables(model, adapter, perturbed=True):
    params = initial.params(model, X)
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases that are not zero
    frozen = initial.frozen(adapter, params)
    d = initial.d(adapter, params, frozen)
    if perturbed:
        random = np.random.default_rng(1)
        d = jax.tree.map(
            lambda v: v + jnp.asarray(0.3 * random.standard_normal(v.shape), v.dtype), d
        )
    return {"params": params, "frozen": frozen, "d": d}


def frozen_of(config, targets):
    adapter = adapt(Tower(), X, config=config, targets=targets)
    return initial.frozen(adapter, initial.params(Tower(), X))


@pytest.mark.parametrize("sharing", ["shape", "module", "none"])
@pytest.mark.parametrize("targets", quick_only([EVERY], [("q_proj",), EVERY]))
def test_the_adapted_model_is_the_base_with_merged_kernels(sharing, targets):
    model = Tower()
    adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0, sharing=sharing), targets=targets)
    v = variables(model, adapter)
    base = {"params": v["params"]}
    adapted = jax.jit(lambda v, x: adapter.apply(model, v, x))(v, X)
    merged = {"params": adapter.merge(v)}
    np.testing.assert_allclose(adapted, model.apply(merged, X), rtol=1e-5, atol=1e-5)
    assert not np.allclose(adapted, model.apply(base, X), atol=1e-2)
    for path, before in jax.tree_util.tree_leaves_with_path(base["params"]):
        name = trees.name(path)
        after = merged["params"]
        for key in name.split("/"):
            after = after[key]
        touched = any(name.endswith(f"{target}/kernel") for target in targets)
        assert jnp.array_equal(before, after) != touched, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_at_step_0_the_adapted_model_is_the_base_exactly(dtype):
    model = Tower(dtype=dtype)
    adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0), targets=EVERY)
    v = variables(model, adapter, perturbed=False)
    x = X.astype(dtype)
    expected = jax.jit(model.apply)({"params": v["params"]}, x)
    assert jnp.array_equal(jax.jit(lambda v: adapter.apply(model, v, x))(v), expected)
    merged = adapter.merge(v)
    assert all(map(jnp.array_equal, jax.tree.leaves(merged), jax.tree.leaves(v["params"])))


def test_gradients_reach_every_d_and_are_the_same_without_scan_and_remat_of_the_layer():
    grads = []
    for remat in (True, False):
        model = Tower(remat=remat)
        adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0), targets=EVERY)
        v = variables(model, adapter)

        def loss(d, model=model, adapter=adapter, v=v):
            return jnp.sum(adapter.apply(model, {**v, "d": d}, X) ** 2)

        grads.append(jax.jit(jax.grad(loss))(v["d"]))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert jnp.all(jnp.any(a != 0, axis=-1))


def test_gradient_equals_finite_differences():
    model = Tower()
    adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0), targets=EVERY)
    with jax.enable_x64(True):
        v = jax.tree.map(lambda a: a.astype(jnp.float64), variables(model, adapter))
        x = X.astype(jnp.float64)
        model = Tower(dtype=jnp.float64)

        @jax.jit
        def loss(d):
            return jnp.mean(adapter.apply(model, {**v, "d": d}, x) ** 2)

        jax.test_util.check_grads(loss, (v["d"],), order=1, modes=["rev"], rtol=1e-6)


def test_sharing_decides_how_many_networks_there_are():
    def networks(sharing):
        config = TeRA(num_modes=2, gain=1.0, sharing=sharing)
        frozen = frozen_of(config, EVERY)
        cores = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(frozen)
            if "core" in jax.tree_util.keystr(path)
        ]
        return sorted(core.shape for core in cores)

    assert networks("shape") == [(8, 2, 3), (8, 2, 4)]
    assert networks("module") == [(8, 2, 3), (8, 2, 4), (8, 2, 4)]
    assert networks("none") == [(3, 8, 2, 4), (3, 8, 2, 4), (8, 2, 3)]


def test_unshared_networks_all_differ():
    config = TeRA(num_modes=2, gain=1.0, sharing="none")
    frozen = frozen_of(config, EVERY)
    layers = frozen["layers"]
    cores = [layers[name]["tera"]["core"][i] for name in ("q_proj", "v_proj") for i in range(3)]
    assert len({float(core[0, 0, 0]) for core in cores}) == 6


def test_a_set_does_not_depend_on_the_other_targets():
    alone = frozen_of(TeRA(num_modes=2, gain=1.0), ["head"])
    among = frozen_of(TeRA(num_modes=2, gain=1.0), EVERY)
    assert jnp.array_equal(alone["shared"]["8x6"]["core"], among["shared"]["8x6"]["core"])


def test_linear_layers_are_found_with_their_stack():
    found = {site.name: (site.kernel_shape, site.stack) for site in model_layers(Tower(), X).linear}
    assert found == {
        "head": ((8, 6), ()),
        "layers/q_proj": ((8, 8), (3,)),
        "layers/v_proj": ((8, 8), (3,)),
    }


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["layers/q_proj"]),
        (["*_proj"], ["layers/q_proj", "layers/v_proj"]),
        (["layers/?_proj", "head"], ["head", "layers/q_proj", "layers/v_proj"]),
        (["*"], ["head", "layers/q_proj", "layers/v_proj"]),
    ],
)
def test_targets_are_patterns_of_paths(targets, expected):
    adapter = adapt(Tower(), X, config=TeRA(num_modes=2, gain=1.0), targets=targets)
    assert [site.name for site in adapter.layers] == expected


def test_an_unknown_target_is_refused_with_the_list_of_layers():
    with pytest.raises(ValueError, match=r"target 'proj' names no linear layer.*layers/q_proj"):
        adapt(Tower(), X, targets=["q_proj", "proj"])
    with pytest.raises(ValueError, match="no targets"):
        adapt(Tower(), X, targets=[])


def test_an_unknown_method_or_a_foreign_configuration_is_refused(unchecked):
    with pytest.raises(ValueError, match="method 'lora-x'; choose one of"):
        adapt(Tower(), X, method="lora-x")
    with pytest.raises(ValueError, match="takes"):
        adapt(Tower(), X, config={"num_modes": 2})


def test_a_tensorization_that_fits_no_kernel_is_refused():
    with pytest.raises(ValueError, match=r"'9\|2x4' folds a kernel \(9, 8\), but .*\[\(8, 8\)\]"):
        adapt(Tower(), X, config=TeRA(tensorizations=("9|2x4",)))


def test_a_scan_that_does_not_carry_the_collections_is_named():
    model = Tower(lifted=("params",))
    adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0))
    with pytest.raises(ValueError, match=r"'layers/[qv]_proj' does not see .*collection 'd'"):
        adapter.apply(model, variables(model, adapter), X)


def test_a_layer_with_its_own_product_keeps_it():
    def wide(lhs, rhs, dimensions, precision=None):
        return jax.lax.dot_general(
            lhs, rhs, dimensions, precision, preferred_element_type=jnp.float32
        )

    model = nn.Dense(6, dtype=jnp.bfloat16, dot_general=wide, use_bias=False)
    model = nn.Sequential((model,))
    adapter = adapt(model, X, config=TeRA(num_modes=2, gain=1.0), targets=["layers_0"])
    v = variables(model, adapter)
    y = adapter.apply(model, v, X)
    assert y.dtype == jnp.float32
    assert jnp.array_equal(y, model.apply({"params": adapter.merge(v)}, X))
