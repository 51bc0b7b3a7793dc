"""Reads docs/frameworks.md: the files and commands of each section, and the packages that a section needs.

test_snippets.py runs the commands, and run.py writes the table of the page. No test lives here.
"""

import dataclasses
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"

# What stands around the table.
BEGIN, END = "<!-- table: written by make frameworks -->", "<!-- end of the table -->"

# The packages of each section, by their names in a package index. The table shows their versions.
PACKAGES = {
    "uvicorn": ("uvicorn",),
    "gunicorn": ("gunicorn", "uvicorn-worker"),
    "hypercorn": ("hypercorn",),
    "granian": ("granian",),
    "FastAPI": ("fastapi", "uvicorn"),
    "Litestar": ("litestar", "uvicorn", "granian"),
    "Sanic": ("sanic",),
    "Quart": ("quart", "hypercorn", "uvicorn"),
    "Django with daphne": ("django", "daphne"),
    "Scrapy": ("scrapy",),
    "aiohttp": ("aiohttp", "gunicorn"),
    "tornado": ("tornado",),
    "Jupyter": ("ipykernel", "jupyter-client"),
    "dask.distributed": ("distributed",),
    "arq": ("arq",),
    "taskiq": ("taskiq", "taskiq-redis"),
    "dramatiq": ("dramatiq", "redis"),
    "Celery": ("celery",),
    "grpc.aio": ("grpcio",),
}

# The sections that need a server of Redis.
NEED_REDIS = ("arq", "taskiq", "dramatiq")


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page. `runs`: the lists of commands of which each starts it in another way."""

    title: str
    files: dict[str, str]
    runs: list[list[str]]


def sections() -> list[Section]:
    """The sections with commands, in the order of the page. Each has the files above the first section, too."""
    begin, *parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    found = []
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        commands = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if commands:
            [lines] = commands
            found.append(Section(title, files_in(begin) | files_in(text), runs_in(lines.splitlines())))
    return found


def files_in(text: str) -> dict[str, str]:
    """The Python files of a text. Each begins with its name, as a comment."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(blocks)


def runs_in(lines: list[str]) -> list[list[str]]:
    """Commands that end with `&` belong to the next one; the others are runs of their own."""
    runs, run = [], []
    for line in lines:
        run.append(line)
        if not line.endswith("&"):
            runs.append(run)
            run = []
    assert run == [], lines
    return runs
