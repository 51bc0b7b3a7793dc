"""Tests of what is special about stream connections over UNIX sockets: paths, the socket's file, servers."""
