"""Guards the instruction count of one request; see `python -m benchmarks.guard --help`."""
