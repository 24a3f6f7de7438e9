"""The playground: what serves its page, and the page itself in a browser, by real clicks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import urllib3
import webtest
from playwright.sync_api import expect
from webtest.http import StopableWSGIServer

import wsgi_fal_proxy.__main__ as command
from tests.support.command import Visits, read_until
from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import JS, running
from wsgi_fal_proxy import FalProxyMiddleware
from wsgi_fal_proxy.errors import SettingsError
from wsgi_fal_proxy.playground import Playground
from wsgi_fal_proxy.testing import FakeFal
from wsgi_fal_proxy.testing.picture import png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route

CDN: Final = "https://cdn.jsdelivr.net/npm/"
PHONE: Final = {"width": 360, "height": 740}


def beside(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]


# What serves it


@pytest.fixture(scope="module")
def page_app() -> webtest.TestApp:
    return webtest.TestApp(Playground(beside), lint=True)


def test_playground_leaves_all_other_paths_to_the_app(page_app: webtest.TestApp) -> None:
    for path in ("/", "/playgrounds", "/playgroun", "/api/fal/proxy"):
        assert page_app.get(path).body == b"the app"
        assert page_app.post(path).body == b"the app"


def test_playground_page_may_load_only_what_it_names(page_app: webtest.TestApp) -> None:
    answer = page_app.get("/playground/")

    assert answer.content_type == "text/html"
    assert "<script>" not in answer.text
    assert " style=" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; ")
    )
    scripts = policy.pop("script-src").split()
    assert scripts[0] == "'self'"
    assert scripts[-1] == f"{CDN}@fal-ai/client@1.10.1/"
    assert all(re.fullmatch(rf"{CDN}.+@\d+\.\d+\.\d+/", script) for script in scripts[1:])
    files = "https://fal.media https://*.fal.media"
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": f"'self' data: blob: {files}",
        "connect-src": f"'self' {files}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "trusted-types": "fal-client",
        "require-trusted-types-for": "'script'",
    }


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("playground.js", "text/javascript"),
        ("client.js", "text/javascript"),
        ("playground.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
        ("settings.json", "application/json"),
    ],
)
def test_playground_files_have_their_types(
    page_app: webtest.TestApp, name: str, content_type: str
) -> None:
    assert page_app.get(f"/playground/{name}").content_type == content_type
    assert page_app.head(f"/playground/{name}").body == b""


def test_playground_without_its_slash_is_redirected(page_app: webtest.TestApp) -> None:
    for mounted in ("", "/mounted"):
        answer = page_app.get("/playground", extra_environ={"SCRIPT_NAME": mounted}, status=308)
        assert answer.headers["Location"].endswith("playground/")


@pytest.mark.parametrize(
    "path", ["index", "index.html", "app.py", "../app.py", "client/index.js", "settings.json/"]
)
def test_playground_serves_nothing_else(page_app: webtest.TestApp, path: str) -> None:
    answer = page_app.get(f"/playground/{path}", status=404)
    assert answer.text == "There is nothing here. The page is at /playground/.\n"


def test_playground_is_only_read(page_app: webtest.TestApp) -> None:
    answer = page_app.post("/playground/", status=405)
    assert answer.headers["Allow"] == "GET, HEAD"


def settings_of(app: WSGIApplication) -> dict[str, Any]:
    settings: dict[str, Any] = webtest.TestApp(app).get("/playground/settings.json").json
    return settings


def test_playground_tells_the_page_where_the_proxy_is_and_whose_money_it_spends() -> None:
    with_key = settings_of(Playground(beside))
    with_fake = settings_of(Playground(beside, proxy_url="/a", fake_url="http://127.0.0.1:1"))

    assert (with_key["proxyUrl"], with_key["fal"]) == ("/api/fal/proxy", "fal")
    assert (with_fake["proxyUrl"], with_fake["fal"]) == ("/a", "fake")


@pytest.mark.usefixtures("node")
def test_playground_has_the_client_that_npm_installs() -> None:
    locked = json.loads((JS / "package-lock.json").read_text())["packages"]
    for package in settings_of(Playground(beside))["client"]["packages"]:
        directory = f"node_modules/{package['name']}"
        assert package["version"] == locked[directory]["version"]
        for file in package["files"]:
            content = (JS / directory / file["path"]).read_bytes()
            digest = base64.b64encode(hashlib.sha384(content).digest()).decode()
            assert file["integrity"] == f"sha384-{digest}"


def test_playground_refuses_a_directory_without_the_client(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Playground(beside, client_directory=tmp_path)

    message = str(caught.value)
    begin = f"client_directory='{tmp_path}' cannot be used: it must be a directory in which"
    assert message.startswith(begin)
    assert "npm install eventsource-parser@1.1.2 robot3@0.4.1 @msgpack/msgpack@3.1.3" in message
    assert message.endswith(
        "(node_modules/eventsource-parser/dist/index.js: No such file or directory)"
    )


@pytest.mark.usefixtures("node")
def test_playground_refuses_a_directory_with_another_version_of_the_client(tmp_path: Path) -> None:
    shutil.copytree(JS / "node_modules", tmp_path / "node_modules")
    (tmp_path / "node_modules/@fal-ai/client/src/index.js").write_text("")

    with pytest.raises(SettingsError, match=r"client/src/index\.js is another version's\)$"):
        Playground(beside, client_directory=tmp_path)


# The command


@pytest.mark.parametrize("prefix", ["/playground", "/playground/fal"])
def test_playground_and_proxy_cannot_be_at_one_path(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("FAL_PROXY_PREFIX", prefix)

    with pytest.raises(SystemExit) as caught:
        command.main(["--playground", "--port", "0"])

    assert caught.value.code == (
        f"wsgi-fal-proxy: FAL_PROXY_PREFIX='{prefix}' cannot be used:"
        " it must be another path: the playground is at /playground"
    )


def test_command_is_stopped_by_a_directory_that_does_not_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--playground-client", str(tmp_path), "--port", "0"])

    begin = (
        f"wsgi-fal-proxy: --playground-client='{tmp_path}' cannot be used: it must be a directory"
        " in which"
    )
    assert str(caught.value.code).startswith(begin)


@pytest.mark.parametrize(
    ("environment", "whose"), [({}, "fake"), ({"FAL_KEY": "id:secret"}, "fal")]
)
def test_command_tells_the_playground_whose_money_it_spends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    whose: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    visits = Visits()
    monkeypatch.setattr(command, "make_server", visits.make_server)

    command.main(["--playground", "--port", "0"])

    (server,) = visits.servers
    # What was there without it still is.
    assert visits.answers[1].json["reason"] == "not_found"
    settings = settings_of(server.app)
    assert (settings["fal"], settings["client"]["base"]) == (whose, CDN)
    url = f"http://127.0.0.1:{server.port}/playground/"
    assert capsys.readouterr().out.startswith(f"Playground: {url}\n\nThe fal proxy relays from")


@pytest.mark.usefixtures("node")
def test_command_serves_the_playground() -> None:
    parts = [sys.executable, "-m", "wsgi_fal_proxy", "--port", "0"]
    given = ["--playground-client", str(JS)]
    environment = {"FAL_PROXY_PREFIX": "/my fal"}
    with running([*parts, *given], environment, stdout=subprocess.PIPE) as (process, _):
        said = read_until("CTRL+C", process)
        url = said.splitlines()[0].removeprefix("Playground: ")
        page = urllib3.request("GET", url, retries=False, timeout=WAIT_SECONDS)
        settings = urllib3.request("GET", f"{url}settings.json", timeout=WAIT_SECONDS).json()
        rebound = urllib3.request("GET", url, headers={"Host": "rebound.example"})

    assert b"<h1>fal proxy playground</h1>" in page.data
    assert settings["proxyUrl"] == "/my%20fal"
    assert settings["client"]["base"] == "client/"
    assert rebound.json()["reason"] == "host_not_allowed"


# In a browser


@dataclass
class Visit:
    """A page that is open.

    Attributes:
        page: The browser's.
        fal: What the proxy relays to.
        url: Where the page is.
        errors: What the browser has complained of.
        expected: What it is to complain of: nothing, unless a test says so.
    """

    page: Page
    fal: FakeFal
    url: str
    errors: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def __call__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def expect_status(self, *statuses: int) -> None:
        self.expected += [f"status of {status}" for status in statuses]

    def note(self, message: ConsoleMessage) -> None:
        status = re.search(r"status of \d+", message.text)
        self.errors.append(status[0] if status else message.text)

    def open(self) -> None:
        """Open the page, and wait until its client is there."""
        self.page.goto(self.url)
        self.says("Ready")

    def says(self, text: str) -> None:
        expect(self("#status")).to_have_text(text)

    def run(self, endpoint: str = "fal-ai/flux/dev", *, mode: str = "Queue") -> None:
        self.page.get_by_label("Model", exact=True).fill(endpoint)
        self.page.get_by_role("radio", name=mode).click()
        self.page.get_by_role("button", name="Run").click()

    def cancel(self) -> None:
        self.page.get_by_role("button", name="Cancel").click()

    def advance(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.fal.advance()

    @property
    def rows(self) -> list[list[str]]:
        rows: list[list[str]] = self.page.eval_on_selector_all(
            "#requests tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
        )
        return rows


@pytest.fixture(scope="module")
def server() -> Iterator[StopableWSGIServer]:
    """One for all pages, with threads that are there before: a page asks for 25 files at once."""
    server = StopableWSGIServer.create(beside, threads=16)
    yield server
    server.shutdown()


@pytest.fixture
def serve(server: StopableWSGIServer) -> Callable[[WSGIApplication], str]:
    """Serve an application for the browser; gives where."""

    def serve(app: WSGIApplication) -> str:
        server.test_app = app
        return f"http://127.0.0.1:{server.adj.port}"

    return serve


@pytest.fixture
def stepped() -> Iterator[FakeFal]:
    """A fake fal of the test's own, of which nothing moves by time."""
    with FakeFal(step_seconds=None) as fal:
        yield fal


@pytest.fixture
def visit_of(browser: Browser, stepped: FakeFal) -> Iterator[Callable[..., Visit]]:
    """Open a page; whatever the browser then complains of fails the test."""
    visits: list[Visit] = []

    def visit_of(url: str, **context: Any) -> Visit:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(WAIT_SECONDS * 1000)
        visit = Visit(page, stepped, f"{url}/playground/")
        page.on("console", visit.note)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visits.append(visit)
        return visit

    yield visit_of
    for visit in visits:
        visit.page.context.close()
        assert visit.errors == visit.expected


@pytest.fixture
def proxied(stepped: FakeFal) -> WSGIApplication:
    return FalProxyMiddleware(beside, key=stepped.key, pool_manager=stepped.pool_manager())


@pytest.fixture
def site(
    serve: Callable[[WSGIApplication], str], proxied: WSGIApplication, stepped: FakeFal
) -> str:
    """Where the page is served with the client from here, in front of the fake fal."""
    return serve(Playground(proxied, fake_url=stepped.url, client_directory=JS))


@pytest.fixture
def visit(visit_of: Callable[..., Visit], site: str) -> Visit:
    visit = visit_of(site)
    visit.open()
    return visit


def picture_size(visit: Visit) -> list[tuple[int, int]]:
    """Give the size of each picture shown, once it is there."""
    sizes = []
    for image in visit("#pictures img").all():
        expect(image).not_to_have_js_property("naturalWidth", 0)
        width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        sizes.append((width, height))
    return sizes


def test_playground_says_that_nothing_is_billed(visit: Visit) -> None:
    expect(visit("#fal")).to_have_text("Fake fal: nothing is billed")


def test_playground_says_that_fal_bills(
    visit_of: Callable[..., Visit],
    serve: Callable[[WSGIApplication], str],
    proxied: WSGIApplication,
) -> None:
    visit = visit_of(serve(Playground(proxied, client_directory=JS)))
    visit.open()

    expect(visit("#fal")).to_have_text("fal, with the server's key: fal bills each run")
    expect(visit("#endpoint-hint")).to_have_text("The id of any fal model.")


def test_playground_follows_a_queued_request_to_its_picture(visit: Visit) -> None:
    visit.page.get_by_label("Prompt", exact=True).fill("a hen")
    visit.run()

    for said in ("In the queue, 2 ahead", "In the queue, 1 ahead", "Next in the queue"):
        visit.says(said)
        visit.advance()
    lines = ["loading the model", "step 1 of 2", "step 2 of 2"]
    for count in range(1, 4):
        visit.says("Running …")
        expect(visit("#logs li")).to_have_count(count)
        expect(visit("#logs li").last).to_contain_text(lines[count - 1])
        expect(visit("#pictures img")).to_have_count(0)
        visit.advance()
    visit.says("Done")
    assert picture_size(visit) == [(512, 512)]
    expect(visit("#pictures img")).to_have_attribute("alt", re.compile(r"512 \S 512: a hen"))
    assert visit.fal.requests[0].json() == {"prompt": "a hen"}


def test_playground_shows_each_request_with_its_status_and_time(visit: Visit) -> None:
    visit.run()
    visit.advance(6)
    visit.says("Done")

    request_id = visit.fal.requests[1].request_target.split("/")[4]
    url = f"queue.fal.run/fal-ai/flux/requests/{request_id}"
    assert [row[:2] for row in visit.rows] == [
        ["POST queue.fal.run/fal-ai/flux/dev", "200"],
        [f"GET {url}/status/stream?logs=1", "200"],
        [f"GET {url}", "200"],
    ]
    assert all(re.fullmatch(r"\d+ ms", time) for _, _, time in visit.rows)


def test_playground_shows_each_partial_picture_of_a_stream(visit: Visit) -> None:
    visit.run(mode="Stream")

    for step in range(1, 5):
        expect(visit("#progress")).to_have_js_property("value", step / 5)
        visit.says("Streaming …")
        expect(visit("#pictures img")).to_have_attribute("src", re.compile("^data:image/png"))
        assert picture_size(visit) == [(512, 512)]
        assert visit.rows[-1][2] == "…"
        visit.advance()
    visit.says("Done")
    expect(visit("#pictures img")).to_have_attribute("src", re.compile(f"^{visit.fal.url}/files/"))
    assert picture_size(visit) == [(512, 512)]
    assert visit.rows[-1][:2] == ["POST fal.run/fal-ai/flux/dev/stream", "200"]


def test_playground_streams_text_as_text(visit: Visit) -> None:
    marked = "<img src=x onerror=alert(1)> <b>why</b>?"
    visit.page.get_by_label("Prompt", exact=True).fill(marked)
    visit.run("fal-ai/any-llm", mode="Stream")
    expect(visit("#text")).to_have_text("You asked: <img")
    visit.advance(4)

    visit.says("Done")
    expect(visit("#text")).to_contain_text(marked)
    expect(visit("#frame img, #frame b")).to_have_count(0)


def test_playground_sends_more_input_and_shows_every_picture(visit: Visit) -> None:
    visit.page.get_by_text("More input").click()
    visit.page.get_by_label("JSON, such as").fill('{"num_images": 3, "image_size": "square"}')
    visit.run()
    visit.advance(6)

    visit.says("Done")
    assert picture_size(visit) == [(512, 512)] * 3


def test_playground_shows_the_pictures_of_each_event_of_a_stream(visit: Visit) -> None:
    url = f"data:image/png;base64,{base64.b64encode(png('a fox', 7, 8, 8)).decode()}"
    events = [{"images": [{"url": url}] * count} for count in (3, 1)]
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    visit.fal.answer_next(200, data, content_type="text/event-stream")
    visit.run(mode="Stream")

    visit.says("Done")
    assert picture_size(visit) == [(8, 8)]


def test_playground_shows_the_answer_as_json(visit: Visit) -> None:
    visit.run(mode="Stream")
    visit.page.get_by_text("Answer as JSON").click()

    expect(visit("#json")).to_contain_text(re.compile(r"base64,.*… \(\d+ characters\)"))
    visit.advance(4)
    visit.says("Done")
    answer = json.loads(visit("#json").inner_text())
    assert answer["prompt"] == "a red fox in the snow"


def test_playground_cancels_a_queued_request(visit: Visit) -> None:
    visit.run("fal-ai/slow")
    visit.advance(5)
    expect(visit("#logs li")).to_have_count(3)

    visit.cancel()

    visit.says("Cancelled")
    assert [request.method for request in visit.fal.requests] == ["POST", "GET", "PUT"]
    assert [status for _, status, _ in visit.rows] == ["200", "cancelled", "202"]
    expect(visit("#problem")).to_be_hidden()
    expect(visit("#run")).to_have_attribute("aria-disabled", "false")


def test_playground_cancels_a_stream_and_fal_sees_it(visit: Visit) -> None:
    visit.run("fal-ai/slow", mode="Stream")
    visit.says("Streaming …")

    visit.cancel()

    visit.says("Cancelled")
    assert visit.rows[-1][1] == "cancelled"
    (request,) = visit.fal.requests
    visit.advance()
    assert request.closed.wait(WAIT_SECONDS)
    assert not request.finished


def test_playground_says_that_it_is_too_late_to_cancel(visit: Visit) -> None:
    visit.run()
    visit.says("In the queue, 2 ahead")
    visit.fal.answer_next(400, '{"status": "ALREADY_COMPLETED"}')
    visit.expect_status(400)

    visit.cancel()

    visit.says("It was too late to cancel")
    expect(visit("#problem-source")).to_have_text("From fal: 400")


def test_playground_is_used_by_the_keyboard_alone(visit: Visit) -> None:
    keys = visit.page.keyboard
    visit.page.get_by_label("Prompt", exact=True).focus()
    keys.press("Control+A")
    keys.type("a hen")
    keys.press("Control+Enter")
    visit.says("In the queue, 2 ahead")
    expect(visit.page.get_by_label("Prompt", exact=True)).to_be_focused()

    keys.press("Escape")
    visit.says("Cancelled")
    visit.page.get_by_role("radio", name="Queue").focus()
    keys.press("ArrowRight")
    expect(visit.page.get_by_role("radio", name="Stream")).to_be_checked()
    visit.page.get_by_role("button", name="Run").focus()
    keys.press("Enter")
    visit.says("Streaming …")
    # Where the keyboard was, it stays; and what runs is not started again.
    expect(visit.page.get_by_role("button", name="Run")).to_be_focused()
    keys.press("Enter")
    keys.press("Tab")
    expect(visit.page.get_by_role("button", name="Cancel")).to_be_focused()
    keys.press("Enter")
    visit.says("Cancelled")
    assert [request.method for request in visit.fal.requests] == ["POST", "GET", "PUT", "POST"]


PICTURE: Final = {"name": "fox.png", "mimeType": "image/png", "buffer": png("a fox", 7, 64, 64)}


def upload(visit: Visit) -> None:
    visit.page.get_by_label("Picture to start from").set_input_files(PICTURE)  # type: ignore[arg-type]


def test_playground_uploads_a_picture_and_sends_it_as_image_url(visit: Visit) -> None:
    upload(visit)
    expect(visit("#picture-state")).to_have_text("Uploaded: fox.png")
    expect(visit("#thumbnail img")).to_have_js_property("naturalWidth", 64)

    visit.run("fal-ai/flux/dev/image-to-image")
    visit.advance(6)

    visit.says("Done")
    url = visit.fal.requests[1].json()["image_url"]
    assert urllib3.request("GET", url).data == PICTURE["buffer"]
    assert [row[0] for row in visit.rows[:2]] == [
        "POST rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3",
        f"PUT {visit.fal.url.removeprefix('http://')}, directly",
    ]


def test_playground_removes_an_uploaded_picture(visit: Visit) -> None:
    upload(visit)
    expect(visit("#picture-state")).to_have_text("Uploaded: fox.png")

    visit.page.get_by_role("button", name="Remove the picture").click()
    visit.run(mode="Stream")

    visit.says("Streaming …")
    expect(visit("#thumbnail img")).to_have_count(0)
    assert visit.fal.requests[-1].json() == {"prompt": "a red fox in the snow"}


def test_playground_tells_an_upload_that_fails_beside_the_picture(visit: Visit) -> None:
    visit.fal.answer_next(401, '{"detail": "No user found"}')
    visit.expect_status(401)

    upload(visit)

    expect(visit("#picture-error")).to_have_text(
        "fal did not accept the key. No user found Check that FAL_KEY on the server is a valid key"
        " of yours."
    )
    expect(visit("#picture-state")).to_have_text("Sent as image_url.")


def test_playground_tells_a_refused_input_field_by_field(visit: Visit) -> None:
    visit.expect_status(422)
    visit.run("fal-ai/fails", mode="Stream")

    visit.says("It did not work")
    expect(visit("#problem-source")).to_have_text("From fal: 422")
    flagged = "The content could not be processed: it was flagged by a content checker."
    expect(visit("#problem-fields li")).to_have_text(
        [f"prompt: {flagged}", "image_url: The image is not large enough."]
    )
    expect(visit("#prompt-error")).to_have_text(flagged)
    expect(visit("#picture-error")).to_have_text("The image is not large enough.")
    expect(visit("#problem-id")).to_have_text(re.compile("request id: .+"))
    prompt = visit.page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    # The next run begins anew.
    visit.run(mode="Stream")
    visit.says("Streaming …")
    expect(visit("#problem")).to_be_hidden()
    expect(visit("#prompt-error")).to_have_text("")
    expect(prompt).not_to_have_attribute("aria-invalid", "true")


def test_playground_tells_a_field_without_a_place_where_it_was_written(visit: Visit) -> None:
    visit.expect_status(422)
    visit.page.get_by_text("More input").click()
    more = visit.page.get_by_label("JSON, such as")
    more.fill('{"num_images": 9}')
    visit.page.get_by_text("More input").click()

    visit.run()
    visit.advance(6)

    expect(visit("#fields-error")).to_have_text("num_images: Input should be from 1 to 4")
    expect(more).to_be_focused()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "This is not JSON: "), ("[1]", 'This must be a JSON object, such as {"seed": 7}.')],
)
def test_playground_does_not_send_more_input_that_is_no_json_object(
    visit: Visit, text: str, message: str
) -> None:
    visit.page.get_by_text("More input").click()
    visit.page.get_by_label("JSON, such as").fill(text)

    visit.run()

    expect(visit("#fields-error")).to_contain_text(message)
    visit.says("Ready")
    assert visit.fal.requests == []


def test_playground_sends_nothing_without_a_model(visit: Visit) -> None:
    visit.run(" ")

    expect(visit("#endpoint-error")).to_have_text("Which model? For example fal-ai/flux/dev.")
    expect(visit.page.get_by_label("Model", exact=True)).to_be_focused()
    assert visit.fal.requests == []


def test_playground_tells_a_refusal_of_the_proxys_from_fals(visit: Visit) -> None:
    visit.expect_status(412)
    visit.run("https://evilfal.run/x")

    expect(visit("#problem-source")).to_have_text("From the proxy: 412 target_host_not_allowed")
    expect(visit("#problem-title")).to_have_text("The proxy did not relay this")
    expect(visit("#problem-detail")).to_have_text(
        "The target's host is not under fal.ai or fal.run."
    )
    expect(visit("#problem-advice")).to_have_text("Correct the model's id.")
    assert visit.rows[-1][1] == "412 proxy"


@pytest.mark.parametrize(
    ("status", "data", "title", "detail"),
    [
        (404, '{"detail": "No such model"}', "fal does not have this", "No such model"),
        (418, '{"message": "A pot"}', "fal could not do this", "A pot"),
        (403, "{}", "fal does not allow this", "FORBIDDEN"),
        # What only looks like the proxy's.
        (412, '{"reason": "x", "message": "M"}', "fal could not do this", "M"),
    ],
)
def test_playground_tells_an_error_of_fals(
    visit: Visit, status: int, data: str, title: str, detail: str
) -> None:
    visit.expect_status(status)
    visit.fal.answer_next(status, data)
    visit.run()

    expect(visit("#problem-source")).to_have_text(f"From fal: {status}")
    expect(visit("#problem-title")).to_have_text(title)
    expect(visit("#problem-detail")).to_have_text(re.compile(detail, re.IGNORECASE))
    assert visit.rows[-1][1] == str(status)


def refuse(route: Route) -> None:  # pragma: no cover - as below
    route.abort("connectionrefused")


# The tracer may lose a line at the callback, which runs on a greenlet.
def test_playground_tells_that_the_proxy_is_gone(visit: Visit) -> None:  # pragma: no cover
    visit.expected.append("Failed to load resource: net::ERR_CONNECTION_REFUSED")
    visit.page.route("**/api/fal/proxy", refuse)
    visit.run()

    expect(visit("#problem-source")).to_have_text("From this page")
    expect(visit("#problem-title")).to_have_text("The answer broke off, or there was none")
    assert visit.rows[-1][1] == "broken off"


def cut(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with an event, and end before the declared length."""
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Content-Length", "99")])
    return [b'data: {"progress": 0.5}\n\n']


def test_playground_tells_a_stream_that_breaks_off(
    visit_of: Callable[..., Visit], serve: Callable[[WSGIApplication], str]
) -> None:
    visit = visit_of(serve(Playground(cut, client_directory=JS)))
    visit.expected.append("Failed to load resource: net::ERR_CONTENT_LENGTH_MISMATCH")
    visit.open()
    visit.run(mode="Stream")

    expect(visit("#problem-title")).to_have_text("The answer broke off, or there was none")
    assert visit.rows[-1][1] == "broken off"


# The client from the CDN


def from_npm(route: Route, *, tampered: str = "") -> None:  # pragma: no cover - as above
    """Answer as jsDelivr does, with what npm has installed."""
    path = re.sub(r"(?<=\w)@[\d.]+(?=/)", "", route.request.url.removeprefix(CDN))
    content = (JS / "node_modules" / path).read_bytes()
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "application/javascript"}
    body = content + b" " if tampered and tampered in path else content
    route.fulfill(body=body, headers=headers)


@pytest.fixture
def cdn_visit(
    visit_of: Callable[..., Visit],
    serve: Callable[[WSGIApplication], str],
    proxied: WSGIApplication,
    stepped: FakeFal,
) -> Visit:
    return visit_of(serve(Playground(proxied, fake_url=stepped.url)))


def test_playground_works_with_the_client_from_the_cdn(
    cdn_visit: Visit,
) -> None:  # pragma: no cover - as above
    cdn_visit.page.route(f"{CDN}**", from_npm)
    cdn_visit.open()
    cdn_visit.run()
    cdn_visit.advance(6)

    cdn_visit.says("Done")


@pytest.mark.parametrize("tampered", ["eventsource-parser", "client/src/index.js"])
def test_playground_runs_no_other_client_than_the_right_one(  # pragma: no cover - as above
    cdn_visit: Visit, tampered: str
) -> None:
    cdn_visit.page.route(f"{CDN}**", partial(from_npm, tampered=tampered))
    cdn_visit.page.goto(cdn_visit.url)

    expect(cdn_visit("#problem-title")).to_have_text("fal's client could not be loaded")
    expect(cdn_visit("#problem-detail")).to_contain_text(tampered.partition("/")[2])
    expect(cdn_visit("#problem-advice")).to_contain_text("--playground-client")
    assert all("integrity" in error for error in cdn_visit.errors)
    cdn_visit.expected = cdn_visit.errors
    cdn_visit.page.get_by_role("button", name="Run").click(force=True)
    assert cdn_visit.fal.requests == []


# How it looks, and for whom


@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "wide"])
def test_playground_moves_and_overflows_nowhere_while_it_runs(
    visit_of: Callable[..., Visit], site: str, viewport: dict[str, int]
) -> None:
    visit = visit_of(site, viewport=viewport)
    visit.open()

    def places() -> list[Any]:
        fixed = "#fal, #run, #cancel, #frame, #logs, #requests"
        assert visit.page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        found: list[Any] = visit.page.eval_on_selector_all(
            fixed, "all => all.map(({ offsetTop, offsetLeft }) => [offsetTop, offsetLeft])"
        )
        return found

    before = places()
    visit.run()
    visit.advance(4)
    expect(visit("#logs li")).to_have_count(2)
    assert places() == before
    visit.advance(2)
    visit.says("Done")
    assert picture_size(visit)
    assert places() == before
    visit.expect_status(412)
    visit.run("https://evilfal.run/x")
    expect(visit("#problem")).to_be_visible()
    assert places() == before


def test_playground_brings_the_result_into_view_on_a_phone(
    visit_of: Callable[..., Visit], site: str
) -> None:
    visit = visit_of(site, viewport=PHONE)
    visit.open()
    expect(visit("#frame")).not_to_be_in_viewport()
    visit.run(mode="Stream")

    expect(visit("#pictures img")).to_be_in_viewport(ratio=1)
    expect(visit("#cancel")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_playground_is_dark_where_that_is_preferred(
    visit_of: Callable[..., Visit], site: str, scheme: str, is_dark: bool
) -> None:
    visit = visit_of(site, color_scheme=scheme)
    visit.open()
    colour = visit("body").evaluate("body => getComputedStyle(body).backgroundColor")

    assert (sum(map(int, re.findall(r"\d+", colour))) < 3 * 128) is is_dark


def test_playground_names_everything_that_can_be_used(visit: Visit) -> None:
    visit.page.get_by_text("More input").click()
    visit.page.get_by_text("Answer as JSON").click()
    controls = visit("input, textarea, button, [tabindex], progress, table").all()

    assert len(controls) == 13
    for control in controls:
        expect(control).to_have_accessible_name(re.compile("."))
    expect(visit("#status")).to_have_role("status")


# The tests see what they should.


def test_watched_page_sees_what_the_policy_forbids(visit: Visit) -> None:
    visit.page.evaluate(
        "document.body.append(Object.assign(new Image(), {src: '//example.com/x'}))"
    )
    expect(visit("body > img")).to_have_count(1)
    with pytest.raises(Exception, match="TrustedHTML"):
        visit.page.evaluate("document.body.innerHTML = '<b>'")

    assert len(visit.errors) == 2
    assert all(
        "Content Security Policy" in error or "TrustedHTML" in error for error in visit.errors
    )
    visit.expected = visit.errors
