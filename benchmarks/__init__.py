"""Measures the package under load and under faults, and the cost of relaying.

`python -m benchmarks.speed`, `python -m benchmarks.robustness` and `python -m benchmarks.guard`
run from the project's root. Imports go down: `__main__`, then measurements, then `common`.
"""
