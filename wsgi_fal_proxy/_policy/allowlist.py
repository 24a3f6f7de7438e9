"""The allowlists: which URLs may be called, and which endpoints may be run.

Both compare exactly what will be sent. If servers could read a target or a body in different ways,
the request is refused. `allowed_endpoints` also refuses every request that spends and names no
endpoint.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wsgi_fal_proxy._fal.operations import Kind
from wsgi_fal_proxy._fal.patterns import (
    PLAIN_PATH,
    compile_app_patterns,
    compile_endpoint_patterns,
    compile_url_patterns,
)
from wsgi_fal_proxy.errors import (
    BodyAmbiguous,
    EndpointNotAllowed,
    Refusal,
    TargetAmbiguous,
    TargetNotAllowed,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._http.request_body import RequestBody

_logger: Final = logging.getLogger("wsgi_fal_proxy")

# The keys that fal's JavaScript client sends in bodies that name what to run (its auth and
# realtime/wma). Any other key is refused, since it could name more endpoints.
_KEYS: Final = {
    Kind.TOKEN: frozenset({"allowed_apps", "token_expiration"}),
    Kind.SESSION: frozenset({"app_id", "sdp", "type"}),
}
# Characters. A name from the body can have 64 KiB; a refusal shows its beginning.
_SHOWN_LENGTH: Final = 100


class Allowlist:
    """The options `allowed_urls`, `allowed_endpoints` and `report_only`.

    Args:
        urls: Patterns of URLs. None or empty allows all.
        endpoints: Patterns of endpoints. None or empty allows all.
        report_only: Whether to log refusals instead of raising them.

    Attributes:
        closes_endpoints: Whether an endpoint that is not named is refused.
    """

    def __init__(
        self,
        urls: Collection[str] | None,
        endpoints: Collection[str] | None,
        *,
        report_only: bool = False,
    ) -> None:
        self._urls = compile_url_patterns(urls) if urls else None
        self._limits_endpoints = bool(endpoints)
        self._endpoints = compile_endpoint_patterns(endpoints or ())
        self._apps = compile_app_patterns(endpoints or ())
        self._report_only = report_only
        self.closes_endpoints: bool = self._limits_endpoints and not report_only

    def check_target(self, request: FalRequest) -> None:
        """Check the target.

        Raises:
            TargetAmbiguous: The path is not plain.
            TargetNotAllowed: No pattern of `allowed_urls` matches.
            EndpointNotAllowed: The request spends, and no pattern of `allowed_endpoints` matches.
        """
        try:
            self._check_target(request)
        except Refusal as refusal:
            self._refuse(refusal, request)

    def check_body(self, request: FalRequest, body: RequestBody) -> None:
        """Check the endpoints that the body names. Only such a body is read.

        Raises:
            BodyAmbiguous: Parsers could disagree on the names.
            EndpointNotAllowed: No pattern of `allowed_endpoints` matches.
            BodyIncomplete: The body ended before its declared length, or could not be read.
        """
        asked = request.operation.kind
        if not self._limits_endpoints or asked not in _KEYS:
            return
        try:
            self._check_named(_strictly_parsed(body.text(), _KEYS[asked]))
        except (BodyAmbiguous, EndpointNotAllowed) as refusal:
            self._refuse(refusal, request)

    def _check_target(self, request: FalRequest) -> None:
        target = request.target
        if not PLAIN_PATH.fullmatch(target.path):
            raise TargetAmbiguous
        if self._urls is not None and not self._urls.match(target.host + target.request_target):
            raise TargetNotAllowed
        if not self._limits_endpoints:
            return
        asked = request.operation
        # If the body names the endpoints, `check_body` checks them.
        if asked.spends and asked.kind not in _KEYS:
            self._check_endpoint(asked.endpoint)

    def _check_named(self, named: dict[str, Any]) -> None:
        match named:
            case {"app_id": str(endpoint)}:
                self._check_endpoint(endpoint)
            case {"allowed_apps": [*apps]} if apps and all(isinstance(app, str) for app in apps):
                for app in apps:
                    self._check_app(app)
            case _:
                raise BodyAmbiguous

    def _check_endpoint(self, endpoint: str | None) -> None:
        if endpoint is None or not _is_plain(endpoint):
            raise EndpointNotAllowed
        if not self._endpoints.match(f"/{endpoint}"):
            detail = (
                f"This app does not let you run {_shown(endpoint)}: no pattern of the proxy's"
                " option allowed_endpoints matches it (a subpath such as /stream is part of an"
                " endpoint)."
            )
            raise EndpointNotAllowed(detail)

    def _check_app(self, app: str) -> None:
        """Check a token's app: its holder can run all of it. fal's client leaves out the owner."""
        if not _is_plain(app):
            raise BodyAmbiguous
        if not self._apps.match(f"/{app}" if "/" in app else f"/*/{app}"):
            detail = (
                f"This app does not let you have a token for {_shown(app)}: no pattern of the"
                " proxy's option allowed_endpoints allows the whole app. If the token names no"
                " owner, the pattern must allow the app of every owner, such as */flux/**."
            )
            raise EndpointNotAllowed(detail)

    def _refuse(self, refusal: Refusal, request: FalRequest) -> None:
        if not self._report_only:
            raise refusal
        _logger.warning(
            "%s: would be refused without report_only: %s %s%s, endpoint %s",
            refusal.reason,
            request.method,
            request.target.host,
            request.target.path,
            request.endpoint,
        )


def _shown(name: str) -> str:
    """Shorten a plain name for a message."""
    return name if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]}..."


def _is_plain(name: str) -> bool:
    return not f"/{name}".endswith("/") and PLAIN_PATH.fullmatch(f"/{name}") is not None


def _strictly_parsed(text: str | None, keys: frozenset[str]) -> dict[str, Any]:
    """Parse a JSON object that every parser reads alike.

    RFC 8259 lets parsers differ on the meaning of a repeated key (section 4), on the depth that
    they accept, and on extensions of JSON (section 9).

    Raises:
        BodyAmbiguous: The text is None or not such an object, or has other keys.
    """
    if text is None:
        raise BodyAmbiguous
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BodyAmbiguous from error
    if not isinstance(value, dict) or not keys.issuperset(value):
        raise BodyAmbiguous
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise BodyAmbiguous
    return value


def _no_constant(name: str) -> NoReturn:
    raise BodyAmbiguous
