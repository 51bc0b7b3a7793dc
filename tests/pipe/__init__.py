"""Tests of `connect_read_pipe` and `connect_write_pipe`: pipes, terminals and whatever else they take."""
