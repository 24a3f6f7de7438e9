"""fal's own client for JavaScript, in Node, against gunicorn in front of the fake fal."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw_server import Connection, RawServer
from tests.support.serving import JS, ROOT, dialling, dialling_raw, serve_gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wsgi_fal_proxy.testing import FakeFal

    Scenario = Callable[[str], Any]

NODE_SECONDS = 120
PICTURE = {"width": 512, "height": 512, "content_type": "image/png"}


@pytest.fixture(scope="session")
def proxy_url(_shared_fal: FakeFal) -> Iterator[str]:
    threads = ("--threads", "8")
    # All that it calls is in the strict set, and it asks for tokens by names without owners.
    environment = {
        **dialling(_shared_fal),
        "FAL_PROXY_ALLOWED_URLS": "strict",
        "FAL_PROXY_ALLOWED_ENDPOINTS": "fal-ai/**,*/flux/**",
    }
    with serve_gunicorn("wsgi_fal_proxy.wsgi", *threads, environment=environment) as served:
        yield f"{served.url}/api/fal/proxy"


@pytest.fixture
def client(node: str, proxy_url: str, fal: FakeFal) -> Scenario:
    """Runs a scenario of js/client.mjs and gives what it printed."""

    def run(scenario: str) -> Any:
        environment = {**os.environ, "PROXY_URL": proxy_url, "FAKE_URL": fal.url}
        command = [node, str(JS / "client.mjs"), scenario]
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=NODE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def test_javascript_client_runs(client: Scenario, fal: FakeFal) -> None:
    answer = client("run")
    (image,) = answer["data"].pop("images")
    assert answer["data"].pop("timings") == {"inference": 0.01}
    assert answer["data"] == {"prompt": "a fox", "seed": 7, "has_nsfw_concepts": [False]}
    assert answer["requestId"]
    assert image.pop("url").startswith(f"{fal.url}/files/")
    assert image == PICTURE
    (request,) = fal.requests
    assert (request.method, request.host) == ("POST", "fal.run")
    assert request.headers["authorization"] == f"Key {fal.key}"
    assert request.headers["user-agent"] == "@fal-ai/client/1.10.1"
    assert request.headers["x-fal-client-proxy"].startswith("wsgi-fal-proxy/")


def test_javascript_client_runs_with_get_and_keeps_the_query(
    client: Scenario, fal: FakeFal
) -> None:
    assert client("run_get")["data"]["prompt"] == "a, b & c [1] |'"
    assert fal.requests[0].request_target == (
        "/fal-ai/flux/dev?prompt=a%2C+b+%26+c+%5B1%5D+%7C%27&seed=7"
    )


STATUSES = ["IN_QUEUE"] * 3 + ["IN_PROGRESS"] * 3 + ["COMPLETED"]
LINES = ["loading the model", "step 1 of 2", "step 2 of 2"]


def lines(update: dict[str, Any]) -> list[str]:
    return [log["message"] for log in update["logs"]]


def seen(updates: list[dict[str, Any]]) -> tuple[list[str], list[int], list[list[str]]]:
    positions = [update["queue_position"] for update in updates if "queue_position" in update]
    return [update["status"] for update in updates], positions, [lines(u) for u in updates]


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_javascript_client_subscribe_sees_each_queue_update_and_the_logs(
    client: Scenario, mode: str
) -> None:
    answer = client(f"subscribe_{mode}")
    updates = answer["updates"]
    assert seen(updates) == (
        STATUSES,
        [2, 1, 0],
        [[], [], [], LINES[:1], LINES[:2], LINES, LINES],
    )
    assert answer["result"]["data"]["prompt"] == "a fox"
    assert answer["result"]["requestId"] == updates[0]["request_id"]


def test_javascript_client_submits_and_gets_status_and_result(
    client: Scenario, fal: FakeFal
) -> None:
    answer = client("queue")
    assert seen(answer["statuses"])[0] == STATUSES
    assert answer["submitted"]["queue_position"] == 2
    assert answer["early"]["status"] == 400
    assert answer["early"]["body"] == {"detail": "Request is still in progress"}
    assert answer["result"]["requestId"] == answer["submitted"]["request_id"]
    assert answer["result"]["data"]["images"][0]["content_type"] == "image/png"
    assert fal.requests[0].headers["x-fal-queue-priority"] == "low"


def test_javascript_client_cancels(client: Scenario, fal: FakeFal) -> None:
    answer = client("cancel")
    assert answer["again"]["status"] == 400
    assert answer["again"]["body"] == {"status": "ALREADY_COMPLETED"}
    assert answer["result"]["body"] == {"detail": "Request was cancelled"}
    target = f"/fal-ai/flux/requests/{answer['requestId']}/cancel"
    puts = [request.request_target for request in fal.requests if request.method == "PUT"]
    assert puts == [target, target]


def test_javascript_client_stream_sees_each_event_before_the_next_is_sent(
    client: Scenario, fal: FakeFal
) -> None:
    answer = client("stream")
    assert [event["progress"] for event in answer["events"]] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert answer["last"] == answer["events"][-1]
    assert answer["last"]["images"][0]["content_type"] == "image/png"
    assert answer["requestId"]
    assert fal.requests[0].headers["accept"] == "application/json, text/event-stream"


def test_javascript_client_gets_a_validation_error_of_a_stream_that_is_refused(
    client: Scenario,
) -> None:
    answer = client("stream_error")
    assert (answer["name"], answer["status"]) == ("ValidationError", 422)


# What the README's example of a stream finds around it: `shown` has what was shown, in order.
AROUND_THE_STREAM = """
import { fal } from "@fal-ai/client";
fal.config({ proxyUrl: { url: process.env.PROXY_URL, when: "always" } });
const shown = [];
const show = (event) => shown.push(event.progress);
const showError = (error) => shown.push([error.name, error.status, error.message]);
%s
console.log(JSON.stringify(shown));
"""


def shown_by_the_readmes_lines(node: str, proxy_url: str) -> Any:
    blocks = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "fal.stream" in block)
    done = subprocess.run(
        [node, "--input-type=module", "--eval", AROUND_THE_STREAM % code],
        cwd=JS,
        env={**os.environ, "PROXY_URL": proxy_url},
        capture_output=True,
        timeout=NODE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_readme_lines_show_a_streams_events(node: str, proxy_url: str, fal: FakeFal) -> None:
    events = "".join(f'data: {{"progress": {number}}}\n\n' for number in (1, 2))
    fal.answer_next(200, events, content_type="text/event-stream")
    assert shown_by_the_readmes_lines(node, proxy_url) == [1, 2]


def test_readme_lines_show_why_a_stream_is_refused(node: str, proxy_url: str, fal: FakeFal) -> None:
    fal.answer_next(401, {"detail": "Sign in.", "message": "Sign in."})
    assert shown_by_the_readmes_lines(node, proxy_url) == [["ApiError", 401, "Sign in."]]


def test_readme_lines_show_that_a_stream_was_cut(node: str, tmp_path: Path) -> None:
    def cut(connection: Connection) -> None:
        connection.read_request()
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b'17\r\ndata: {"progress": 1}\n\n\r\n'
        )

    with RawServer(cut) as upstream:
        environment = dialling_raw(upstream, tmp_path)
        with serve_gunicorn("wsgi_fal_proxy.wsgi", environment=environment) as served:
            shown = shown_by_the_readmes_lines(node, f"{served.url}/api/fal/proxy")
    # Whether the event or the error comes first is fal's client's business.
    assert 1 in shown
    assert ["ApiError", 500] in [entry[:2] for entry in shown if entry != 1]


def test_javascript_client_uploads(client: Scenario, fal: FakeFal) -> None:
    answer = client("upload")
    assert answer["url"].endswith("/small%20file.txt")
    assert answer["got"] == {"type": "text/plain", "sha256": answer["sent"]}
    assert fal.requests[0].request_target == ("/storage/upload/initiate?storage_type=fal-cdn-v3")


def test_javascript_client_uploads_a_file_in_the_input_on_the_way(
    client: Scenario, fal: FakeFal
) -> None:
    assert client("upload_in_input")["data"]["prompt"] == "a fox"
    initiate, run = fal.requests
    assert initiate.host == "rest.fal.ai"
    assert run.json()["image_url"].startswith(f"{fal.url}/files/")


def test_javascript_client_uploads_in_parts(client: Scenario, fal: FakeFal) -> None:
    answer = client("upload_multipart")
    assert answer["got"] == {"type": "video/mp4", "sha256": answer["sent"]}
    assert fal.requests[0].request_target == (
        "/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
    )


def test_javascript_client_gets_a_realtime_token(client: Scenario, fal: FakeFal) -> None:
    assert client("token") == "fake-token-for-flux"
    assert fal.requests[0].request_target == "/tokens/"
    assert fal.requests[0].json() == {"allowed_apps": ["flux"], "token_expiration": 120}


def test_javascript_client_gets_an_api_error_with_all_of_an_error_of_fals(
    client: Scenario, fal: FakeFal
) -> None:
    data = {"detail": "No such model", "message": "It is not there", "extra": [1]}
    fal.answer_next(404, json.dumps(data), x_fal_request_id="req-1")
    assert client("api_error") == {
        "isApiError": True,
        "isValidationError": False,
        "name": "ApiError",
        "status": 404,
        "message": "It is not there",
        "body": data,
        "requestId": "req-1",
    }


def test_javascript_client_gets_a_validation_error_with_the_fields(client: Scenario) -> None:
    answer = client("validation_error")
    error = {
        "loc": ["body", "prompt"],
        "msg": "Field required",
        "type": "missing",
        "input": {"seed": 1},
    }
    assert answer["isValidationError"]
    assert answer["status"] == 422
    assert answer["fieldErrors"] == [error]
    assert answer["promptErrors"] == [error]
    assert answer["requestId"]


def test_javascript_client_gets_an_api_error_that_says_what_is_wrong(
    client: Scenario, fal: FakeFal
) -> None:
    answer = client("refusal")
    assert (answer["name"], answer["status"]) == ("ApiError", 412)
    assert answer["message"] == "The target's host is not under fal.ai or fal.run."
    assert answer["body"]["reason"] == "target_host_not_allowed"
    assert fal.requests == []
