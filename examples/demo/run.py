"""The demo: one ASGI application under uvicorn, on rloop and on asyncio side by side.

`python examples/demo/run.py [--loops rloop,asyncio] [--seconds 1.0] [--rounds 3]`

Starts a server process for each loop, checks every answer of each, measures them in turn with the same
client, stops each in the middle of an answer, prints a table. Exit status 1 and a message on any failure.
Only the order of steps and the printing live here.
"""

import argparse
import contextlib
import signal
import sys
import time

import checks
import load
from server import CheckFailed, UvicornProcess

TIME_LIMIT = 120  # seconds for the whole demo, which takes about 30


def main():
    parser = argparse.ArgumentParser(description="rloop's demo")
    parser.add_argument("--loops", default="rloop,asyncio", help="modules (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements (default: %(default)s)")
    arguments = parser.parse_args()
    begin = time.monotonic()
    # Both end the demo through the `with` below, which ends the servers.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(TIME_LIMIT)
    try:
        demo(arguments.loops.split(","), arguments.seconds, arguments.rounds)
    except (CheckFailed, OSError) as failure:
        print(f"demo: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    print(f"demo: all checks passed, {time.monotonic() - begin:.0f} s")


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
    print_table(loops, results)


def run_check(server, check):
    try:
        say(server, check(server))
    except CheckFailed as failure:
        raise CheckFailed(f"{server.loop_name}: {check.__name__}: {failure}") from None
    except Exception as error:
        # A client that cannot go on (connection refused, time-out) is a failed check, not a bug of the demo.
        raise CheckFailed(f"{server.loop_name}: {check.__name__}: {error!r}\n{server.log_text()}") from error


def measure(servers, seconds, rounds):
    """{(workload, loop): [(requests, seconds, CPU seconds), ...]}, the loops in turn in every round."""
    results = {}
    for workload in load.WORKLOADS:
        for number in range(rounds):
            # Whoever comes first may find the machine warmer or colder: take turns at that too.
            for server in servers if number % 2 == 0 else reversed(servers):
                result = load.run(server, workload, seconds)
                results.setdefault((workload.name, server.loop_name), []).append(result)
        for server in servers:
            done = [result[0] for result in results[workload.name, server.loop_name]]
            say(server, f"{workload.name}: {sum(done):,} answers checked over {load.CONNECTIONS} connections")
    return results


def print_table(loops, results):
    columns = "".join(f"{name:>12}" for name in loops)
    width = len(columns)
    print(f"\n{'':22}{'requests per second':>{width}}    {'server CPU, µs a request':>{width}}")
    print(f"{'':22}{columns}    {columns}")
    for workload in load.WORKLOADS:
        rates, costs = "", ""
        for name in loops:
            rounds = results[workload.name, name]
            rates += f"{max(requests / elapsed for requests, elapsed, _ in rounds):>12,.0f}"
            costs += f"{min(cpu / requests for requests, _, cpu in rounds) * 1e6:>12.1f}"
        print(f"{workload.name:22}{rates}    {costs}")
    print(f"best of {len(rounds)} rounds, {load.CONNECTIONS} connections, client and server on one machine\n")


def say(server, text):
    print(f"[{server.loop_name}] {text}", flush=True)


if __name__ == "__main__":
    main()
