"""Servers in processes of their own."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[4]


@contextlib.contextmanager
def started(place, *flags):
    """A server of what ``benchmarks.soak_world`` made: its process and its address, when ready."""
    command = [sys.executable, "-m", "tera_jax.serve", f"--model={place / 'tiny'}", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, *flags], env=environment, stderr=log)
        try:
            yield process, ready(process, log)
        finally:
            process.kill()
            process.wait()


def ready(process, log, seconds=300):
    """The address that a server tells, when it answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        log.seek(0)
        said = log.read()
        assert process.poll() is None, said
        if found := re.search(r"http://\S+", said):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{found[0]}/health").status_code == 200:
                    return found[0]
        time.sleep(0.1)
    raise TimeoutError("the server is not ready")
