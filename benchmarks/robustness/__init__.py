"""Measures behaviour under load and under faults; see `python -m benchmarks.robustness --help`."""
