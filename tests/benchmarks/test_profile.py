import jax.numpy as jnp

from benchmarks.profile import Kernel, kernels, profiled, report
from tests.margins import close


def event(name, duration, tid=1, pid=9):
    return {"ph": "X", "name": name, "dur": duration, "pid": pid, "tid": tid, "ts": 0}


def names(pid, process, tid, thread):
    return [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}},
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}},
    ]


TRACE = {
    "traceEvents": [
        *names(9, "/device:GPU:0", 1, "Stream #7(Compute)"),
        *names(9, "/device:GPU:0", 2, "XLA Ops"),
        *names(8, "/host:CPU", 3, "python"),
        event("nvjet_tst_128x256", 2000),
        event("loop_convert_fusion", 500),
        event("nvjet_tst_128x256", 3000),
        event("MemcpyD2D", 250),
        event("dot.3", 9000, tid=2),  # the same time, told by operation
        event("step", 9000, tid=3, pid=8),
    ]
}


def test_kernels_of_the_device_are_summed_by_name():
    found = kernels(TRACE)
    assert [(kernel.name, kernel.calls) for kernel in found] == [
        ("nvjet_tst_128x256", 2),
        ("loop_convert_fusion", 1),
        ("MemcpyD2D", 1),
    ]
    close(found[0].seconds, 5e-3, rtol=1e-9, atol=0)
    assert [kernel.kind for kernel in found] == ["matrix products", "elementwise", "copies"]


def test_the_report_says_what_takes_how_much():
    lines = list(report(kernels(TRACE), most=1))
    assert lines[0].split() == ["5.00", "ms", "87.0%", "matrix", "products"]
    assert lines[-1].endswith("nvjet_tst_128x256")
    assert len(lines) == 4
    assert list(report([])) == []


def test_kinds_of_kernels():
    for name, kind in (
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("wrapped_dynamic_update_slice", "copies"),
        ("RadixTopKKernel", "top-k and sorts"),
        ("input_reduce_fusion", "elementwise"),
    ):
        assert Kernel(name, 1, 1.0).kind == kind


def test_a_profile_of_the_host_alone_has_no_kernels():
    assert profiled(lambda: jnp.ones(3) + 1) == []
