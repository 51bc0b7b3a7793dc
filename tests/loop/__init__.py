"""Tests of the loop itself: callbacks, timers, tasks, readers and writers, signals, threads, DNS, start and end."""
