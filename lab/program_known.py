"""What may differ between rloop and asyncio: the differences of docs/compatibility.md, by their numbers.

A rule gets the program and what either loop told, and is true if the difference is the one that it stands for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from program_steps import Do, Program, When
from program_world import Outcome

Rule = Callable[[Program, Outcome, Outcome], bool]


def texts(outcome: Outcome, name: str | None = None) -> Iterator[str]:
    """The notes of an outcome, each as one text."""
    for whose, notes in outcome.items():
        if name is None or whose == name:
            yield from (" ".join(map(str, note)) for note in notes)


def asyncio_fails(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio's own code fails an assertion, or uses what it has given up: no difference, but an error of asyncio's."""
    failures = ("AssertionError: ", "AttributeError: 'NoneType'", "TypeError: 'NoneType'", "InvalidStateError")
    return any(failure in text for failure in failures for text in texts(theirs) if text not in set(texts(ours)))


def datagrams_of_one_turn(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio receives one in a turn, so that something else may come in between."""

    def sorted_out(outcome: Outcome) -> dict[str, list[tuple[str, ...]]]:
        return {
            name: sorted(notes) if any(note[0] == "datagram" for note in notes) else notes
            for name, notes in outcome.items()
        }

    return sorted_out(ours) == sorted_out(theirs)


def raised_by_error_received(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio calls it inside `sendto()`, which raises what it raises."""
    return any(text.startswith("sendto") and "raised in error_received" in text for text in texts(theirs))


def empty_datagrams(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio sends them since 3.13."""

    def without(outcome: Outcome) -> Outcome:
        kept = {name: [note for note in notes if note != ("datagram", "")] for name, notes in outcome.items()}
        return {name: notes for name, notes in kept.items() if notes}

    return sys.version_info < (3, 13) and without(ours) == without(theirs)


def start_tls_on_a_lost_connection(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    return any("ConnectionAbortedError: start_tls() on a connection that is lost" in text for text in texts(ours))


def tls(program: Program) -> set[str]:
    """The names of connections with TLS."""
    steps = [step for step in program if isinstance(step, (Do, When))]
    inner = [step for outer in steps if isinstance(outer, When) for step in outer.does]
    calls = [step for step in [*steps, *inner] if isinstance(step, Do)]
    return {
        step.on
        for step in calls
        if step.what == "start_tls" or (step.what == "open" and str(step.args[0]).startswith("tls"))
    }


def flow_over_tls(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """The layer counts what is queued below it, so that it pauses and resumes at other times. How many system calls
    it makes on a lost connection, each of which may be logged, depends on the sizes of its records.
    """
    names, flow = tls(program), ("pause_writing", "resume_writing")
    if any(isinstance(step, When) and step.on in names and step.method in flow for step in program):
        told = [note for name in names for outcome in (ours, theirs) for note in outcome.get(name, [])]
        return any(flow[0] in note for note in told)

    def without(outcome: Outcome) -> Outcome:
        return {
            name: [note for note in notes if name not in names or note[0] not in (*flow, "get_write_buffer_size")]
            for name, notes in outcome.items()
            if name != "log" or not names
        }

    return without(ours) == without(theirs)


RULES: dict[str, Rule] = {
    "asyncio": asyncio_fails,
    "40": datagrams_of_one_turn,
    "41": raised_by_error_received,
    "43": empty_datagrams,
    "51": flow_over_tls,
    "57": start_tls_on_a_lost_connection,
}


def known(program: Program, ours: Outcome, theirs: Outcome) -> str | None:
    """The number of the difference that explains this one."""
    for number, rule in RULES.items():
        if rule(program, ours, theirs):
            return number
    return None
