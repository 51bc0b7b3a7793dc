"""Tests of the repository: its layers, the names and signatures it exports, its pages and its tools."""
