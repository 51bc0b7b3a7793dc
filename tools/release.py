"""`make release-check`: whether this checkout could be published as it is. `make release-check TAG=v0.1.0` asks, too,
whether it is the version of that tag.

What is looked at: the version, the changelog, the files in the wheel and in the source distribution (contents.toml),
their metadata, the crate and its documentation, the licences of what rloop is built from, the workflows, and what a
program may have relied on in the version before. How wheels are made is in wheels.py. Nothing is published here.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import machine
from machine import ROOT
from task import CARGO, EMBED, TARGET, kept_venv, run, say
from wheels import DIST, REQUIREMENTS, build, system_of

NOTES = TARGET / "release-notes.md"
GRIFFE = "griffe==2.4.1"
# How cargo-deny says that it has no list of known weaknesses.
NO_DATABASE = "failed to fetch advisory database"


def version() -> str:
    """The version of the crate, which is that of the package: pyproject.toml leaves it to Cargo.toml."""
    found = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    assert isinstance(found, str)
    return found


def other_versions(wanted: str) -> list[str]:
    """Where the checkout gives rloop another version."""
    wrong = []
    for path in sorted([ROOT / "Cargo.lock", *ROOT.glob("*/Cargo.lock"), *ROOT.glob("lab/*/Cargo.lock")]):
        packages = tomllib.loads(path.read_text())["package"]
        found = [package["version"] for package in packages if package["name"] == "rloop"]
        # Not every workspace uses the crate.
        if set(found) - {wanted} or (path.parent == ROOT and not found):
            wrong.append(f"{path.relative_to(ROOT)}: {', '.join(found) or 'none'}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "version" in project or "version" not in project["dynamic"]:
        wrong.append("pyproject.toml: a version of its own")
    return wrong


def notes(changelog: str, wanted: str, *, released: bool) -> str | None:
    """The section of the changelog for a version; None if there is none. A version that is not `released` may have the
    title `Unreleased (0.1.0)`."""
    date = r" \(\d{4}-\d\d-\d\d\)"
    titles = [re.escape(wanted) + date] + ([] if released else [rf"Unreleased \({re.escape(wanted)}\)"])
    pattern = rf"^## (?:{'|'.join(titles)})\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() + "\n" if found else None


def check_version(tag: str) -> None:
    say("The version, and what the changelog says of it")
    wanted = version()
    if tag and tag != f"v{wanted}":
        sys.exit(f"the tag is {tag}, but Cargo.toml has {wanted}")
    if wrong := other_versions(wanted):
        sys.exit(f"Cargo.toml has {wanted}. Others: {'; '.join(wrong)}")
    text = notes((ROOT / "CHANGELOG.md").read_text(), wanted, released=bool(tag))
    if not text:
        sys.exit(f"CHANGELOG.md has no section `{wanted} (YYYY-MM-DD)` with anything in it")
    NOTES.parent.mkdir(parents=True, exist_ok=True)
    NOTES.write_text(text)
    print(f"{wanted}; its notes are in {NOTES}", flush=True)


# ------------------------------------------------------------------------------------------------ what is published


def expression(pattern: str) -> str:
    """A pattern of contents.toml as a regular expression."""
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^/]+")


def differences(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """What is in an archive and not in its list, and the other way round."""
    files = [name for name in names if not name.endswith("/")]
    unknown = [name for name in files if not any(re.fullmatch(expression(pattern), name) for pattern in patterns)]
    absent = [pattern for pattern in patterns if not any(re.fullmatch(expression(pattern), name) for name in files)]
    return [f"{name} is not in the list" for name in unknown] + [f"{pattern} is missing" for pattern in absent]


def sources_missing(names: Iterable[str]) -> list[str]:
    """Files of the Python package that are not in an archive, whatever folder they are in there."""
    found = {name.rpartition("rloop/")[2] for name in names}
    package = (path.name for path in (ROOT / "python" / "rloop").glob("*.py*") if path.is_file())
    return [f"{name} is missing" for name in sorted(package) if name not in found]


def names_in(archive: Path) -> list[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as source:
        return [member.name for member in source if member.isfile()]


def check_archives() -> None:
    """Make the source distribution, and a wheel if there is none, and look into all that is in target/dist."""
    say("The source distribution and the wheels: their files and their metadata")
    tools = kept_venv("wheels", machine.default_python(), REQUIREMENTS)
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    run(*tools, "-m", "maturin", "sdist", "--out", DIST)
    wheels = sorted(DIST.glob(f"rloop-{version()}-*.whl"))
    if not wheels:
        python, system = machine.default_python(), system_of(platform.machine(), "gnu")
        made = build(python, system, TARGET / "wheels-made", TARGET / "zig")
        wheels = [Path(shutil.copy2(made, DIST))]
    lists = tomllib.loads((ROOT / "tools" / "contents.toml").read_text())
    archives = [*wheels, *DIST.glob("*.tar.gz")]
    for archive in archives:
        names = names_in(archive)
        wrong = differences(names, lists["wheel" if archive.suffix == ".whl" else "sdist"]) + sources_missing(names)
        if wrong:
            sys.exit(f"{archive.name}: {'; '.join(wrong)}")
        print(f"{archive.name}: {len(names)} files", flush=True)
    run(*tools, "-m", "twine", "check", "--strict", *archives)


# ------------------------------------------------------------------------------------------------ the crate, the API


def check_crate() -> None:
    python = machine.default_python()
    say("The crate: packed and built from the package, and its documentation")
    environment = {"PYO3_PYTHON": python.command[-1], "PYO3_BUILD_EXTENSION_MODULE": "1"}
    run("cargo", "publish", "--dry-run", *CARGO, "--allow-dirty", "--package", "rloop", **environment)
    run("cargo", "doc", *CARGO, *EMBED, "--no-deps", RUSTDOCFLAGS="-D warnings", **environment)


def check_dependencies(tag: str) -> None:
    if not machine.has_cargo("deny"):
        say("Skipped: licences and known weaknesses of dependencies need cargo-deny (cargo install cargo-deny)")
        return
    say("The licences, sources and known weaknesses of what rloop is built from")
    command = ("cargo", "deny", "--all-features", "check")
    run(*command, "bans", "licenses", "sources")
    asked = subprocess.run([*command, "advisories"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    print(asked.stderr, end="", flush=True)
    if asked.returncode and NO_DATABASE in asked.stderr and not tag:
        say("Skipped: known weaknesses of dependencies, because their list cannot be had here")
    elif asked.returncode:
        sys.exit("FAILED: a dependency has a known weakness, or nobody could say")


def check_workflows() -> None:
    if shutil.which("actionlint"):
        say("The workflows of .github")
        run("actionlint")
    else:
        say("Skipped: the workflows of .github need actionlint")


def last_release() -> str:
    """The tag of the version before this one; empty if there is none."""
    command = ["git", "tag", "--list", "v*", "--sort=-version:refname"]
    tags = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    return next((tag for tag in tags if tag != f"v{version()}"), "")


def check_interface() -> None:
    """What a program may have relied on in the last release is still there, unless the version says otherwise."""
    before = last_release()
    if not before:
        say("Skipped: there is no release yet to compare the public names with")
        return
    say(f"The public names of the package and of the crate, beside {before}")
    tools = kept_venv("griffe", machine.default_python(), GRIFFE)
    run(*tools, "-m", "griffe", "check", "rloop", "--search", "python", "--against", before)
    if machine.has_cargo("semver-checks"):
        options = ("--only-explicit-features", "--features", "tokio", "--baseline-rev", before)
        run("cargo", "semver-checks", "--package", "rloop", *options)
    else:
        say("Skipped: the public names of the crate need cargo-semver-checks (cargo install cargo-semver-checks)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Say whether this checkout could be published as it is.")
    parser.add_argument("--tag", default="", help="the tag that is to be published, such as v0.1.0")
    options = parser.parse_args()
    machine.check_rust()
    check_version(options.tag)
    DIST.mkdir(parents=True, exist_ok=True)
    check_archives()
    check_crate()
    check_dependencies(options.tag)
    check_workflows()
    check_interface()
    say("Nothing here is in the way of a release")


if __name__ == "__main__":
    main()
