"""docs/configuration.md names everything that can be set: environment variables, features of the crate, exports."""

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
    files = [
        path for folder in ("src", "python") for path in (ROOT / folder).rglob("*") if path.suffix in (".rs", ".py")
    ]
    read = {name for path in files for name in re.findall(r"\bRLOOP_[A-Z_]+\b", path.read_text())}
    assert {"RLOOP_TLS_ENGINE"} <= read
    assert {name for name in column("Environment variables") if name.startswith("RLOOP_")} == read


def test_features_of_the_crate():
    features = tomllib.loads((ROOT / "Cargo.toml").read_text())["features"]
    assert column("Features of the crate") == set(features) - {"default"}


def test_exports():
    for name in {*rloop.__all__, "install", "EventLoopPolicy"} - {"__version__", "Loop"}:
        assert re.search(rf"`rloop\.{name}\b", PAGE), name
