"""The pages name everything that can be set: environment variables, features of the crate, exports of the package."""

import pathlib
import re
import tomllib
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()


def column(heading):
    """The names in code of the first column of the table below a heading."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_environment_variables():
    """Each variable that the code reads is explained on some page. This page names none that is not read."""
    files = [
        path for folder in ("src", "python") for path in (ROOT / folder).rglob("*") if path.suffix in (".rs", ".py")
    ]
    read = {name for path in files for name in re.findall(r"\bRLOOP_[A-Z_]+\b", path.read_text())}
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert {"RLOOP_TLS_ENGINE"} <= read
    assert [name for name in read if name not in pages] == []
    assert {name for name in column("Environment variables") if name.startswith("RLOOP_")} <= read


def test_features_of_the_crate():
    features = tomllib.loads((ROOT / "Cargo.toml").read_text())["features"]
    assert column("Features of the crate") == set(features) - {"default"}


def test_exports():
    """Each name that the package exports is explained on some page. The reference lists them all (test_site.py)."""
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    names = {*rloop.__all__, "install", "EventLoopPolicy"} - {"__version__"}
    assert [name for name in names if not re.search(rf"\brloop\.{name}\b", pages)] == []
