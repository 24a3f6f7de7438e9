"""Whose money: the checks on who may call what, and how much, in their order."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._fal.operations import operation
from wsgi_fal_proxy._policy.authorize import FalRequest, allow_anyone, identity_of

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._core.record import Observation
    from wsgi_fal_proxy._fal.target import Target
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._policy.allowlist import Allowlist
    from wsgi_fal_proxy._policy.limits.limiter import Limiter
    from wsgi_fal_proxy._policy.limits.store import Refund
    from wsgi_fal_proxy._settings.options import Settings

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class Gate:
    """What stands between an acceptable request and the owner's money.

    Args:
        settings: Of which `authorize`, those of the allowlists and those of the limits count here.

    Attributes:
        allowlist: What narrows the formula's rule 3; None where all that is fal's is allowed.
    """

    def __init__(self, settings: Settings) -> None:
        # Who says that anyone may call need not be asked each time.
        said = settings.authorize
        self._authorize = None if said is allow_anyone else said
        closes = settings.allowed_endpoints and not settings.report_only
        self._is_said = said is not None or bool(closes or settings.limits)
        self.allowlist: Allowlist | None = _allowlist(settings)
        self._limiter = _limiter(settings)

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to check, and nobody to ask."""
        return self._authorize is None and self.allowlist is None and self._limiter is None

    def warn_if_open(self) -> None:
        """Log that anyone may spend, unless the owner has said who, or what, or how much.

        Once in a process. What may be called besides (`allowed_urls`) bounds no money.
        """
        if not self._is_said:
            _warn_that_anyone_may_call()

    def admit(
        self,
        environ: WSGIEnvironment,
        method: str,
        target: Target,
        body: RequestBody,
        seen: Observation | None = None,
    ) -> str | None:
        """Give who the caller is, None for one that is not known by name.

        Args:
            environ: The WSGI environ.
            method: Of the request.
            target: Where it would go; the allowlist has passed it.
            body: Has been accepted, and not read.
            seen: Is told who it is, also where the request is then refused.

        Raises:
            Refusal: The request is not to be relayed.
        """
        identity = None
        if self._authorize is not None:
            request = FalRequest(environ, method, target, operation(method, target))
            identity = identity_of(self._authorize, request)
            if seen is not None:
                seen.identity = identity
        if self.allowlist is not None:
            self.allowlist.check_body(method, target, body)
        return identity

    def take(
        self, environ: WSGIEnvironment, method: str, target: Target, identity: str | None
    ) -> Refund | None:
        """Charge the limits for an admitted request; return its refund.

        Raises:
            Refusal: There is not so much left, or it cannot be told.
        """
        if self._limiter is None:
            return None
        return self._limiter.take(environ, identity, operation(method, target))


# Neither is loaded where it is not set: a start takes so much less.


def _allowlist(settings: Settings) -> Allowlist | None:
    urls, endpoints = settings.allowed_urls, settings.allowed_endpoints
    if not (urls or endpoints):
        return None
    from wsgi_fal_proxy._policy.allowlist import Allowlist  # noqa: PLC0415

    return Allowlist(urls, endpoints, report_only=settings.report_only)


def _limiter(settings: Settings) -> Limiter | None:
    if not settings.limits:
        return None
    from wsgi_fal_proxy._policy.limits.limiter import Limiter  # noqa: PLC0415

    return Limiter(
        settings.limits,
        costs=settings.costs,
        storage=settings.limits_storage,
        fail_open=settings.limits_fail_open,
    )


@cache
def _warn_that_anyone_may_call() -> None:
    _logger.warning(
        "Whoever reaches the fal proxy can call fal with your key, as often as they like, and fal"
        " bills you: set authorize, allowed_endpoints or limits, or authorize=allow_anyone if that"
        " is meant, as where a check of yours is in front; stand-alone, set"
        " FAL_PROXY_ALLOWED_ENDPOINTS or FAL_PROXY_LIMITS (see the README, 'Who may call')."
    )
