"""Tests of the `loop.sock_*` methods, which work on the program's own sockets without a transport."""
