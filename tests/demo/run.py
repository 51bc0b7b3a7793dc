"""The demo: one ASGI application under uvicorn, on rloop and on asyncio side by side.

`python tests/demo/run.py [--loops rloop,asyncio] [--seconds 0.25] [--rounds 12]`

It starts a server process for each loop and checks the answers of each. Then it measures the servers with the same
client, in turn, for a short time each. Then it stops each server in the middle of an answer. It prints a table, and the
result in a sentence. After any failure it prints a message and ends with status 1. This file has only the order of the
steps.
"""

import argparse
import contextlib
import os
import signal
import sys
import time

import checks
import load
import result
from server import CheckFailed, UvicornProcess

TIME_LIMIT = 120  # seconds for the whole demo, which takes about 30


def main():
    parser = argparse.ArgumentParser(description="rloop's demo")
    parser.add_argument("--loops", default="rloop,asyncio", help="modules (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.25, help="each slice (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="slices of each loop (default: %(default)s)")
    arguments = parser.parse_args()
    begin = time.monotonic()
    # Both raise an exception, so that the `with` in `demo` ends the servers.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(TIME_LIMIT)
    try:
        results = demo(arguments.loops.split(","), arguments.seconds, arguments.rounds)
    except (CheckFailed, OSError) as failure:
        print(f"demo: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    report(results, arguments)
    print(f"demo: all checks passed, {time.monotonic() - begin:.0f} s")
    print(result.sentence(results))


def out_of_time(signum, frame):
    raise CheckFailed(f"not done after {TIME_LIMIT} s")


def demo(loops, seconds, rounds):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(UvicornProcess(name)) for name in loops]
        for server in servers:
            server.wait_until_listening()
            say(server, f"uvicorn listens on {server.address}, process {server.pid}")
        for server in servers:
            for check in checks.WHILE_RUNNING:
                run_check(server, check)
        results = measure(servers, seconds, rounds)
        for server in servers:
            run_check(server, checks.graceful_shutdown)
    return results


def run_check(server, check):
    try:
        say(server, check(server))
    except CheckFailed as failure:
        raise CheckFailed(f"{server.loop_name}: {check.__name__}: {failure}") from None
    except Exception as error:
        # If a client cannot go on (connection refused, time-out), the check has failed. It is no bug of the demo.
        raise CheckFailed(f"{server.loop_name}: {check.__name__}: {error!r}\n{server.log_text()}") from error


def measure(servers, seconds, rounds):
    """Measures the loops in turn. The slices are short, so that the machine's speed is the same for all of a round."""
    results = result.Results([server.loop_name for server in servers])
    for workload in load.WORKLOADS:
        for number in range(rounds):
            # To be first in a round may be an advantage or a disadvantage, so the order alternates.
            for server in servers if number % 2 == 0 else reversed(servers):
                results.add(workload.name, server.loop_name, load.run(server, workload, seconds))
        for server in servers:
            done = sum(part.requests for part in results.slices(workload.name, server.loop_name))
            say(server, f"{workload.name}: {done:,} answers checked over {load.CONNECTIONS} connections")
    return results


def report(results, arguments):
    print("", *result.lines(results), sep="\n")
    print(f"medians and range of {arguments.rounds} rounds, in each a slice of {arguments.seconds:g} s on either loop;")
    print(f"{load.CONNECTIONS} connections, client and servers on one machine")
    if warning := result.warning(results.others(), os.getloadavg()[0], os.cpu_count()):
        print(warning)
    print()


def say(server, text):
    print(f"[{server.loop_name}] {text}", flush=True)


if __name__ == "__main__":
    main()
