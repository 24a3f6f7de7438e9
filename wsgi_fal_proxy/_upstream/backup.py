"""fal's backup domains, for when a main one does not resolve or connect.

They are those of fal's own client (fal-client 1.0.3 for Python, `client.py`: `_BACKUP_DOMAINS`).
That client tries the backup once after any failure to connect, TLS included, takes at most five
seconds for each domain, writes the backup's name into `Host`, raises the main domain's error if
both fail, and remembers nothing. The same is done here, but for the last: a server makes many
calls, and each would wait again.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

_logger: Final = logging.getLogger("wsgi_fal_proxy")

BACKUP_DOMAINS: Final = {"fal.run": "falrun.com", "queue.fal.run": "queue.falrun.com"}
CONNECT_SECONDS: Final = 5.0
"""The longest time to connect to a domain that has a backup, and to the backup."""
DOWN_SECONDS: Final = 30.0
"""How long new connections go to the backup first after the main domain has failed."""


class Backups:
    """Which domain to try first."""

    def __init__(self) -> None:
        # By main domain, the `time.monotonic()` until which its backup goes first. Threads may
        # race here: then one more tries the main domain.
        self._down_until: dict[str, float] = {}

    def domains(self, host: str) -> tuple[str, ...]:
        """Return the names to connect to for a host, in order. There is one if it has no backup."""
        backup = BACKUP_DOMAINS.get(host)
        if backup is None:
            return (host,)
        until, now = self._down_until.get(host), monotonic()
        if until is None:
            return host, backup
        if now < until:
            return backup, host
        # This call finds out whether the main domain is back. The others do not wait for it.
        self._down_until[host] = now + CONNECT_SECONDS
        return host, backup

    def main_failed(self, host: str, reason: str) -> None:
        """Note that the backup of a host was reached, and the host was not."""
        if host not in self._down_until:
            backup = BACKUP_DOMAINS[host]
            message = "%s could not be reached (%s). New connections go to fal's backup domain %s."
            _logger.warning(message, host, reason, backup)
        self._down_until[host] = monotonic() + DOWN_SECONDS

    def main_worked(self, host: str) -> None:
        """Note that a host was reached."""
        if self._down_until.pop(host, None) is not None:
            _logger.warning("New connections go to %s again.", host)

    def both_failed(self, host: str) -> None:
        """Note that neither a host nor its backup was reached: the host goes first again."""
        self._down_until.pop(host, None)
