"""What the tests of UNIX sockets share."""

import pytest


@pytest.fixture
def path(tmp_path):
    """Where a socket may be bound."""
    return str(tmp_path / "socket")
