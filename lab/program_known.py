"""What may differ between rloop and asyncio: the differences of docs/compatibility.md, by their numbers, and what
neither loop promises, by a word.

A rule gets the program and what either loop told, and is true if the difference is the one that it stands for.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator

from program_steps import Do, Program, When
from program_world import Outcome

Rule = Callable[[Program, Outcome, Outcome], bool]
Note = tuple[str, ...]


def texts(outcome: Outcome, name: str | None = None) -> Iterator[str]:
    """The notes of an outcome, each as one text."""
    for whose, notes in outcome.items():
        if name is None or whose == name:
            yield from (" ".join(map(str, note)) for note in notes)


def calls(program: Program) -> list[Do]:
    """The calls of a program, and those of its callbacks."""
    steps = [step for outer in program for step in ((outer, *outer.does) if isinstance(outer, When) else (outer,))]
    return [step for step in steps if isinstance(step, Do)]


def changed(outcome: Outcome, names: set[str], change: Callable[[list[Note]], list[Note]]) -> Outcome:
    """The outcome, with the notes of these names changed."""
    return {name: change(notes) if name in names else notes for name, notes in outcome.items()}


def asyncio_fails(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio's own code fails an assertion, or uses what it has given up: no difference, but an error of asyncio's."""
    failures = (
        "AssertionError: ",
        "AttributeError: 'NoneType'",
        # Of a protocol that was set in `get_buffer`.
        "AttributeError: 'Plain' object has no attribute 'buffer_updated'",
        "TypeError: 'NoneType'",
        "InvalidStateError",
    )
    return any(failure in text for failure in failures for text in texts(theirs) if text not in set(texts(ours)))


def datagrams_of_one_turn(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio receives one in a turn, so that something else may come in between."""

    def sorted_out(outcome: Outcome) -> dict[str, list[tuple[str, ...]]]:
        told = {name for name, notes in outcome.items() if any(note[0] == "datagram" for note in notes)}
        return changed(outcome, told | {"reports"} if told else told, sorted)

    return sorted_out(ours) == sorted_out(theirs)


def raised_by_error_received(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio calls it inside `sendto()`, which raises what it raises."""
    return any(text.startswith("sendto") and "raised in error_received" in text for text in texts(theirs))


def senders_in_error_received(program: Program) -> set[str]:
    """The names of endpoints whose `error_received` sends."""
    scripts = [step for step in program if isinstance(step, When) and step.method == "error_received"]
    return {step.on for script in scripts for step in script.does if step.what == "sendto" and step.on == script.on}


def sent_by_error_received(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """What it sends is sent later, so that an error of it is told later."""
    names = senders_in_error_received(program)
    return bool(names) and changed(ours, names, sorted) == changed(theirs, names, sorted)


def without_refusals(program: Program, outcome: Outcome, names: set[str]) -> Outcome:
    """Without what these endpoints were told of a peer that is gone, and what they sent and raised then."""
    answering = senders_in_error_received(program)

    def refusal(note: Note) -> bool:
        # ENOTCONN comes after the first refusal, on a UNIX socket.
        gone = ("ConnectionRefusedError", "OSError: [Errno 107]")
        return note[0] == "error_received" and note[1].startswith(gone)

    rest = changed(outcome, names, lambda notes: [note for note in notes if not refusal(note)])
    answers = ("sendto", "error_received")
    rest = changed(rest, names & answering, lambda notes: [note for note in notes if note[0] not in answers])
    raised = [note for note in rest.get("reports", []) if "raised in error_received" not in note[1]]
    return {name: notes for name, notes in (rest | {"reports": raised}).items() if notes}


def refusals_of_kept_datagrams(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """A datagram that was kept back leaves when the peer is closed already, if the same callback closes it. Before
    that, three at least have shown that the endpoint writes in pieces.
    """
    sent = Counter(step.on for step in calls(program) if step.what == "sendto")
    closed = {step.on for step in calls(program) if step.what == "peer_close"}
    names = {name for name in closed if sent[name] > 3}
    return bool(names) and without_refusals(program, ours, names) == without_refusals(program, theirs, names)


def empty_datagrams(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio sends them since 3.13. If the peer is gone, they are refused."""
    names = {step.on for step in calls(program) if (step.what, step.args[:1]) == ("sendto", (0,))}

    def without(outcome: Outcome) -> Outcome:
        rest = without_refusals(program, outcome, names)
        kept = {name: [note for note in notes if note != ("datagram", "")] for name, notes in rest.items()}
        # A refusal comes before data that has come already.
        return changed({name: notes for name, notes in kept.items() if notes}, names, sorted)

    return sys.version_info < (3, 13) and without(ours) == without(theirs)


def start_tls_on_a_lost_connection(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    return any("ConnectionAbortedError: start_tls() on a connection that is lost" in text for text in texts(ours))


def tls(program: Program) -> set[str]:
    """The names of connections with TLS."""
    return {
        step.on
        for step in calls(program)
        if step.what == "start_tls" or (step.what == "open" and str(step.args[0]).startswith("tls"))
    }


def pieces_over_tls(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """How many calls of `data_received` tell of the data is a layer's own affair. What a call does then comes between
    other bytes.
    """
    names = tls(program) & {step.on for step in program if isinstance(step, When) and step.method == "data_received"}

    def together(notes: list[Note]) -> list[Note]:
        runs = [run.partition("*") for note in notes if note[0] == "data" for run in note[1].split()]
        data = [
            (letter, str(sum(int(count or 0) for _, _, count in group)))
            for letter, group in itertools.groupby(runs, key=lambda run: run[0])
        ]
        return [note for note in notes if note[0] != "data"] + data

    return bool(names) and changed(ours, names, together) == changed(theirs, names, together)


def flow_over_tls(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """The layer counts what is queued below it, so that it pauses and resumes at other times. How many system calls
    it makes on a lost connection, each of which may be logged, depends on the sizes of its records.
    """
    names, flow = tls(program), ("pause_writing", "resume_writing")
    if any(isinstance(step, When) and step.on in names and step.method in flow for step in program):
        told = [note for name in names for outcome in (ours, theirs) for note in outcome.get(name, [])]
        if any(flow[0] in note for note in told):
            return True

    def without(outcome: Outcome) -> Outcome:
        return {
            name: [note for note in notes if name not in names or note[0] not in (*flow, "get_write_buffer_size")]
            for name, notes in outcome.items()
            if name != "log" or not names
        }

    return without(ours) == without(theirs)


def paused_tls(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio goes on to receive, and so hears of an error that the paused layer does not hear of."""
    names = tls(program) & {step.on for step in calls(program) if step.what == "pause_reading"}

    def ended(notes: list[Note]) -> list[Note]:
        return [note[:1] if note[0] == "connection_lost" else note for note in notes]

    return bool(names) and changed(ours, names, ended) == changed(theirs, names, ended)


def handshake_while_paused(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio keeps the last message of a handshake back, so that the peer does not see the end of it."""
    scripts = [step for step in program if isinstance(step, When) and step.method == "connection_made"]
    peers = {
        f"{script.on}'s peer"
        for script in scripts
        if script.on in tls(program) and any(step.what == "pause_reading" for step in script.does)
    }

    def without(outcome: Outcome) -> Outcome:
        return {name: notes for name, notes in outcome.items() if name not in peers}

    return bool(peers) and without(ours) == without(theirs)


def data_before_a_bad_record(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio drops whole records that came together with a bad one. Flow control may differ beside that."""
    names = tls(program) & {step.on for step in calls(program) if step.what == "peer_garbage"}

    def without(notes: list[Note]) -> list[Note]:
        return [note for note in notes if note[0] != "data"]

    ours, theirs = changed(ours, names, without), changed(theirs, names, without)
    return bool(names) and (ours == theirs or flow_over_tls(program, ours, theirs))


def start_tls_after_write_eof(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """asyncio's layer cannot write its first message, and waits for the peer all the same."""
    refused = "RuntimeError: Cannot call write() after write_eof()"
    ended = {step.on for step in calls(program) if step.what == "write_eof"}
    upgraded = {step.on for step in calls(program) if step.what == "start_tls"}
    told = [any(refused in text for text in texts(outcome, "reports")) for outcome in (ours, theirs)]
    return bool(ended & upgraded) and told == [False, True]


def end_of_a_failed_handshake(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """What the peer sees depends on the turn: a connection that is closed before its message is read is reset."""
    peers = {f"{name}'s peer" for name in tls(program)}

    def ended(notes: list[Note]) -> list[Note]:
        return [("ended",) if note[0] in ("handshake failed", "reset") else note for note in notes]

    refused = any(text.startswith(("start_tls gives SSLError", "open gives SSLError")) for text in texts(ours))
    return refused and changed(ours, peers, ended) == changed(theirs, peers, ended)


def buffers_of_tls(program: Program, ours: Outcome, theirs: Outcome) -> bool:
    """When a layer asks for a buffer is its own affair, and so is what the program does then."""
    names = tls(program)
    return any(isinstance(step, When) and step.on in names and step.method == "get_buffer" for step in program)


RULES: dict[str, Rule] = {
    "asyncio": asyncio_fails,
    "buffers": buffers_of_tls,
    "end": end_of_a_failed_handshake,
    "pieces": pieces_over_tls,
    "16": refusals_of_kept_datagrams,
    "40": datagrams_of_one_turn,
    "41": raised_by_error_received,
    "41, later": sent_by_error_received,
    "43": empty_datagrams,
    "51": flow_over_tls,
    "52": paused_tls,
    "53": data_before_a_bad_record,
    "57": start_tls_on_a_lost_connection,
    "57, half": start_tls_after_write_eof,
    "58": handshake_while_paused,
}


def known(program: Program, ours: Outcome, theirs: Outcome) -> str | None:
    """The number of the difference that explains this one."""
    for number, rule in RULES.items():
        if rule(program, ours, theirs):
            return number
    return None
