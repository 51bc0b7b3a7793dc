"""Reads `left_out.txt`, the list of tests that are left out, with one rule per line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

LEFT_OUT = Path(__file__).with_name("left_out.txt")


@dataclass(frozen=True)
class Rule:
    """`pattern | reason`, or `pattern ~ regex | reason`. Then the source of the test must contain the regex."""

    pattern: str
    source: str
    reason: str

    @property
    def condition(self) -> str:
        return f"{self.pattern} ~ {self.source}" if self.source else self.pattern

    def matches(self, name: str, source: str) -> bool:
        return fnmatchcase(name, self.pattern) and re.search(self.source, source) is not None


def read_rules() -> list[Rule]:
    """The rules. Empty lines and those that begin with # are ignored."""
    rules = []
    for number, text in enumerate(LEFT_OUT.read_text().splitlines(), 1):
        if text.strip() and not text.startswith("#"):
            condition, _, reason = text.rpartition(" | ")
            pattern, _, source = condition.partition(" ~ ")
            if not pattern.strip() or not reason.strip():
                raise ValueError(f"{LEFT_OUT.name}:{number}: not `pattern | reason`")
            rules.append(Rule(pattern.strip(), source.strip(), reason.strip()))
    return rules
