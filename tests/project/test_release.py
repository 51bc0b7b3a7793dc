"""The decisions of tools/release.py, what the project says of its version and its files, and the files by which a
server builds and publishes: these call nothing but commands of make. Nothing is built here.
"""

import contextlib
import importlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = """# Changelog

## Unreleased (0.3.0)

New.

## 0.2.0 (2026-12-01)

- Two.

### More

## 0.1.0 (2026-11-01)

One.
"""

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


@pytest.fixture
def release(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    for name in ("machine", "task", "targets", "wheels", "release"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("release")


def test_one_version_everywhere(release):
    assert release.other_versions(release.version()) == []
    assert len(release.other_versions("9.9.9")) >= 3


def test_changelog_has_the_version(release):
    assert release.notes((ROOT / "CHANGELOG.md").read_text(), release.version(), released=False)


@pytest.mark.parametrize(
    ("version", "released", "notes"),
    [
        ("0.2.0", True, "- Two.\n\n### More\n"),
        ("0.1.0", True, "One.\n"),
        ("0.1.0", False, "One.\n"),
        ("0.3.0", False, "New.\n"),
        ("0.3.0", True, None),
        ("0.2", True, None),
        ("0.4.0", False, None),
    ],
)
def test_notes(release, version, released, notes):
    assert release.notes(CHANGELOG, version, released=released) == notes


def test_a_tag_of_another_version_is_refused(release):
    with pytest.raises(SystemExit, match="the tag is v9.9.9, but Cargo.toml has"):
        release.check_version("v9.9.9")


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["a/b.py", "src/x/y.rs"], []),
        (["a/b.py", "src/x/y.rs", "a/"], []),
        (["a/b.py", "a/c/d.py", "src/x.rs"], ["a/c/d.py is not in the list"]),
        (["a/b.py"], ["src/**.rs is missing"]),
        (["a/b.pyc", "src/x.rs"], ["a/b.pyc is not in the list", "a/*.py is missing"]),
    ],
)
def test_files_beside_their_list(release, names, wrong):
    assert release.differences(names, ["a/*.py", "src/**.rs"]) == wrong


def test_every_source_of_the_package_has_to_be_in_an_archive(release):
    names = [f"rloop-1/python/rloop/{path.name}" for path in (ROOT / "python" / "rloop").glob("*.py*")]
    assert release.sources_missing(names) == []
    assert release.sources_missing([name for name in names if not name.endswith("/_tls.py")]) == ["_tls.py is missing"]


def test_lists_have_the_licences():
    lists = tomllib.loads((ROOT / "tools" / "contents.toml").read_text())
    licences = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license-files"]
    assert sorted(licences) == ["LICENSE-APACHE", "LICENSE-MIT"]
    for names in lists.values():
        assert [name for name in licences if not any(line.endswith("/" + name) for line in names)] == []


@pytest.mark.parametrize(
    ("tag", "status", "error", "ends"),
    [
        ("", 0, "", False),
        ("v1.0.0", 0, "", False),
        ("", 1, "[ERROR] failed to fetch advisory database", False),
        ("v1.0.0", 1, "[ERROR] failed to fetch advisory database", True),
        ("", 1, "error[vulnerability]", True),
    ],
)
def test_known_weaknesses(release, monkeypatch, tag, status, error, ends):
    """Only before a tag, and only without their list, known weaknesses of dependencies stop nothing."""
    asked = []

    def ask(command, **options):
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, status, stderr=error)

    monkeypatch.setattr(release.machine, "has_cargo", lambda command: True)
    monkeypatch.setattr(release, "run", lambda *command: asked.extend(command[-3:]))
    monkeypatch.setattr(release.subprocess, "run", ask)
    with pytest.raises(SystemExit) if ends else contextlib.nullcontext():
        release.check_dependencies(tag)
    assert asked == ["bans", "licenses", "sources", "advisories"]


def test_what_dependencies_may_be_licensed_by():
    allowed = tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"]
    assert {"MIT", "Apache-2.0"} <= set(allowed)
    assert not [licence for licence in allowed if "GPL" in licence]


# --- workflows ---


def commands(text):
    """What the steps of a workflow run."""
    return re.findall(r"^\s+(?:- )?run: (.+)$", text, re.MULTILINE)


def targets():
    return set(re.findall(r"^([a-z-]+):  ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_workflows_are_there():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@every_workflow
def test_workflows_run_commands_of_make_only(path):
    run = commands(path.read_text())
    assert len(run) == len(re.findall(r"\brun:", path.read_text()))
    others = [command for command in run if not command.startswith("make ")]
    # What only the server of the project can do.
    assert [command.split()[:3] for command in others] == [["gh", "release", "create"]] * (path.name == "release.yml")
    assert {command.split()[1] for command in run if command not in others} <= targets()


@every_workflow
def test_workflows_parse(path):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= workflow["jobs"].keys()
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)


def test_ci_has_every_python(release):
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    [line] = re.findall(r"^ +python: (\[.+\])$", text, re.MULTILINE)
    supported = [f"{major}.{minor}" for major, minor in release.machine.SUPPORTED]
    assert re.findall(r'"([\d.]+)"', line) == supported
    assert f'PYTHONS="{" ".join(supported)}"' in (ROOT / ".github" / "workflows" / "release.yml").read_text()
