"""What the figures of soak.py mean: percentiles, the growth of memory, and what makes a run fail.

Pure functions of the rounds, each of them a dict as in soak.jsonl. tests/project/test_lab_soak.py has a test of each.
"""

from collections import Counter

# KiB of memory that a million connections may cost, and that a run of fewer connections may.
PER_MILLION = 1024
MILLION = 1_000_000
# The part of the rounds in which allocators and caches may still grow.
WARM_UP = 1 / 3


def percentiles(figures):
    """Of latencies in microseconds."""
    ordered = sorted(figures) or [0]
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * part))] for name, part in at.items()} | {
        "max": ordered[-1]
    }


def slope(points):
    """The slope of the straight line that is nearest to the points (x, y), by least squares."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def growth(rounds):
    """How much memory has grown after the warm-up, by the fitted line: (KiB, over how many connections)."""
    settled = rounds[int(len(rounds) * WARM_UP) :]
    points = [(figures["connections"], figures["rss"]) for figures in settled]
    over = points[-1][0] - points[0][0]
    return slope(points) * over, over


def judge(rounds):
    """What is wrong with a run, a sentence each.

    What is open, and which tasks, transports and protocols exist, is compared between the pauses: no pause may have
    more than the first one. Memory may grow by 1 MiB for each million connections; a run with fewer may grow by 1 MiB
    as a whole, since the allocator takes it in larger pieces.
    """
    if len(rounds) < 2:
        return [f"{len(rounds)} rounds are too few to see a growth"]
    first, last = rounds[0], rounds[-1]
    errors = sum((Counter(figures["errors"]) for figures in rounds), Counter())
    wrong = [f"{number} times: {error}" for error, number in errors.items()]
    left = Counter(last["files"]) - Counter(first["files"])
    if len(last["files"]) > len(first["files"]):
        kinds = Counter(name.partition(":")[0] for name in left.elements())
        over = last["connections"] - first["connections"]
        grown = len(last["files"]) - len(first["files"])
        wrong.append(f"{grown} files were left open in {over:,} connections, of {dict(kinds)}")
    for name in ("tasks", "transports", "protocols"):
        if last[name] > first[name]:
            wrong.append(f"{name}: {first[name]} after the first round, {last[name]} at the end")
    kib, over = growth(rounds)
    if kib > PER_MILLION * max(1, over / MILLION):
        wrong.append(f"{kib:,.0f} KiB of growth in {over:,} connections after the warm-up")
    made, chores = (sum((Counter(figures[name]) for figures in rounds), Counter()) for name in ("made", "chores"))
    wrong += [f"no connection was made to {name}" for name in KINDS if not made[name]]
    wrong += [f"the chore {name} was never done" for name in DUTIES if not chores[name]]
    return wrong


# What a run must have done at least once; otherwise it has not tried what it should.
KINDS = ("lines", "unix", "tls", "uvicorn", "aiohttp", "streams", "udp", "worker")
DUTIES = (
    *("aiohttp_client", "blocking", "cancelled_client", "child", "fork", "pipes", "raw_sockets", "refused"),
    *("refused_datagram", "signal", "stream_client", "thread", "threads_post", "timers", "tls_client", "watched_file"),
)
