"""Checks the two programs of examples/ that host Python, embed-plain and embed-axum. `make test` builds them and runs
this.

    host_programs.py FOLDER      FOLDER: where cargo has put the programs

Each program must start, say where it listens, answer several clients at the same time, and end cleanly when its
standard input ends. This file uses the standard library only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CLIENTS = 20
REQUESTS = 10
SECONDS = 30


@contextlib.contextmanager
def running(program: Path) -> Iterator[tuple[str, int]]:
    """Runs the program; the target of the `with` block is its address. Afterwards the program must end by itself,
    without an error message."""
    process = subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"listening on (.+):(\d+)\n", line)
        assert found, f"{program.name} said {line!r}"
        yield found[1], int(found[2])
        output, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, output, errors) == (0, "ended\n", ""), (process.returncode, output, errors)
    finally:
        process.kill()
        process.wait()


def lines(address: tuple[str, int], client: int) -> list[int]:
    """One client of embed-plain. Returns the numbers that the program has given to its requests."""
    numbers = []
    with socket.create_connection(address, timeout=SECONDS) as sock, sock.makefile("rw", encoding="utf-8") as file:
        for n in range(REQUESTS):
            text = f"grüße {client} {n}"
            file.write(text + "\n")
            file.flush()
            answer = file.readline()
            number, _, rest = answer.partition(": ")
            assert rest == f"{text.upper()} ({len(text)} characters)\n", answer
            numbers.append(int(number))
    return numbers


def orders(address: tuple[str, int], client: int) -> None:
    """One client of embed-axum. It also asks for something that does not exist."""
    url = "http://{}:{}/quote".format(*address)
    for n in range(REQUESTS):
        name, price = ("apple", 3) if n % 2 else ("pear", 4)
        with urllib.request.urlopen(f"{url}?name={name}&count={client}", timeout=SECONDS) as response:
            assert response.read().decode() == f"{client} {name}: {client * price}"
    try:
        urllib.request.urlopen(f"{url}?name=plum&count=1", timeout=SECONDS)
    except urllib.error.HTTPError as error:
        assert error.code == 404 and error.read().decode() == "KeyError: 'plum'"
    else:
        raise AssertionError("there is a price for plums")


def main(folder: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        with running(folder / "embed-plain") as address:
            answered = pool.map(lambda client: lines(address, client), range(CLIENTS))
            numbers = sorted(number for numbers in answered for number in numbers)
            assert numbers == list(range(1, CLIENTS * REQUESTS + 1)), numbers
        print(f"embed-plain: {CLIENTS * REQUESTS} lines answered")
        with running(folder / "embed-axum") as address:
            list(pool.map(lambda client: orders(address, client), range(CLIENTS)))
        print(f"embed-axum: {CLIENTS * (REQUESTS + 1)} requests answered")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
