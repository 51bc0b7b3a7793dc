"""The long run: real servers on one loop under load, and everything that can go wrong around them goes wrong.

`python lab/soak.py --seconds N [--loop asyncio] [--seed S] [--watch 0.1]`; `make soak HOURS=n` runs it for hours.

soak_server.py is the program under test: uvicorn, aiohttp, WebSockets, TLS, UDP, streams, child processes, signals,
threads and forks on one loop. soak_load.py, started three times, makes the clients, many of which break their
connections. A uvicorn worker of its own is restarted now and then. Time is divided into rounds. A round ends with a
pause, in which all connections end; then everything that is still there is counted. In the middle of each round the
program has no file descriptors for a moment.

With `--watch 0.1`, `rloop.watch` looks for turns of 0.1 s or more while there is load, and each is an error. This is
for a machine that does nothing else: where a new thread or a new child has to wait for a processor, whoever starts it
is blocked, and the watch says so.

Each round adds a line of JSON to target/lab/soak.jsonl, and target/lab/soak.svg shows all of them. `judge` says what
makes the run fail.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import builds
from soak_chart import chart
from soak_figures import judge, percentiles

LAB = Path(__file__).resolve().parent
OUTPUT = Path(os.environ.get("CARGO_TARGET_DIR", LAB.parent / "target")) / "lab"
LOADS = 3  # processes that make connections
STEP_LIMIT = 60  # seconds for the start of a process, or for an answer that has no other limit
END_LIMIT = 10  # seconds that the last connections may take to end
ROUND = 60  # seconds, in a run that is long enough
ROUNDS = 6  # in a shorter run
MIN_ROUND = 1  # seconds
PAUSE = 1.5  # seconds that the end of a round may take
LEAST_ROUNDS = 2  # even if a round takes longer than all were meant to
RELOAD_EVERY = 3  # rounds


class Failure(Exception):
    """A process of the run did not do what it was asked for. The run cannot go on."""


class Child:
    """A process that answers lines on its standard input by lines on its standard output, both of them JSON."""

    def __init__(self, program, *arguments):
        self.program = program
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "default::ResourceWarning", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=LAB,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def say(self, line):
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `hear` tells what became of the process

    def hear(self, seconds=STEP_LIMIT):
        """The next line. A process that is silent for too long is ended, with the tracebacks of its threads."""
        signal.signal(signal.SIGALRM, lambda signum, frame: self.process.send_signal(signal.SIGABRT))
        signal.alarm(int(seconds) + 1)
        try:
            line = self.process.stdout.readline()
        finally:
            signal.alarm(0)
        if not line:
            status = self.process.wait(STEP_LIMIT)
            raise Failure(f"{self.program} ended or hung, exit status {status}:\n{self.complaints()}")
        return json.loads(line)

    def ask(self, line, seconds=STEP_LIMIT):
        self.say(line)
        return self.hear(seconds)

    def complaints(self):
        self.errors.seek(0)
        return self.errors.read()[-5_000:]

    def stop(self):
        """Ends the process by SIGTERM. Returns what is wrong with the way it ends."""
        self.process.terminate()
        try:
            status = self.process.wait(STEP_LIMIT)
        except subprocess.TimeoutExpired:
            return "does not end at SIGTERM"
        said = self.complaints()
        return f"exit status {status} after SIGTERM, standard error: {said}" if status or said else None


def open_files(pid):
    """The open files of a process: {number: what it is}."""
    files = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            files[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass  # closed meanwhile
    return files


def resident(pid):
    """KiB of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


class Run:
    """All processes of a run, and the figures of its rounds."""

    def __init__(self, server, worker, loads, seed):
        self.server, self.worker, self.loads = server, worker, loads
        self.started = time.monotonic()
        self.random = random.Random(seed)
        self.rounds = []
        self.connections = 0
        self.worker_pid = None

    def start(self, seed):
        """Waits until all processes are ready."""
        targets = self.server.hear()["targets"] | self.worker.hear()
        for number, load in enumerate(self.loads):
            load.ask(json.dumps({"targets": targets, "seed": seed * LOADS + number}))
        self.port = targets["worker"]

    def round(self, seconds):
        """Load for that long, with a storm in its middle, then a pause. Adds the figures to `rounds`."""
        begin = time.monotonic()
        self.server.ask("go")
        for load in self.loads:
            load.say(json.dumps({"seconds": seconds}))
        time.sleep(seconds * self.random.uniform(0.2, 0.6))
        reloaded = len(self.rounds) % RELOAD_EVERY == 0
        if reloaded:
            self.reload()
        under_load = {"files": len(open_files(self.server.process.pid)), "rss": resident(self.server.process.pid)}
        self.server.ask(f"storm {self.random.uniform(0.1, 0.5):.2f}")
        said = [load.hear(seconds + STEP_LIMIT) for load in self.loads]
        chores = self.server.ask("pause")
        files = self.wait_for_files()
        census = self.server.ask("census")
        errors = sum((Counter(one["errors"]) for one in said), Counter(census["wrong"]))
        if reloaded and (error := self.after_reload()):
            errors[error] += 1
        made = sum((Counter(one["connections"]) for one in said), Counter())
        self.connections += made.total()
        self.rounds.append(
            {
                "seconds": round(time.monotonic() - self.started, 1),
                "took": round(time.monotonic() - begin, 1),
                "connections": self.connections,
                "made": made,
                "answers": sum(one["answers"] for one in said),
                "latency": percentiles([figure for one in said for figure in one["latencies"]]),
                "rss": resident(self.server.process.pid),
                "files": sorted(files.values()),
                "under load": under_load,
                **{name: census[name] for name in ("tasks", "transports", "protocols")},
                "chores": chores,
                "errors": errors,
                "expected": sum((Counter(one["told"]) for one in said), Counter(census["expected"])),
            }
        )

    def wait_for_files(self):
        """The open files of the server, once there are no more than after the first round, or after a while."""
        most = len(self.rounds[0]["files"]) if self.rounds else 0
        deadline = time.monotonic() + (END_LIMIT if self.rounds else 1)
        while len(files := open_files(self.server.process.pid)) > most and time.monotonic() < deadline:
            time.sleep(0.02)
        return files

    def reload(self):
        self.worker_pid = self.pid_of_worker()
        self.worker.process.send_signal(signal.SIGHUP)

    def after_reload(self):
        """Waits until another process serves. Returns what is wrong if there is none."""
        deadline = time.monotonic() + STEP_LIMIT
        while time.monotonic() < deadline:
            if self.pid_of_worker() not in (None, self.worker_pid):
                return None
            time.sleep(0.1)
        return "the worker was not replaced"

    def pid_of_worker(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), STEP_LIMIT) as sock:
                sock.sendall(b"GET /pid HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: sock.recv(1000), b""))
        except (ConnectionError, TimeoutError):
            return None
        return answer.rpartition(b"\r\n")[2] or None


def soak(options, figures):
    """The whole run. Writes the figures as they come; returns the rounds and what is wrong with the run itself."""
    wrong = []
    with contextlib.ExitStack() as stack:
        server, worker, *loads = (
            stack.enter_context(Child(*command))
            for command in (
                ("soak_server.py", options.loop, str(options.seed), str(options.watch)),
                ("soak_worker.py", options.loop),
                *(("soak_load.py",) for _ in range(LOADS)),
            )
        )
        run = Run(server, worker, loads, options.seed)
        ends = run.started + options.seconds
        try:
            run.start(options.seed)
            seconds = min(ROUND, max(MIN_ROUND, (ends - time.monotonic()) / ROUNDS - PAUSE))
            while (
                len(run.rounds) < LEAST_ROUNDS
                or run.connections < options.connections
                or time.monotonic() + seconds + PAUSE < ends
            ):
                run.round(seconds)
                figures.write(json.dumps(run.rounds[-1]) + "\n")
                figures.flush()
                print(brief(run.rounds[-1]), flush=True)
                (OUTPUT / "soak.svg").write_text(chart(run.rounds))
        except Failure as failure:
            wrong.append(str(failure))
        else:
            wrong += [f"{child.program}: {told}" for child in (server, worker) if (told := child.stop())]
    return run.rounds, wrong


def brief(figures):
    latency = figures["latency"]
    return (
        f"{figures['seconds']:7.0f} s  {figures['connections']:,} connections, {figures['rss']:,} KiB, "
        f"{len(figures['files'])} files, {figures['tasks']} tasks, "
        f"p50 {latency['p50']:,} us, p99 {latency['p99']:,} us, errors {sum(figures['errors'].values())}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=0, help="go on until there were so many, whatever the time")
    parser.add_argument("--loop", default="rloop", help="rloop, asyncio or another module with new_event_loop()")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--watch", type=float, default=0, help="seconds that no turn may last; 0 does not look")
    options = parser.parse_args()
    print(f"seed {options.seed}, loop {options.loop}", flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (OUTPUT / "soak.jsonl").open("w") as figures:
        rounds, wrong = soak(options, figures)
    wrong += judge(rounds)
    for text in wrong:
        print(f"FAILED: {text}", flush=True)
    builds.finish(rounds[-1]["connections"] if rounds else 0, len(wrong))


if __name__ == "__main__":
    main()
