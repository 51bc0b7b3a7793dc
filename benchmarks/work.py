"""What an application does for a request, in the open-loop sections: it uses a fixed CPU time."""

import time

# Set by echo_server.py.
nanoseconds = 0


def use():
    """A fixed number of steps would not do: the speed of a CPU drifts, and the response times of a server that is
    nearly busy would drift many times as much."""
    end = time.thread_time_ns() + nanoseconds
    while time.thread_time_ns() < end:
        pass
