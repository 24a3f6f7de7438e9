"""Parts that all benchmarks share: processes, servers, calls, the upstream, results."""
