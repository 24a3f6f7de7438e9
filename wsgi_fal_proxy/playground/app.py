"""The playground as a WSGI application that wraps another one."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from werkzeug import Response

from wsgi_fal_proxy._settings.options import DEFAULT_PREFIX
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PATH: Final = "/playground"
"""The path of the page. Its files are below."""

_PAGE: Final = Path(__file__).with_name("page")
_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# The hosts of uploads and of the models' files: docs.fal.ai, "fal CDN".
_FAL_FILES: Final = ("https://fal.media", "https://*.fal.media")
_LOCAL_CLIENT: Final = "client/"


class Playground:
    """Answers at `/playground/` with a page that calls fal through the proxy.

    All other requests pass through to the wrapped application. The page's Content-Security-Policy
    allows only the proxy, the hosts of fal's files, and fal's own client. The browser checks each
    file of the client against its hash.

    The constructor reads the page's files.

    Args:
        app: The WSGI application to wrap. It also answers at the proxy's path.
        proxy_url: The path at which the browser calls the proxy, as in a URL.
        fake_url: The `url` of a fake fal, if the proxy relays to one. The page then says that
            nothing is billed. None, the default, means fal, which bills.
        client_directory: A directory in which npm has installed `@fal-ai/client`. The playground
            serves the client from there. None, the default: the browser loads it from jsDelivr.

    Raises:
        SettingsError: The directory has no client, or another version.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        proxy_url: str = DEFAULT_PREFIX,
        fake_url: str | None = None,
        client_directory: Path | str | None = None,
    ) -> None:
        self._app = app
        settings = json.loads((_PAGE / "settings.json").read_text(encoding="utf-8"))
        settings |= {"proxyUrl": proxy_url, "fal": "fal" if fake_url is None else "fake"}
        client = settings["client"]
        served = {path.name: path.read_bytes() for path in _PAGE.iterdir()}
        if client_directory is None:
            scripts = [client["base"] + f"{name}@{version}/" for name, version in _versions(client)]
        else:
            scripts = []
            served |= _installed(client, Path(client_directory))
            client |= {"base": _LOCAL_CLIENT, "versioned": False}
        served["settings.json"] = json.dumps(settings).encode()
        files = _FAL_FILES if fake_url is None else (fake_url,)
        self._headers = _headers(scripts, files)
        self._served = {f"{PATH}/{name}": content for name, content in served.items()}
        self._served[f"{PATH}/"] = self._served.pop(f"{PATH}/index.html")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path != PATH and not path.startswith(f"{PATH}/"):
            return self._app(environ, start_response)
        return self._response(environ["REQUEST_METHOD"], path)(environ, start_response)

    def _response(self, method: str, path: str) -> Response:
        if method not in {"GET", "HEAD"}:
            allow = {"Allow": "GET, HEAD"}
            return _text(
                "This page accepts only GET and HEAD.", HTTPStatus.METHOD_NOT_ALLOWED, allow
            )
        if path == PATH:
            # Relative, so that it works under any mount point (RFC 9110 section 10.2.2).
            location = {"Location": f"{PATH[1:]}/"}
            return _text(f"The page is at {PATH}/.", HTTPStatus.PERMANENT_REDIRECT, location)
        content = self._served.get(path)
        if content is None:
            return _text(f"There is nothing here. The page is at {PATH}/.", HTTPStatus.NOT_FOUND)
        suffix = Path(path).suffix or ".html"
        return Response(content, headers=self._headers, content_type=_CONTENT_TYPES[suffix])


def _text(text: str, status: HTTPStatus, headers: dict[str, str] | None = None) -> Response:
    return Response(f"{text}\n", status, headers, content_type="text/plain; charset=utf-8")


def _versions(client: dict[str, Any]) -> list[tuple[str, str]]:
    return [(package["name"], package["version"]) for package in client["packages"]]


def _installed(client: dict[str, Any], directory: Path) -> dict[str, bytes]:
    """Return the client's files by the names under which they are served."""
    wanted = " ".join(f"{name}@{version}" for name, version in _versions(client))
    why = f"it must be a directory in which this was run: npm install {wanted}"
    files = {}
    for package in client["packages"]:
        for file in package["files"]:
            name = f"{package['name']}/{file['path']}"
            try:
                content = (directory / "node_modules" / name).read_bytes()
            except OSError as error:
                missing = f"{why} (node_modules/{name}: {error.strerror})"
                raise SettingsError("client_directory", str(directory), missing) from error
            # The browser would also refuse this file, but with a less helpful message.
            if _integrity(content) != file["integrity"]:
                other = f"{why} (node_modules/{name} is another version's)"
                raise SettingsError("client_directory", str(directory), other)
            files[_LOCAL_CLIENT + name] = content
    return files


def _integrity(content: bytes) -> str:
    """Return the hash of content (W3C, Subresource Integrity, section 3.1)."""
    return f"sha384-{b64encode(hashlib.sha384(content).digest()).decode()}"


def _headers(scripts: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    files = " ".join(files)
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *scripts]),
        "style-src": "'self'",
        # data: for pictures within answers, blob: for the preview of an upload.
        "img-src": f"'self' data: blob: {files}",
        "connect-src": f"'self' {files}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # No text can become HTML or code. The only exception is the URLs of the client's files.
        "trusted-types": "fal-client",
        "require-trusted-types-for": "'script'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
