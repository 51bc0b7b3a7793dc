"""Tests of datagram endpoints: UDP, and UNIX sockets that keep messages apart."""
