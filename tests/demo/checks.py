"""What the demo checks. Each function talks to a running server and compares every answer.

A check returns one line that says what it has seen, or raises CheckFailed. The clients (httpx, websockets) use blocking
sockets, so they do not depend on any event loop.
"""

import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server import check

TIMEOUT = 10  # seconds for any single step


def new_client(server, **options):
    return httpx.Client(base_url=f"http://{server.address}", timeout=TIMEOUT, trust_env=False, **options)


def new_websocket(server):
    return connect(f"ws://{server.address}/echo", open_timeout=TIMEOUT, close_timeout=TIMEOUT, proxy=None)


def piece(number, size):
    return (b"%08d" % number) * (size // 8)


def get_square(client, number):
    answer = client.get("/square", params={"number": number})
    check(answer.status_code == 200, f"GET /square?number={number}: status {answer.status_code}")
    body = answer.json()
    right = body["number"] == number and body["square"] == number * number
    check(right, f"wrong answer for {number}: {body}")
    return body


def loop_in_use(server):
    with new_client(server) as client:
        loop = get_square(client, 3)["loop"]
    check(loop.split(".")[0] == server.loop_name, f"asked for {server.loop_name}, the server runs on {loop}")
    return f"the application runs on {loop}"


def keep_alive(server):
    with new_client(server) as client:
        ports = {get_square(client, number)["client_port"] for number in range(100)}
    check(len(ports) == 1, f"100 requests with keep-alive came in over {len(ports)} connections")
    return "100 JSON answers over one connection"


def many_at_once(server):
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=20)
    with new_client(server, limits=limits) as client, ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: get_square(client, number), range(500)))
    connections = len({answer["client_port"] for answer in answers})
    check(connections <= 20, f"at most 20 connections were allowed, {connections} were used")
    return f"500 JSON answers, 20 requests at a time over {connections} connections"


def request_body(server):
    size = 4 << 20
    body = [piece(number, 65536) for number in range(size // 65536)]
    with new_client(server) as client:
        answer = client.post("/digest", content=iter(body)).json()
    expected = {"sha256": hashlib.sha256(b"".join(body)).hexdigest(), "size": size}
    check(answer == expected, f"POST /digest of {size} bytes: {answer}, expected {expected}")
    return "4 MiB sent in chunks arrived whole"


def streaming_body(server):
    """Also checks that a client that reads slowly does not delay other clients, and does not make a buffer of the
    server grow."""
    chunks, size = 512, 65536
    expected = hashlib.sha256()
    for number in range(chunks):
        expected.update(piece(number, size))
    sha, received = hashlib.sha256(), 0
    parameters = {"chunks": chunks, "size": size}
    with new_client(server) as client:
        with client.stream("GET", "/stream", params=parameters) as answer:
            body = answer.iter_raw()
            first = next(body)
            for number in range(20):
                get_square(client, number)
            made = client.get("/stream/progress").json()["chunks"]
            check(0 < made < chunks, f"nobody was reading, but the server made {made} of {chunks} chunks")
            sha.update(first)
            received += len(first)
            for data in body:
                sha.update(data)
                received += len(data)
    check(received == chunks * size, f"{received} bytes of a body of {chunks * size}")
    check(sha.digest() == expected.digest(), "a streamed body of the right length has the wrong bytes")
    return f"32 MiB streamed whole; made {made} of {chunks} chunks while nobody read, 20 others were answered"


def client_goes_away(server):
    with new_client(server) as client:
        with client.stream("GET", "/stream", params={"chunks": 512, "size": 65536}) as answer:
            next(answer.iter_raw())
        get_square(client, 7)
    return "a client that left in the middle of a body did no harm"


def background_task(server):
    with new_client(server) as client:
        for number in range(10):
            body = piece(number, 8000)
            answer = client.post("/jobs", content=body)
            check(answer.status_code == 202, f"POST /jobs: status {answer.status_code}")
            result = client.get(f"/jobs/{answer.json()['job']}").json()
            expected = {"sha256": hashlib.sha256(body).hexdigest()}
            check(result == expected, f"background task: {result}, expected {expected}")
    return "10 jobs done in the background after the answer, in worker threads"


def websocket_echo(server):
    messages: list[str | bytes] = [f"message {number}" for number in range(200)]
    messages += ["", "zażółć gęślą jaźń", b"", bytes(range(256)), piece(5, 900_000), "x" * 70_000]
    with new_websocket(server) as websocket:
        for message in messages:
            websocket.send(message)
            answer = websocket.recv(timeout=TIMEOUT)
            check(answer == message, f"WebSocket: sent {message[:40]!r}, received {answer[:40]!r}")
        check(websocket.ping().wait(TIMEOUT), "WebSocket: no pong came back")
        websocket.send("please close")
        try:
            answer = websocket.recv(timeout=TIMEOUT)
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "no close frame")
            check((code, reason) == (4001, "as you wish"), f"WebSocket closed with {code}, {reason!r}")
        else:
            check(False, f"WebSocket: {answer[:40]!r} instead of a close frame")
    return f"{len(messages)} WebSocket messages of up to 900,000 bytes echoed, ping answered, server closed"


def graceful_shutdown(server):
    """SIGTERM arrives in the middle of an answer. The rest must follow, and then the process must end with status 0."""
    expected = b"".join(piece(number, 1024) for number in range(10))
    with new_client(server) as client, client.stream("GET", "/slow") as answer:
        body = answer.iter_raw()
        received = next(body)
        check(len(received) < len(expected), "the slow answer was complete before SIGTERM could be sent")
        server.terminate()
        try:
            received += b"".join(body)
        except httpx.HTTPError as error:
            check(False, f"the answer in flight was cut off by the shutdown: {error!r}")
    check(received == expected, f"{len(received)} bytes of the answer in flight, expected {len(expected)}")
    status = server.wait()
    check(status == 0, f"exit status {status} after SIGTERM:\n{server.log_text()}")
    shut_down = any("Application shutdown complete" in line for line in server.log)
    check(shut_down, f"the application was not shut down:\n{server.log_text()}")
    with socket.socket() as late:
        check(late.connect_ex(("127.0.0.1", server.port)) != 0, "the port still takes connections")
    check(not server.complaints(), f"the server's log has complaints:\n{server.log_text()}")
    return "SIGTERM in the middle of an answer: the answer came whole, exit status 0, nothing bad in the log"


WHILE_RUNNING = [
    loop_in_use,
    keep_alive,
    many_at_once,
    request_body,
    streaming_body,
    client_goes_away,
    background_task,
    websocket_echo,
]
