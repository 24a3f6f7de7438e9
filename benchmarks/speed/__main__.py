"""Measure the cost of relaying, against fal's own proxy and others.

    python -m benchmarks.speed [--quick] [--only NAME] [--output DIRECTORY]

Everything runs on this machine and is stopped at the end: nginx as the upstream over TLS, the
proxies, and wrk as their clients. It needs Linux, nginx, wrk, node, npm, and what
`pip install '.[benchmarks]'` installs. The proxies have one core, and all other processes another.
If other work runs on the machine, do not quote the figures. Each proxy is warmed up until its cost
is flat. Then they are measured in turns, round after round, and the medians are compared.
"""

from __future__ import annotations

from benchmarks.speed.required import require


def main() -> int:
    """Check that all requirements are installed, then run the command."""
    require()
    # Only now, because its imports fail if a requirement is missing.
    from benchmarks.speed import command  # noqa: PLC0415

    return command.main()


if __name__ == "__main__":
    raise SystemExit(main())
