"""The laboratory's sanitizers, as far as they need no build of their own: the texts that planted bugs replace are
there, the programs of memcheck come to their end, and reports are told from other output. What each part tries is in
lab/README.md.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "lab"


@pytest.fixture
def part(monkeypatch):
    """Imports a part of the laboratory."""
    monkeypatch.syspath_prepend(str(LAB))
    return importlib.import_module


def test_each_bug_can_be_planted(part):
    bugs = part("planted").BUGS
    assert len(bugs) >= 5
    for bug in bugs:
        assert (ROOT / bug.file).read_text().count(bug.old) == 1, bug.name
        assert (LAB / bug.part[0]).is_file(), bug.name


@pytest.mark.time_limit(120)
def test_programs_of_memcheck():
    program = [sys.executable, str(LAB / "memcheck_programs.py")]
    names = subprocess.run(program, capture_output=True, text=True, timeout=30).stdout.split()
    assert len(names) >= 8
    for name in names:
        done = subprocess.run([*program, name], capture_output=True, text=True, timeout=30)
        assert done.stdout == "complete\n", done.stderr


INVALID = """
==7== Invalid read of size 8
==7==    at 0x5A: {frame} (mod.rs:12)
==7==    by 0x5B: _PyEval_EvalFrameDefault (ceval.c:1)
==7==  Address 0x0 is not stack'd, malloc'd or (recently) free'd
==7==
==7== 16 bytes in 1 blocks are possibly lost in loss record 1 of 1
==7==    at 0x5A: rloop::run::turn (run.rs:12)
"""


def test_an_error_of_ours_is_told_from_others(part):
    errors_in = part("memcheck").errors_in
    [error] = errors_in(INVALID.format(frame="rloop::transports::stream::read"))
    assert "Invalid read" in error and "possibly lost" not in error
    assert errors_in(INVALID.format(frame="dict_resize")) == []


def test_reports_of_the_address_sanitizer(part, tmp_path):
    (tmp_path / "report.1").write_text("==1==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\n")
    (tmp_path / "report.2").write_text("ERROR: Failed to mmap\n")
    [report] = part("asan").reported(tmp_path)
    assert "heap-use-after-free" in report
