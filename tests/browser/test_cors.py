"""A front end on another origin: what a browser makes of what the proxy says."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
from webtest.http import StopableWSGIServer

from tests.support.serving import JS
from wsgi_fal_proxy import Allow, FalProxy, FalRequest, Refuse
from wsgi_fal_proxy.testing import FakeFal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from playwright.sync_api import Browser, Page

APP: Final = "https://app.example.com"


@pytest.fixture(scope="module")
def script(node: str) -> str:
    """fal's own client, as one script."""
    command = [node, str(JS / "bundle.mjs")]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def an_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<!doctype html><title>An app</title>"]


@pytest.fixture(scope="module")
def page(browser: Browser, script: str) -> Iterator[Page]:
    """A page of another origin, with fal's client on it."""
    # Served, since Chromium takes a page that is not to be from the internet.
    site = StopableWSGIServer.create(an_app)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{site.adj.port}/")
    page.add_script_tag(content=script)
    yield page
    site.shutdown()


def origin_of(page: Page) -> str:
    return page.url.rstrip("/")


@pytest.fixture(scope="module")
def server() -> Iterator[StopableWSGIServer]:
    server = StopableWSGIServer.create(FalProxy(key="unused"), threads=8)
    yield server
    server.shutdown()


def of_the_session(request: FalRequest) -> Allow | Refuse:
    if "session=mine" in request.environ.get("HTTP_COOKIE", ""):
        return Allow("mine")
    return Refuse(401, "Sign in first.")


@pytest.fixture
def calling(
    page: Page, server: StopableWSGIServer
) -> Iterator[Callable[..., Callable[[str], Any]]]:
    """Give what runs code on the page, with `fal` calling a proxy with these options."""
    with FakeFal(step_seconds=0.01) as fal:

        def calling(**options: Any) -> Callable[[str], Any]:
            proxy = FalProxy(key=fal.key, pool_manager=fal.pool_manager(), **options)
            server.test_app = proxy
            url = f"http://127.0.0.1:{server.adj.port}/api/fal/proxy"

            def run(code: str) -> Any:
                return page.evaluate(
                    """async ([url, code]) => {
                        fal.config({
                            proxyUrl: url,
                            fetch: (to, init) => fetch(to, { ...init, credentials: "include" }),
                            retry: { maxRetries: 0 },
                        });
                        const failure = (call) => call.then(
                            () => "none",
                            ({ name, status, message, body }) => ({ name, status, message, body }),
                        );
                        return await eval(`(async () => {${code}})()`);
                    }""",
                    [url, code],
                )

            return run

        yield calling


MODEL: Final = "'fal-ai/flux/dev', { input: { prompt: 'a fox' } }"


def test_cors_lets_the_client_run_across_origins_in_a_browser(calling: Callable[..., Any]) -> None:
    run = calling(cors_origins=["localhost"])
    result = run(f"return await fal.run({MODEL})")
    assert result["data"]["prompt"] == "a fox"
    # A header that a page may not read, unless it is exposed.
    assert result["requestId"]
    assert run(f"return (await fal.subscribe({MODEL})).data.prompt") == "a fox"
    assert run(f"return (await fal.stream({MODEL})).done()")


def test_cors_lets_a_cancel_which_is_a_put_cross_origins_in_a_browser(
    page: Page, calling: Callable[..., Any]
) -> None:
    cancelled = calling(cors_origins=[origin_of(page)])(f"""
        const {{ request_id: requestId }} = await fal.queue.submit({MODEL});
        await fal.queue.cancel('fal-ai/flux/dev', {{ requestId }});
        return await failure(fal.queue.cancel('fal-ai/flux/dev', {{ requestId }}));
    """)
    assert cancelled["status"] == 400


def test_cors_lets_an_error_of_ours_show_its_message_in_a_browser(
    page: Page, calling: Callable[..., Any]
) -> None:
    run = calling(cors_origins=[origin_of(page)], authorize=lambda _: Refuse(403, "Not today."))
    error = run(f"return await failure(fal.run({MODEL}))")
    assert (error["name"], error["status"], error["message"]) == ("ApiError", 403, "Not today.")
    assert error["body"]["reason"] == "forbidden"


def test_cors_lets_the_apps_session_go_along_in_a_browser(
    page: Page, calling: Callable[..., Any]
) -> None:
    run = calling(cors_origins=[origin_of(page)], authorize=of_the_session)
    assert run(f"return await failure(fal.run({MODEL}))")["message"] == "Sign in first."
    page.context.add_cookies([{"name": "session", "value": "mine", "url": page.url}])
    assert run(f"return await failure(fal.run({MODEL}))") == "none"


@pytest.mark.parametrize("origins", [(), (APP,)], ids=["off", "others"])
def test_cors_lets_nothing_cross_origins_in_a_browser_unless_allowed(
    calling: Callable[..., Any], origins: tuple[str, ...]
) -> None:
    error = calling(cors_origins=origins)(f"return await failure(fal.run({MODEL}))")
    assert (error["name"], error["message"]) == ("TypeError", "Failed to fetch")
