"""Whose money: the checks on who may call what, and how much, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_fal_proxy.allowlist import Allowlist
from wsgi_fal_proxy.authorize import FalRequest, identity_of
from wsgi_fal_proxy.operations import operation

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy.body import RequestBody
    from wsgi_fal_proxy.settings import Settings
    from wsgi_fal_proxy.target import Target


class Gate:
    """What stands between an acceptable request and the owner's money.

    Args:
        settings: Of which `authorize` and those of the allowlists count here.

    Attributes:
        allowlist: What narrows the formula's rule 3; None where all that is fal's is allowed.
    """

    def __init__(self, settings: Settings) -> None:
        self._authorize = settings.authorize
        self.allowlist = Allowlist.of(settings)

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to check, and nobody to ask."""
        return self._authorize is None and self.allowlist is None

    def admit(
        self, environ: WSGIEnvironment, method: str, target: Target, body: RequestBody
    ) -> str | None:
        """Give who the caller is, None for one that is not known by name.

        Args:
            environ: The WSGI environ.
            method: Of the request.
            target: Where it would go; the allowlist has passed it.
            body: Has been accepted, and not read.

        Raises:
            Refusal: The request is not to be relayed.
        """
        identity = None
        if self._authorize is not None:
            request = FalRequest(environ, method, target, operation(method, target))
            identity = identity_of(self._authorize, request)
        if self.allowlist is not None:
            self.allowlist.check_body(method, target, body)
        return identity
