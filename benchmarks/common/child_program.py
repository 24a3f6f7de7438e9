"""Runs one function of the benchmarks in its own process; see `processes.child`."""

from __future__ import annotations

import json
import sys
from importlib import import_module


def _write(value: object) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    """Call the function that the command line names, and print its result as JSON."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(import_module(module), name)
    _write(function(lambda: _write("ready"), **json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
