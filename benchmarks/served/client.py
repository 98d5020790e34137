"""A process of clients: one line of JSON with jobs comes in, one with timings goes out.

    python -m benchmarks.served.client http://localhost:8000 base

Imports no JAX. Several of these send what one process could not.
"""

import argparse
import json
import sys
import time

from benchmarks.served import clients
from benchmarks.served.clients import Job


def main() -> None:
    """Send what comes until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the server")
    parser.add_argument("base_name", help="the name of its base")
    args = parser.parse_args()
    ask = clients.of_server(args.url, args.base_name)
    for line in sys.stdin:
        given = json.loads(line)
        jobs = [Job(tuple(prompt), adapter, answer) for prompt, adapter, answer in given["jobs"]]
        cpu = time.process_time()
        try:
            timings, seconds = clients.at_once(ask, jobs, given["concurrency"])
            found = {"timings": timings, "seconds": seconds}
        except (ValueError, OSError) as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**found, "cpu": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
