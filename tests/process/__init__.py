"""Tests of child processes: how they are started, talked to and waited for."""
