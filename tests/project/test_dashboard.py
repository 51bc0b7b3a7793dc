"""The queries of docs/grafana.json are answered by a real Prometheus, which reads the figures of a real server.

It is left out where no program `prometheus` is installed (Debian's package has that name). That the names of the
dashboard are those of the exporter is tested in tests/loop/test_exporters.py.
"""

import http.client
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest

from support.http import get

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS = shutil.which("prometheus") or ""
# Seconds that Prometheus may take to start, and to read the figures often enough for a rate.
PATIENCE = 40
# A server whose figures can be read at /metrics, and which makes some for each reading.
SERVER = """
import asyncio, rloop

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    await asyncio.sleep(0.001)
    await asyncio.to_thread(int)
    body = rloop.openmetrics().encode()
    head = "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: {}\\r\\nContent-Type: {}\\r\\n\\r\\n"
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    writer.write(head.format(len(body), kind).encode() + body)
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

rloop.run(main())
"""
CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs: [{{job_name: app, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


class Prometheus:
    """A Prometheus of our own, which listens on 127.0.0.1."""

    def __init__(self, folder: pathlib.Path, target: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=target))
        words = (
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )
        self.errors = (folder / "errors").open("w+")
        self.process = subprocess.Popen([PROMETHEUS, *words], cwd=folder, stdout=self.errors, stderr=self.errors)

    def ask(self, query: str) -> list[dict]:
        """The series that answer a query."""
        answer = json.loads(get(self.port, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        assert answer["status"] == "success", answer
        series: list[dict] = answer["data"]["result"]
        return series

    def wait_for(self, query: str) -> list[dict]:
        """The same, once there is one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if found := self.ask(query):
                    return found
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                # It is still starting.
                assert self.process.poll() is None, self.told()
            time.sleep(0.1)
        pytest.fail(f"no answer to {query}: {self.told()}")

    def told(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.errors.close()


@pytest.fixture
def prometheus(tmp_path):
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        started = Prometheus(tmp_path, int(server.stdout.readline()))
        try:
            yield started
        finally:
            started.end()
    finally:
        server.kill()
        server.communicate()


@pytest.mark.skipif(not PROMETHEUS, reason="needs Prometheus")
@pytest.mark.time_limit(4 * PATIENCE)
def test_each_query_of_the_dashboard_is_answered(prometheus):
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    # What Grafana puts in for its variables, if everything is chosen.
    chosen = {"$job": ".*", "$instance": ".*", "$__rate_interval": "10s"}
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(targets) > 20
    for target in targets:
        query = target["expr"]
        for name, value in chosen.items():
            query = query.replace(name, value)
        assert "$" not in query
        for series in prometheus.wait_for(query):
            # The legend names labels that the answer has.
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= series["metric"].keys(), query


@pytest.mark.skipif(not PROMETHEUS, reason="needs Prometheus")
@pytest.mark.time_limit(4 * PATIENCE)
def test_each_variable_of_the_dashboard_has_values(prometheus):
    prometheus.wait_for("rloop_turns_total")
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    queries = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert [re.match(r"label_values\((.*), (\w+)\)$", query).groups() for query in queries] == [
        ("rloop_turns_total", "job"),
        ('rloop_turns_total{job=~"$job"}', "instance"),
    ]
    (series,) = prometheus.ask('rloop_turns_total{job=~"app"}')
    assert (series["metric"]["job"], series["metric"]["instance"].partition(":")[0]) == ("app", "127.0.0.1")
