"""What the README says is what the code does."""

from __future__ import annotations

import re
from inspect import signature
from typing import TYPE_CHECKING, Any

from werkzeug.test import Client

from tests.support.servers import SERVERS
from tests.support.serving import ROOT
from wsgi_fal_proxy import FalProxyMiddleware
from wsgi_fal_proxy.__main__ import _parser, _welcome, _whose
from wsgi_fal_proxy._fal.patterns import compile_endpoint_patterns, compile_url_patterns
from wsgi_fal_proxy._process.variables import KEY_VARIABLES
from wsgi_fal_proxy._settings.environment import variables
from wsgi_fal_proxy._settings.options import Settings
from wsgi_fal_proxy.errors import (
    ClientGone,
    FalProxyError,
    ReadTimeout,
    TotalTimeout,
    Truncated,
    UpstreamClosed,
    UpstreamCodingUnsupported,
    UpstreamMalformed,
)

if TYPE_CHECKING:
    import pytest

    from wsgi_fal_proxy.testing import FakeFal

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    return README.partition(f"\n{title}\n")[2].partition("\n#")[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def example(word: str) -> str:
    """Give the one example in Python that has this word."""
    (code,) = [text for kind, text in BLOCKS if kind == "python" and word in text]
    return str(code)


def put_in_fals_place(fal: FakeFal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have proxies that are made without options dial the fake fal, with its key."""
    monkeypatch.setattr("wsgi_fal_proxy._upstream.manager.default_manager", fal.pool_manager)
    monkeypatch.setenv("FAL_KEY", fal.key)


def leaves(kind: type[FalProxyError]) -> list[type[FalProxyError]]:
    # What begins with "_" is known to one module only, and has its parent's reason.
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    named = [leaf for leaf in below if not leaf.__name__.startswith("_")]
    return named or [kind]


def test_readme_table_has_every_option_with_its_default() -> None:
    fields = {
        name: getattr(field, "default", None)
        for name, field in Settings.__dataclass_fields__.items()
    }
    fields["prefix"] = signature(FalProxyMiddleware).parameters["prefix"].default
    written = {name.strip("`"): default.strip("`") for name, default, _ in rows("## Options")}
    assert set(written) == set(fields)
    for name, default in fields.items():
        assert eval(written[name]) == default


# Those with which a call can fail when fal may have received it.
AFTER_IT_WAS_SENT = (
    ClientGone,
    ReadTimeout,
    TotalTimeout,
    UpstreamClosed,
    UpstreamCodingUnsupported,
    UpstreamMalformed,
)


def _or_500(error: type[FalProxyError]) -> str:
    return " or 500" if issubclass(error, AFTER_IT_WAS_SENT) else ""


def test_readme_table_has_every_status() -> None:
    errors = [error for error in leaves(FalProxyError) if error is not Truncated]
    answers = {(error.status[:3] + _or_500(error), error.reason) for error in errors}
    written = {(status, reason.strip("`")) for status, reason, _ in rows("## What a client gets")}
    assert written == answers


def test_readme_table_has_every_variable() -> None:
    written = {name for row in rows("### Stand-alone") for name in re.findall(r"FAL_\w+", row[0])}
    assert written == {*KEY_VARIABLES, *variables()}


def test_readme_table_says_of_servers_what_the_tests_observe() -> None:
    observed = {
        (
            server.name,
            "event by event",
            server.cut.value,
            "at once" if server.at_once else "when it next writes",
            "relayed" if server.chunked == 200 else f"refused, {server.chunked}",
            server.shutdown.value,
        )
        for server in SERVERS.values()
    }
    written = [tuple(row) for row in rows("## Streams, cuts and cancels")]
    assert len(written) == len(observed)
    assert set(written) == observed


def test_readme_starts_the_servers_as_the_tests_do() -> None:
    (shown,) = [text for kind, text in BLOCKS if kind == "sh" and "waitress-serve" in text]
    assert set(shown.splitlines()) == {server.command for server in SERVERS.values()}


def test_readme_run_is_what_the_command_prints() -> None:
    prefix = "/api/fal/proxy"
    whose = _whose(_parser().parse_args([]), is_fake=True)
    (shown,) = [text for kind, text in BLOCKS if not kind]
    assert _welcome(f"http://127.0.0.1:8000{prefix}", prefix, whose) == shown


def test_readme_patterns_match_what_the_table_says() -> None:
    for row in rows("### Which models"):
        (pattern,), matched, unmatched = (re.findall("`([^`]+)`", cell) for cell in row)
        urls = pattern.partition("/")[0].endswith("fal.run") or "fal.ai" in pattern
        compiled = compile_url_patterns([pattern]) if urls else compile_endpoint_patterns([pattern])
        assert all(compiled.match(text if urls else f"/{text}") for text in matched)
        assert not any(compiled.match(text if urls else f"/{text}") for text in unmatched)


def test_readme_example_with_allowlists_runs(fal: FakeFal, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example("STRICT_URLS")
    put_in_fals_place(fal, monkeypatch)
    namespace: dict[str, Any] = {"app": lambda environ, start_response: None}
    exec(code, namespace)
    client = Client(namespace["app"])
    for endpoint, status in (
        ("fal-ai/flux/dev", 200),
        ("fal-ai/kling-video/v2", 200),
        ("fal-ai/veo3", 412),
    ):
        headers = {"x-fal-target-url": f"https://fal.run/{endpoint}"}
        answer = client.post("/api/fal/proxy", json={"prompt": "x"}, headers=headers, buffered=True)
        assert answer.status_code == status


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = [text for kind, text in BLOCKS if kind == "sh" and "pytest" in text]
    essence = command.strip().removeprefix("python3 -m venv .venv && . .venv/bin/activate && ")
    script = (ROOT / ".ci" / "run").read_text()
    (default,) = re.findall(r"^constraints=(\S+)$", script, re.MULTILINE)
    shortened = script.replace("--quiet ", "").replace("--editable", "-e")
    assert essence in shortened.replace('--constraint "$constraints"', f"-c {default}")


def test_readme_example_with_the_fake_fal_runs() -> None:
    code = example("FakeFal")
    code = code.replace(
        "    ...  # call your app",
        "    Client(app).post('/api/fal/proxy', json={'prompt': 'x'}, buffered=True,"
        " headers={'x-fal-target-url': 'https://fal.run/fal-ai/flux/dev'})",
    )
    exec(code, {"app": lambda environ, start_response: None, "Client": Client})


def test_readme_example_behind_flasks_own_authentication_runs(
    fal: FakeFal, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example("from flask")
    put_in_fals_place(fal, monkeypatch)
    monkeypatch.setenv("SECRET_KEY", "test")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(code, namespace)
    client = namespace["app"].test_client()
    call = {
        "json": {"prompt": "a fox"},
        "headers": {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"},
    }
    assert client.post("/api/fal/proxy", **call).status_code == 401
    assert fal.requests == []
    with client.session_transaction() as session:
        session["user"] = "someone"
    answer = client.post("/api/fal/proxy", **call)
    assert answer.json["prompt"] == "a fox"
    assert len(fal.requests) == 1


def test_readme_module_of_ones_own_for_a_stand_alone_proxy_runs(
    fal: FakeFal, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example("ProxyFix")
    put_in_fals_place(fal, monkeypatch)
    namespace: dict[str, object] = {}
    # No minute is to end in the midst of this.
    exec(code.replace("20/minute", "20/day"), namespace)
    client = Client(namespace["application"])  # type: ignore[arg-type]
    headers = {
        "x-fal-target-url": "https://fal.run/fal-ai/flux/dev",
        "X-Forwarded-For": "192.0.2.1",
    }
    statuses = [
        client.post("/api/fal/proxy", json={"prompt": "a"}, headers=headers).status_code
        for _ in range(21)
    ]
    assert statuses == [200] * 20 + [429]
    other = {**headers, "X-Forwarded-For": "192.0.2.2"}
    assert client.post("/api/fal/proxy", json={"prompt": "a"}, headers=other).status_code == 200
    assert client.get("/").status_code == 404


def test_readme_example_of_who_what_and_how_much_runs(
    fal: FakeFal, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example("REMOTE_USER")
    put_in_fals_place(fal, monkeypatch)
    namespace: dict[str, Any] = {"app": lambda environ, start_response: None}
    # No minute is to end in the midst of this.
    code = code.replace("20/minute", "20/day").replace("redis://localhost:6379/0", "memory://")
    exec(code, namespace)
    client = Client(namespace["app"])

    def call(model: str, user: str | None) -> int:
        return client.post(
            "/api/fal/proxy",
            json={"prompt": "a fox"},
            headers={"x-fal-target-url": f"https://fal.run/fal-ai/{model}"},
            environ_base={} if user is None else {"REMOTE_USER": user},
        ).status_code

    assert call("flux/dev", None) == 401
    assert call("flux/pro", "ada") == 412
    assert [call("flux/dev", "ada") for _ in range(21)] == [200] * 20 + [429]
    assert call("flux/dev", "grace") == 200


def test_readme_example_of_who_may_call_runs(fal: FakeFal, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example("beaker")
    put_in_fals_place(fal, monkeypatch)
    namespace: dict[str, object] = {"app": lambda environ, start_response: None}
    exec(code, namespace)
    client = Client(namespace["app"])  # type: ignore[arg-type]
    statuses = {}
    for user in (None, "ada"):
        for model in ("flux/dev", "flux/pro"):
            answer = client.post(
                "/api/fal/proxy",
                json={"prompt": "a fox"},
                headers={"x-fal-target-url": f"https://fal.run/fal-ai/{model}"},
                environ_base={"beaker.session": {} if user is None else {"user": user}},
            )
            statuses[user, model] = answer.status_code
    assert list(statuses.values()) == [401, 401, 200, 403]
    assert len(fal.requests) == 1
