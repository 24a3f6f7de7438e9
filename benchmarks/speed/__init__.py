"""Measures the cost of relaying against other proxies; see `python -m benchmarks.speed --help`."""
