"""Tests of TLS connections. Each also passes on rloop's portable engine (`RLOOP_TLS_ENGINE=portable`)."""
