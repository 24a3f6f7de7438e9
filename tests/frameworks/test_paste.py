"""The proxy in PasteDeploy's ini files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import webtest
from paste.deploy import loadapp, loadfilter

from wsgi_fal_proxy import FalProxy, FalProxyMiddleware, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from tests.support.network import NetworkGuard

TO_FAL = {"x-fal-target-url": "https://fal.run/fal-ai/any-llm"}


def hello_factory(global_conf: dict[str, str], **local_conf: str) -> WSGIApplication:
    def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    return hello


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "site.ini"
    file.write_text(f"[DEFAULT]\ndebug = true\n\n{text}")
    return f"config:{file}"


def app_of(tmp_path: Path, *lines: str) -> Any:
    section = "\n".join(("[app:main]", "use = egg:wsgi-fal-proxy", *lines))
    return loadapp(written(tmp_path, section))


def filter_of(tmp_path: Path, *lines: str) -> Any:
    section = "\n".join(("[filter:fal]", "use = egg:wsgi-fal-proxy", *lines))
    return loadfilter(written(tmp_path, section), "fal")(hello_factory({}))


def test_paste_filter_wraps_the_application(tmp_path: Path) -> None:
    text = """\
[app:main]
paste.app_factory = tests.frameworks.test_paste:hello_factory
filter-with = fal

[filter:fal]
use = egg:wsgi-fal-proxy
prefix = /fal
key = id:secret
"""
    made = loadapp(written(tmp_path, text))

    assert isinstance(made, FalProxyMiddleware)
    app = webtest.TestApp(made, lint=True)
    assert app.get("/").body == b"hello"
    assert app.post("/fal", status=400).json["reason"] == "target_missing"


def test_paste_filter_without_options_answers_under_the_usual_prefix(tmp_path: Path) -> None:
    app = webtest.TestApp(filter_of(tmp_path), lint=True)

    assert app.get("/").body == b"hello"
    assert app.post("/api/fal/proxy", status=400).json["reason"] == "target_missing"


@pytest.mark.parametrize("path", ["/", "/anything"])
def test_paste_application_is_the_relay_at_any_path(tmp_path: Path, path: str) -> None:
    made = app_of(tmp_path, "key = id:secret", "read_timeout = none")

    assert isinstance(made, FalProxy)
    app = webtest.TestApp(made, lint=True)
    assert app.post(path, status=400).json["reason"] == "target_missing"


def test_paste_uses_a_key(tmp_path: Path, network: NetworkGuard) -> None:
    app = webtest.TestApp(app_of(tmp_path, "key = id:secret", "backup_domains = no"), lint=True)

    response = app.get("/", headers=TO_FAL, status=502)

    assert response.json["reason"] == "upstream_unresolvable"
    assert network.lookups == ["fal.run"]


def test_paste_key_file_is_read_again_when_it_changes(
    tmp_path: Path, network: NetworkGuard
) -> None:
    key_file = tmp_path / "key"
    app = webtest.TestApp(app_of(tmp_path, f"key_file = {key_file}"), lint=True)
    assert app.get("/", headers=TO_FAL, status=500).json["reason"] == "key_missing"

    key_file.write_text("id:se cret\n")
    assert app.get("/", headers=TO_FAL, status=500).json["reason"] == "key_malformed"
    assert network.lookups == []

    key_file.write_text("id:secret\n")
    assert app.get("/", headers=TO_FAL, status=502).json["reason"] == "upstream_unresolvable"


def test_paste_looks_up_the_key_in_the_environment_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = webtest.TestApp(app_of(tmp_path), lint=True)
    assert app.get("/", headers=TO_FAL, status=500).json["reason"] == "key_missing"

    monkeypatch.setenv("FAL_KEY", "id:secret")
    assert app.get("/", headers=TO_FAL, status=502).json["reason"] == "upstream_unresolvable"


def test_paste_options_reach_the_relay(tmp_path: Path) -> None:
    app = webtest.TestApp(app_of(tmp_path, "key = id:secret", "max_body_bytes = 4"), lint=True)

    response = app.post_json("/", {"prompt": "a fox"}, headers=TO_FAL, status=413)

    assert "4 bytes" in response.json["detail"]


@pytest.mark.parametrize(
    "load", [pytest.param(app_of, id="app"), pytest.param(filter_of, id="filter")]
)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "read_timeouts = 5",
            "read_timeouts='5' cannot be used: there is no such option; did you mean read_timeout?",
            id="misspelled",
        ),
        pytest.param(
            "read_timeout = 5s",
            "read_timeout='5s' cannot be used: it must be a number of seconds above 0, or none for"
            " no limit",
            id="unit",
        ),
        pytest.param(
            "key_file =",
            "key_file=<redacted> cannot be used: it must be the path of a file that holds the key",
            id="empty-key-file",
        ),
        pytest.param(
            "key = id:secret\nkey_file = /run/secrets/fal",
            "key_file=<redacted> cannot be used: either key or key_file can be set, not both",
            id="two-keys",
        ),
    ],
)
def test_paste_refuses_an_option_that_cannot_be_used(
    tmp_path: Path, load: Any, line: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, line)

    assert str(caught.value) == message


def test_paste_relay_alone_has_no_prefix(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"prefix='/fal' cannot be used: there is no such"):
        app_of(tmp_path, "prefix = /fal")
