"""The option `--rloop` of pytest: every loop that asyncio makes by itself in the process of the tests is rloop's.

So tests run on rloop that pytest-asyncio, anyio, pytest-aiohttp and unittest run, and those that call `asyncio.run`.
This is no module of the package `rloop`: pytest imports it wherever rloop is installed, and importing `rloop` for
everybody would cost time and import asyncio. Nothing is done here without the option, and what it does is the work of
`rloop/_switch.py`, as for `python -m rloop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called by pytest for its command line, and for `addopts` in its configuration file."""
    text = "run tests on rloop's event loop, unless a test or plugin names a loop of its own"
    parser.getgroup("rloop").addoption("--rloop", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest before it collects tests. A worker of pytest-xdist gets the option, too."""
    if config.getoption("rloop"):
        import asyncio

        from rloop._switch import switch_asyncio

        switch_asyncio(asyncio)


def pytest_report_header(config: pytest.Config) -> str | None:
    """A line that pytest prints above the results."""
    if not config.getoption("rloop"):
        return None
    import rloop

    return f"loop: rloop {rloop.__version__}"
