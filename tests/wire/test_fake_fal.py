"""The fake fal, over real HTTP: what it answers, what it keeps count of, how it is paced."""

from __future__ import annotations

import base64
import gc
import json
import math
import re
import socket
import struct
import sys
import urllib.request
import zlib
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import NewConnectionError, SSLError
from werkzeug import Response
from werkzeug.serving import BaseWSGIServer

from tests.support.raw_server import WAIT_SECONDS, Connection
from wsgi_fal_proxy.testing import FakeFal, RecordedRequest
from wsgi_fal_proxy.testing.picture import png
from wsgi_fal_proxy.testing.queue import QueuedRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.network import NetworkGuard

RUN: Final = "https://fal.run/fal-ai/flux/dev"
LLM: Final = "https://fal.run/fal-ai/any-llm"
QUEUE: Final = "https://queue.fal.run/fal-ai/flux/dev"
TOKENS: Final = "https://rest.fal.ai/tokens/"
INITIATE: Final = "https://rest.fal.ai/storage/upload/initiate"
HOUR: Final = 3600.0


class Client:
    """Asks a fake fal's fal hosts as the proxy does, and its open part as a browser does."""

    def __init__(self, fake: FakeFal) -> None:
        self.fake = fake
        self.headers = {"Authorization": f"Key {fake.key}", "Content-Type": "application/json"}
        self._manager = fake.pool_manager()

    def fal(
        self,
        method: str,
        url: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Ask with the right key, unless there are other headers; bytes are sent as they are."""
        given = self.headers if headers is None else headers
        return self._manager.request(
            method,
            url,
            body=body if isinstance(body, bytes | None) else json.dumps(body),
            headers={"Host": urlsplit(url).netloc, **given},
            preload_content=preload_content,
            redirect=False,
            retries=False,
            timeout=WAIT_SECONDS,
        )

    def events(self, method: str, url: str, body: object = None) -> Iterator[Any]:
        """Give each event as it comes; one piece is one event, or it is no JSON."""
        response = self.fal(method, url, body, preload_content=False)
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        for piece in response.stream():
            assert piece.startswith(b"data: ")
            assert piece.endswith(b"\n\n")
            yield json.loads(piece.removeprefix(b"data: "))
        response.release_conn()

    def submit(self, body: object, url: str = QUEUE) -> dict[str, Any]:
        answer: dict[str, Any] = self.fal("POST", url, body).json()
        return answer

    def finish(self, queued: Mapping[str, Any]) -> None:
        """Look at a queued request until it is done."""
        while self.fal("GET", queued["status_url"]).json()["status"] != "COMPLETED":
            pass

    def close(self) -> None:
        self._manager.clear()


@pytest.fixture
def fake() -> Iterator[FakeFal]:
    with FakeFal(step_seconds=None) as fake:
        yield fake


@pytest.fixture
def client(fake: FakeFal) -> Iterator[Client]:
    client = Client(fake)
    yield client
    client.close()


def ask_open(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        method, url, body=body, headers=headers, redirect=False, retries=False, timeout=WAIT_SECONDS
    )


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as response:
        content: bytes = response.read()
    return content


def decoded_png(content: bytes) -> tuple[int, int, bytes]:
    """Take a PNG file apart: its width, its height, and its pixels."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        name, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length) == (zlib.crc32(name + data),)
        chunks.append((name, data))
        at += 12 + length
    assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *how = struct.unpack(">IIBBBBB", chunks[0][1])
    assert how == [8, 2, 0, 0, 0]
    rows = zlib.decompress(chunks[1][1])
    stride = 1 + 3 * width
    assert len(rows) == stride * height
    assert set(rows[::stride]) == {0}
    assert not chunks[2][1]
    return width, height, b"".join(rows[y * stride + 1 : (y + 1) * stride] for y in range(height))


# Models


def test_fake_fal_run_answers_with_a_picture_that_can_be_fetched(client: Client) -> None:
    response = client.fal("POST", RUN, {"prompt": "a fox", "seed": 7})

    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["x-fal-request-id"]
    result = response.json()
    assert result["prompt"] == "a fox"
    assert result["seed"] == 7
    assert result["has_nsfw_concepts"] == [False]
    (image,) = result["images"]
    assert (image["width"], image["height"], image["content_type"]) == (512, 512, "image/png")
    assert image["url"].startswith(f"{client.fake.url}/files/")
    assert fetched(image["url"]) == png("a fox", 7, 512, 512)


def test_fake_fal_picture_is_served_with_its_type_to_pages_of_any_origin(client: Client) -> None:
    url = client.fal("POST", RUN, {"prompt": "a fox"}).json()["images"][0]["url"]

    response = ask_open("GET", url)

    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_fake_fal_run_by_get_takes_its_input_from_the_query(client: Client) -> None:
    response = client.fal("GET", f"{RUN}?prompt=42&seed=7&num_images=2&image_size=portrait_4_3")

    result = response.json()
    assert (result["prompt"], result["seed"]) == ("42", 7)
    sizes = [(image["width"], image["height"]) for image in result["images"]]
    assert sizes == [(768, 1024)] * 2


def test_fake_fal_makes_each_of_several_pictures_another_one(client: Client) -> None:
    result = client.fal("POST", RUN, {"prompt": "a fox", "seed": 7, "num_images": 4}).json()

    pictures = [fetched(image["url"]) for image in result["images"]]
    assert pictures == [png("a fox", seed, 512, 512) for seed in (7, 8, 9, 10)]
    assert len(set(pictures)) == 4


def test_fake_fal_picture_is_decided_by_the_prompt_without_a_seed(client: Client) -> None:
    first, again, other = (
        client.fal("POST", RUN, {"prompt": prompt}).json()["seed"]
        for prompt in ("a fox", "a fox", "a hen")
    )
    assert first == again != other


def test_fake_fal_takes_null_as_not_given(client: Client) -> None:
    body = {"prompt": "a fox", "seed": None, "num_images": None}
    assert client.fal("POST", RUN, body).status == 200


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        pytest.param("square_hd", (1024, 1024), id="square_hd"),
        pytest.param("square", (512, 512), id="square"),
        pytest.param("portrait_4_3", (768, 1024), id="portrait_4_3"),
        pytest.param("portrait_16_9", (576, 1024), id="portrait_16_9"),
        pytest.param("landscape_4_3", (1024, 768), id="landscape_4_3"),
        pytest.param("landscape_16_9", (1024, 576), id="landscape_16_9"),
        pytest.param({"width": 33, "height": 21}, (33, 21), id="object"),
        pytest.param({"width": 33}, (33, 512), id="object-without-height"),
        pytest.param({"width": "33", "height": "1"}, (33, 1), id="object-of-digits"),
    ],
)
def test_fake_fal_picture_has_the_size_that_was_asked_for(
    client: Client, image_size: object, expected: tuple[int, int]
) -> None:
    body = {"prompt": "a fox", "image_size": image_size}
    (image,) = client.fal("POST", RUN, body).json()["images"]

    assert (image["width"], image["height"]) == expected
    assert decoded_png(fetched(image["url"]))[:2] == expected


def test_fake_fal_language_model_answers_with_text(client: Client) -> None:
    assert client.fal("POST", LLM, {"prompt": "  Why? "}).json() == {
        "output": "You asked: Why? This is the fake fal, so no model has thought about it.",
        "partial": False,
        "error": None,
    }


def test_fake_fal_lone_surrogate_in_a_prompt_comes_back(client: Client) -> None:
    response = client.fal("POST", RUN, rb'{"prompt": "a \ud83e"}')

    assert response.status == 200
    result = response.json()
    assert result["prompt"] == "a \ud83e"
    assert fetched(result["images"][0]["url"]) == png("a \ud83e", result["seed"], 512, 512)


# Pictures


@given(st.text(), st.integers(0, 2**63), st.integers(1, 40), st.integers(1, 40))
def test_picture_is_a_valid_file(prompt: str, seed: int, width: int, height: int) -> None:
    assert decoded_png(png(prompt, seed, width, height))[:2] == (width, height)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_picture_in_blocks_is_one_with_fewer_details(block: int) -> None:
    fine = decoded_png(png("a fox", 7, 16, 8))[2]

    width, height, coarse = decoded_png(png("a fox", 7, 16, 8, block=block))

    assert (width, height) == (16, 8)
    for y in range(height):
        for x in range(width):
            corner = 3 * (16 * (y - y % block) + x - x % block)
            at = 3 * (16 * y + x)
            assert coarse[at : at + 3] == fine[corner : corner + 3]


def test_picture_is_the_same_in_every_process() -> None:
    pixels = decoded_png(png("a fox", 7, 16, 8))[2]
    assert zlib.crc32(pixels) == 2_140_965_124


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("a hen", 7, 16, 8), id="prompt"),
        pytest.param(("a fox", 8, 16, 8), id="seed"),
        pytest.param(("a fox", 7, 8, 16), id="size"),
    ],
)
def test_picture_changes_with(other: tuple[str, int, int, int]) -> None:
    assert png("a fox", 7, 16, 8) == png("a fox", 7, 16, 8) != png(*other)


# The key


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": ""}, id="empty"),
        pytest.param({"Authorization": "Key other"}, id="another-key"),
        pytest.param({"Authorization": "Bearer fake-key-id:fake-key-secret"}, id="another-scheme"),
        pytest.param({"Authorization": "fake-key-id:fake-key-secret"}, id="no-scheme"),
    ],
)
def test_fake_fal_answers_401_without_the_right_key(
    client: Client, headers: dict[str, str]
) -> None:
    client.fake.answer_next(200, "{}")

    response = client.fal("POST", RUN, {"prompt": "a fox"}, headers=headers)

    assert response.status == 401
    detail = "Authentication is required to access this application."
    assert response.json() == {"detail": detail}
    assert response.headers["x-fal-request-id"]


def test_fake_fal_key_can_be_chosen() -> None:
    with FakeFal(key="mine") as fake:
        client = Client(fake)
        headers = {"Authorization": "Key mine"}
        assert client.fal("POST", LLM, {"prompt": "Why?"}, headers=headers).status == 200
        client.close()


# Wrong input

_BLANK: Final = "String should have at least 1 character"
_NO_SIZE: Final = (
    "Input should be an object or one of square_hd, square, portrait_4_3, portrait_16_9,"
    " landscape_4_3, landscape_16_9"
)


_NOT_WHOLE: Final = "Input should be a valid integer"


def problem(field: str, kind: str, message: str, value: object) -> dict[str, object]:
    return {"loc": ["body", field], "msg": message, "type": kind, "input": value}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({}, problem("prompt", "missing", "Field required", {}), id="no-prompt"),
        pytest.param(None, problem("prompt", "missing", "Field required", {}), id="no-content"),
        pytest.param(
            {"prompt": 1},
            problem("prompt", "string_type", "Input should be a valid string", 1),
            id="number",
        ),
        pytest.param(
            {"prompt": " "}, problem("prompt", "string_too_short", _BLANK, " "), id="blank"
        ),
        pytest.param(
            {"prompt": "a", "seed": True},
            problem("seed", "int_type", _NOT_WHOLE, value=True),
            id="seed-of-bool",
        ),
        pytest.param(
            {"prompt": "a", "seed": "x"},
            problem("seed", "int_type", _NOT_WHOLE, "x"),
            id="seed-of-text",
        ),
        pytest.param(
            {"prompt": "a", "seed": "9" * 5_000},
            problem("seed", "int_type", _NOT_WHOLE, "9" * 5_000),
            id="seed-of-thousands-of-digits",
        ),
        pytest.param(
            {"prompt": "a", "seed": -1},
            problem("seed", "out_of_range", f"Input should be from 0 to {2**63}", -1),
            id="seed-below",
        ),
        pytest.param(
            {"prompt": "a", "seed": 2**63 + 1},
            problem("seed", "out_of_range", f"Input should be from 0 to {2**63}", 2**63 + 1),
            id="seed-above",
        ),
        pytest.param(
            {"prompt": "a", "num_images": 0},
            problem("num_images", "out_of_range", "Input should be from 1 to 4", 0),
            id="no-images",
        ),
        pytest.param(
            {"prompt": "a", "num_images": 5},
            problem("num_images", "out_of_range", "Input should be from 1 to 4", 5),
            id="too-many-images",
        ),
        pytest.param(
            {"prompt": "a", "image_size": "huge"},
            problem("image_size", "enum", _NO_SIZE, "huge"),
            id="unknown-size",
        ),
        pytest.param(
            {"prompt": "a", "image_size": 5},
            problem("image_size", "enum", _NO_SIZE, 5),
            id="size-of-number",
        ),
        pytest.param(
            {"prompt": "a", "image_size": {"width": 0}},
            problem("width", "out_of_range", "Input should be from 1 to 2048", 0),
            id="no-width",
        ),
        pytest.param(
            {"prompt": "a", "image_size": {"height": 2049}},
            problem("height", "out_of_range", "Input should be from 1 to 2048", 2049),
            id="too-high",
        ),
    ],
)
def test_fake_fal_answers_422_to_a_wrong_input(
    client: Client, body: object, expected: dict[str, object]
) -> None:
    response = client.fal("POST", RUN, body)

    assert response.status == 422
    assert response.json() == {"detail": [expected]}


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        pytest.param(b"{", "json_invalid", "JSON decode error: ", id="cut-off"),
        pytest.param(b"\xff\xfe\xfd", "json_invalid", "JSON decode error: ", id="not-text"),
        pytest.param(b"[" * 100_000, "json_invalid", "JSON decode error: ", id="deeply-nested"),
        pytest.param(b"[]", "model_type", "Input should be an object", id="list"),
        pytest.param(b"null", "model_type", "Input should be an object", id="null"),
    ],
)
def test_fake_fal_answers_422_to_content_that_is_no_json_object(
    client: Client, content: bytes, kind: str, message: str
) -> None:
    response = client.fal("POST", RUN, content)

    assert response.status == 422
    (problem,) = response.json()["detail"]
    assert (problem["loc"], problem["type"]) == (["body"], kind)
    assert problem["msg"].startswith(message)


def test_fake_fal_model_that_fails_tells_of_each_field(client: Client) -> None:
    response = client.fal("POST", "https://fal.run/fal-ai/fails", {"prompt": "a fox"})

    assert response.status == 422
    problems = response.json()["detail"]
    assert [(problem["loc"], problem["type"]) for problem in problems] == [
        (["body", "prompt"], "content_policy_violation"),
        (["body", "image_url"], "image_too_small"),
    ]


@pytest.mark.parametrize("begin", ["https://", "http://", "data:"])
@pytest.mark.parametrize("path", ["dev", "dev/image-to-image"])
def test_fake_fal_picture_to_start_from_is_a_url(client: Client, path: str, begin: str) -> None:
    body = {"prompt": "a fox", "image_url": f"{begin}a"}
    assert client.fal("POST", f"https://fal.run/fal-ai/flux/{path}", body).status == 200


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        pytest.param("dev", {"image_url": "a.png"}, "url_parsing", id="no-url"),
        pytest.param("dev", {"image_url": 1}, "string_type", id="number"),
        pytest.param("dev/image-to-image", {}, "missing", id="none-where-it-is-needed"),
    ],
)
def test_fake_fal_answers_422_to_a_picture_to_start_from_that_is_no_url(
    client: Client, path: str, body: dict[str, object], kind: str
) -> None:
    url = f"https://fal.run/fal-ai/flux/{path}"
    response = client.fal("POST", url, {"prompt": "a fox", **body})

    assert response.status == 422
    (found,) = response.json()["detail"]
    assert (found["loc"], found["type"]) == (["body", "image_url"], kind)


# What is not there


@pytest.mark.parametrize(
    ("method", "url", "status", "detail"),
    [
        pytest.param("POST", "https://fal.run/", 404, "Not Found", id="no-endpoint"),
        pytest.param("POST", "https://api.fal.ai/v1/models", 404, "Not Found", id="other-host"),
        pytest.param("POST", "https://rest.fal.ai/other", 404, "Not Found", id="other-path"),
        pytest.param("GET", f"{QUEUE}/requests/1", 404, "Not Found", id="no-such-result"),
        pytest.param("GET", f"{QUEUE}/requests/1/status", 404, "Not Found", id="no-such-status"),
        pytest.param(
            "GET", f"{QUEUE}/requests/1/status/stream", 404, "Not Found", id="no-such-stream"
        ),
        pytest.param("PUT", f"{QUEUE}/requests/1/cancel", 404, "Not Found", id="no-such-cancel"),
        pytest.param("PUT", RUN, 405, "Method Not Allowed", id="run-by-put"),
        pytest.param("GET", QUEUE, 405, "Method Not Allowed", id="submit-by-get"),
        pytest.param("GET", TOKENS, 405, "Method Not Allowed", id="token-by-get"),
    ],
)
def test_fake_fal_does_not_answer_what_fal_does_not(
    client: Client, method: str, url: str, status: int, detail: str
) -> None:
    response = client.fal(method, url)

    assert response.status == status
    assert response.json() == {"detail": detail}
    assert response.headers["x-fal-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/", 404, id="root"),
        pytest.param("GET", "/files/1/picture.png", 404, id="file"),
        pytest.param("GET", "/files//1/picture.png", 404, id="two-slashes"),
        pytest.param("PUT", "/upload/1", 404, id="upload"),
        pytest.param("PUT", "/upload/1/1", 404, id="part"),
        pytest.param("PUT", "/upload/1/x", 404, id="part-that-is-no-number"),
        pytest.param("POST", "/upload/1/complete", 404, id="complete"),
        pytest.param("GET", "/upload/1", 405, id="upload-by-get"),
        pytest.param("POST", "/fal-ai/flux/dev", 404, id="model"),
    ],
)
def test_fake_fal_open_part_answers_nothing_else(
    fake: FakeFal, method: str, path: str, status: int
) -> None:
    response = ask_open(method, fake.url + path)

    assert response.status == status
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["fal-ai//any-llm", "fal-ai/any-llm/", "/fal-ai/any-llm"])
def test_fake_fal_takes_slashes_in_an_endpoint_as_they_come(client: Client, path: str) -> None:
    assert client.fal("POST", f"https://fal.run/{path}", {"prompt": "Why?"}).status == 200


# Streams


def test_fake_fal_stream_of_a_picture_goes_on_by_advance(client: Client) -> None:
    events = client.events("POST", f"{RUN}/stream", {"prompt": "a fox", "seed": 7})

    assert next(events)["progress"] == 0.2
    client.fake.advance()
    assert next(events)["progress"] == 0.4
    client.fake.advance()
    client.fake.advance()
    assert [next(events)["progress"], next(events)["progress"]] == [0.6, 0.8]
    client.fake.advance()
    (last,) = events
    assert last["progress"] == 1.0
    assert fetched(last["images"][0]["url"]) == png("a fox", 7, 512, 512)


def test_fake_fal_stream_of_a_picture_shows_it_ever_finer(client: Client) -> None:
    for _ in range(4):
        client.fake.advance()
    body = {"prompt": "a fox", "seed": 7, "image_size": "landscape_16_9"}
    *partial, _ = client.events("POST", f"{RUN}/stream", body)

    images = [event["images"][0] for event in partial]
    assert {(image["width"], image["height"]) for image in images} == {(1024, 576)}
    begin = "data:image/png;base64,"
    assert [base64.b64decode(image["url"].removeprefix(begin)) for image in images] == [
        png("a fox", 7, 1024, 576, block=block) for block in (128, 64, 32, 16)
    ]


def test_fake_fal_stream_goes_on_by_a_post_to_the_open_part(client: Client) -> None:
    events = client.events("GET", f"{RUN}/stream?prompt=a+fox")

    next(events)
    assert ask_open("POST", f"{client.fake.url}/_fake/advance").status == 204
    assert next(events)["progress"] == 0.4
    client.fake.stop()
    assert len(list(events)) == 3


@pytest.mark.parametrize("model", ["fal-ai/slow", "fal-ai/slow-llm"])
def test_fake_fal_slow_model_streams_for_long(client: Client, model: str) -> None:
    for _ in range(60):
        client.fake.advance()
    body = {"prompt": "a fox", "image_size": {"width": 8, "height": 8}}

    events = client.events("POST", f"https://fal.run/{model}/stream", body)

    assert len(list(events)) == 61


def test_fake_fal_stream_of_text_grows(client: Client) -> None:
    for _ in range(4):
        client.fake.advance()
    *partial, last = client.events("POST", f"{LLM}/stream", {"prompt": "Why not?"})

    assert [event["partial"] for event in partial] == [True] * 4
    assert last == client.fal("POST", LLM, {"prompt": "Why not?"}).json()
    texts = [event["output"] for event in (*partial, last)]
    assert all(
        longer.startswith(shorter) and longer != shorter for shorter, longer in pairwise(texts)
    )


@pytest.mark.parametrize(
    "step_seconds", [pytest.param(0, id="no-time"), pytest.param(1e-9, id="hardly-any")]
)
def test_fake_fal_stream_goes_on_by_itself(step_seconds: float) -> None:
    with FakeFal(step_seconds=step_seconds) as fake:
        client = Client(fake)
        assert len(list(client.events("POST", f"{RUN}/stream", {"prompt": "a fox"}))) == 5
        client.close()


def test_fake_fal_answers_422_to_a_wrong_input_before_a_stream_begins(client: Client) -> None:
    assert client.fal("POST", f"{RUN}/stream", {}).status == 422


# The queue


def test_fake_fal_submitted_request_is_second_in_line(client: Client) -> None:
    response = client.fal("POST", QUEUE, {"prompt": "a fox"})

    assert response.status == 200
    answer = response.json()
    request_id = answer["request_id"]
    url = f"https://queue.fal.run/fal-ai/flux/requests/{request_id}"
    assert answer == {
        "status": "IN_QUEUE",
        "queue_position": 2,
        "request_id": request_id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
    }
    assert response.headers["x-fal-request-id"] == request_id


def test_fake_fal_takes_each_look_at_a_status_for_a_step(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})

    looks = [client.fal("GET", queued["status_url"]) for _ in range(8)]

    assert [
        (look.status, look.json()["status"], look.json().get("queue_position")) for look in looks
    ] == [
        (202, "IN_QUEUE", 2),
        (202, "IN_QUEUE", 1),
        (202, "IN_QUEUE", 0),
        (202, "IN_PROGRESS", None),
        (202, "IN_PROGRESS", None),
        (202, "IN_PROGRESS", None),
        (200, "COMPLETED", None),
        (200, "COMPLETED", None),
    ]
    assert {look.headers["x-fal-request-id"] for look in looks} == {queued["request_id"]}
    assert looks[-1].json()["metrics"] == {"inference_time": 0.01}
    assert "logs" not in looks[-1].json()


def test_fake_fal_status_has_all_logs_so_far(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})

    looks = [client.fal("GET", queued["status_url"] + "?logs=1").json() for _ in range(7)]

    said = ["loading the model", "step 1 of 2", "step 2 of 2"]
    assert [[log["message"] for log in look["logs"]] for look in looks] == [
        [],
        [],
        [],
        said[:1],
        said[:2],
        said,
        said,
    ]
    assert set(looks[-1]["logs"][0]) == {"message", "level", "source", "timestamp"}


def test_fake_fal_slow_model_takes_many_steps(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"}, "https://queue.fal.run/fal-ai/slow")

    looks = [client.fal("GET", queued["status_url"] + "?logs=1").json() for _ in range(65)]

    assert [look["status"] for look in looks] == [
        *(["IN_QUEUE"] * 3),
        *(["IN_PROGRESS"] * 61),
        "COMPLETED",
    ]
    assert looks[-1]["logs"][-1]["message"] == "step 60 of 60"


def test_fake_fal_status_stream_has_the_logs_that_are_new(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})
    for _ in range(6):
        client.fake.advance()

    events = list(client.events("GET", queued["status_url"] + "/stream?logs=1"))

    assert [event["status"] for event in events] == [
        *(["IN_QUEUE"] * 3),
        *(["IN_PROGRESS"] * 3),
        "COMPLETED",
    ]
    assert [[log["message"] for log in event["logs"]] for event in events] == [
        [],
        [],
        [],
        ["loading the model"],
        ["step 1 of 2"],
        ["step 2 of 2"],
        [],
    ]


def test_fake_fal_status_stream_is_silent_on_logs_that_were_not_asked_for(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})
    client.finish(queued)

    url = queued["status_url"] + "/stream"
    response = client.fal("GET", url)
    (event,) = client.events("GET", url)

    assert response.headers["x-fal-request-id"] == queued["request_id"]
    assert event["status"] == "COMPLETED"
    assert "logs" not in event


def test_fake_fal_has_no_result_before_the_request_is_done(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})

    response = client.fal("GET", queued["response_url"])

    assert response.status == 400
    assert response.json() == {"detail": "Request is still in progress"}
    assert response.headers["x-fal-request-id"] == queued["request_id"]


def test_fake_fal_result_is_what_a_run_gives(client: Client) -> None:
    queued = client.submit({"prompt": "a fox", "seed": 7})
    client.finish(queued)

    response = client.fal("GET", queued["response_url"])

    assert response.status == 200
    assert response.headers["x-fal-request-id"] == queued["request_id"]
    result, run = response.json(), client.fal("POST", RUN, {"prompt": "a fox", "seed": 7}).json()
    pictures = [fetched(answer.pop("images")[0]["url"]) for answer in (result, run)]
    assert result == run
    assert pictures[0] == pictures[1]


def test_fake_fal_tells_a_wrong_input_in_the_queue_with_the_result(client: Client) -> None:
    queued = client.submit({"prompt": ""})
    client.finish(queued)

    response = client.fal("GET", queued["response_url"])

    assert response.status == 422
    assert response.json()["detail"][0]["type"] == "string_too_short"


def test_fake_fal_cancelled_request_ends_without_a_result(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})

    response = client.fal("PUT", queued["cancel_url"])

    assert response.status == 202
    assert response.json() == {"status": "CANCELLATION_REQUESTED"}
    status = client.fal("GET", queued["status_url"])
    assert status.status == 200
    assert status.json()["status"] == "COMPLETED"
    assert status.json()["error"] == "Request was cancelled"
    result = client.fal("GET", queued["response_url"])
    assert result.status == 400
    assert result.json() == {"detail": "Request was cancelled"}


def test_fake_fal_request_that_is_done_cannot_be_cancelled(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})
    client.finish(queued)

    response = client.fal("PUT", queued["cancel_url"])

    assert response.status == 400
    assert response.json() == {"status": "ALREADY_COMPLETED"}
    assert client.fal("GET", queued["response_url"]).status == 200


def test_fake_fal_request_is_cancelled_once(client: Client) -> None:
    queued = client.submit({"prompt": "a fox"})
    client.fal("PUT", queued["cancel_url"])

    assert client.fal("PUT", queued["cancel_url"]).json() == {"status": "ALREADY_COMPLETED"}


@pytest.mark.parametrize(
    ("endpoint", "app"),
    [
        pytest.param("fal-ai/flux", "fal-ai/flux", id="app"),
        pytest.param("fal-ai/flux/dev", "fal-ai/flux", id="path"),
        pytest.param("fal-ai/flux/dev/image-to-image", "fal-ai/flux", id="long-path"),
        pytest.param("workflows/me/flow", "workflows/me/flow", id="workflow"),
        pytest.param("workflows/me/flow/path", "workflows/me/flow", id="workflow-path"),
        pytest.param("comfy/me/flow", "comfy/me/flow", id="comfy"),
    ],
)
def test_fake_fal_request_is_found_under_its_app(client: Client, endpoint: str, app: str) -> None:
    queued = client.submit({"prompt": "a fox"}, f"https://queue.fal.run/{endpoint}")

    url = f"https://queue.fal.run/{app}/requests/{queued['request_id']}"
    assert queued["response_url"] == url
    assert client.fal("GET", f"{url}/status").status == 202


@pytest.mark.parametrize(
    "app", ["fal-ai/other", "fal-ai/flux/dev", "other/flux", "workflows/fal-ai/flux"]
)
def test_fake_fal_request_is_not_found_under_another_app(client: Client, app: str) -> None:
    request_id = client.submit({"prompt": "a fox"})["request_id"]

    url = f"https://queue.fal.run/{app}/requests/{request_id}/status"
    assert client.fal("GET", url).status == 404


@pytest.mark.parametrize(
    ("step_seconds", "is_done"),
    [
        pytest.param(math.inf, False, id="never"),
        pytest.param(1e300, False, id="longer-than-anything"),
        pytest.param(HOUR, False, id="an-hour"),
        pytest.param(1e-12, True, id="less-than-a-tick"),
        pytest.param(5e-324, True, id="least-there-is"),
        pytest.param(0, True, id="no-time"),
    ],
)
def test_fake_fal_request_that_nobody_looks_at_ends_by_time(
    step_seconds: float, is_done: bool
) -> None:
    assert QueuedRequest("a/b/c", "a/b", {}, step_seconds).is_done == is_done


@pytest.mark.parametrize(
    ("age", "status", "position"),
    [
        pytest.param(0.5, "IN_QUEUE", 2, id="first-step"),
        pytest.param(1.5, "IN_QUEUE", 1, id="second-step"),
        pytest.param(2.5, "IN_QUEUE", 0, id="third-step"),
        pytest.param(3.5, "IN_PROGRESS", None, id="fourth-step"),
        pytest.param(6.5, "COMPLETED", None, id="last-step"),
        pytest.param(1e9, "COMPLETED", None, id="long-ago"),
    ],
)
def test_fake_fal_request_moves_a_step_in_each_span(
    age: float, status: str, position: int | None
) -> None:
    queued = QueuedRequest("a/b/c", "a/b", {}, HOUR, _submitted=monotonic() - age * HOUR)

    answer, _ = queued.look()

    assert (answer["status"], answer.get("queue_position")) == (status, position)


def test_fake_fal_queue_without_waiting_is_done_at_the_first_look() -> None:
    with FakeFal(step_seconds=0) as fake:
        client = Client(fake)
        queued = client.submit({"prompt": "a fox"})
        assert client.fal("GET", queued["status_url"]).json()["status"] == "COMPLETED"
        client.close()


# Uploads


def test_fake_fal_upload_is_served_as_it_came(client: Client) -> None:
    body = {"file_name": "my fox.png", "content_type": "image/x-fox"}
    answer = client.fal("POST", INITIATE, body).json()
    assert answer["file_url"].endswith("/my%20fox.png")

    response = ask_open("PUT", answer["upload_url"], b"\0\xff")

    assert response.status == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    served = ask_open("GET", answer["file_url"])
    assert served.data == b"\0\xff"
    assert served.headers["Content-Type"] == "image/x-fox"


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        pytest.param(None, "file.bin", id="none"),
        pytest.param("", "file.bin", id="empty"),
        pytest.param("a/b.png", "b.png", id="path"),
        pytest.param("a/", "file.bin", id="directory"),
        pytest.param("ü?.png", "%C3%BC%3F.png", id="quoted"),
        pytest.param("\ud800.png", "%3F.png", id="lone-surrogate"),
    ],
)
@pytest.mark.parametrize("path", ["initiate", "initiate-multipart"])
@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai"])
def test_fake_fal_file_has_a_name_in_its_url(
    client: Client, host: str, path: str, file_name: str | None, name: str
) -> None:
    url = f"https://{host}/storage/upload/{path}"

    answer = client.fal("POST", url, {"file_name": file_name}).json()

    assert answer["upload_url"].startswith(f"{client.fake.url}/upload/")
    assert answer["file_url"].startswith(f"{client.fake.url}/files/")
    assert answer["file_url"].rpartition("/")[2] == name
    served = ask_open("GET", answer["file_url"])
    assert served.status == 200
    assert served.data == b""
    assert served.headers["Content-Type"] == "application/octet-stream"


def started_upload(client: Client) -> tuple[str, str]:
    """Upload two parts, the second one first; give where, and where the file will be."""
    answer = client.fal("POST", f"{INITIATE}-multipart", {"file_name": "a.bin"}).json()
    upload_url: str = answer["upload_url"]
    second = ask_open("PUT", f"{upload_url}/2", b"second")
    first = ask_open("PUT", f"{upload_url}/1", b"first ")
    assert [first.json(), second.json()] == _PARTS
    return upload_url, answer["file_url"]


_PARTS: Final = [{"partNumber": 1, "etag": "etag-1"}, {"partNumber": 2, "etag": "etag-2"}]


def test_fake_fal_makes_a_file_of_parts_in_the_order_of_their_numbers(client: Client) -> None:
    upload_url, file_url = started_upload(client)

    content = json.dumps({"parts": _PARTS}).encode()
    response = ask_open("POST", f"{upload_url}/complete", content)

    assert response.status == 200
    assert fetched(file_url) == b"first second"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="none"),
        pytest.param({"parts": []}, id="empty"),
        pytest.param({"parts": 1}, id="no-list"),
        pytest.param({"parts": [1, 2]}, id="no-objects"),
        pytest.param({"parts": [{}, {}]}, id="empty-objects"),
        pytest.param({"parts": _PARTS[:1]}, id="one-left-out"),
        pytest.param({"parts": [*_PARTS, {"partNumber": 3, "etag": "etag-3"}]}, id="one-more"),
        pytest.param({"parts": _PARTS[::-1]}, id="wrong-order"),
        pytest.param({"parts": [_PARTS[0], {"partNumber": 2, "etag": "x"}]}, id="wrong-etag"),
    ],
)
def test_fake_fal_answers_400_to_parts_that_do_not_match(client: Client, content: object) -> None:
    upload_url, file_url = started_upload(client)

    response = ask_open("POST", f"{upload_url}/complete", json.dumps(content).encode())

    assert response.status == 400
    assert response.json() == {"detail": "The parts do not match"}
    assert fetched(file_url) == b""


def test_fake_fal_upload_is_completed_with_json(client: Client) -> None:
    upload_url, _ = started_upload(client)

    assert ask_open("POST", f"{upload_url}/complete", b"[]").status == 422


@pytest.mark.parametrize("path", ["/upload/1", "/upload/1/1", "/upload/1/complete", "/anything"])
def test_fake_fal_preflight_is_answered_for_all_origins(fake: FakeFal, path: str) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "PUT"}

    response = ask_open("OPTIONS", fake.url + path, headers=headers)

    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Access-Control-Allow-Methods"] == "GET, PUT, POST"
    assert response.headers["Access-Control-Allow-Headers"] == "*"


# Tokens


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(TOKENS, id="as-clients-ask"),
        pytest.param("https://rest.fal.ai/tokens", id="without-the-slash"),
        pytest.param("https://rest.alpha.fal.ai/tokens/", id="old-host"),
    ],
)
def test_fake_fal_token_is_text_for_the_apps(client: Client, url: str) -> None:
    response = client.fal("POST", url, {"allowed_apps": ["flux", "sdxl"]})

    assert response.status == 200
    assert response.json() == "fake-token-for-flux-sdxl"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param({}, None, id="missing"),
        pytest.param({"allowed_apps": []}, [], id="empty"),
        pytest.param({"allowed_apps": "flux"}, "flux", id="text"),
    ],
)
def test_fake_fal_token_needs_apps(client: Client, body: object, value: object) -> None:
    response = client.fal("POST", TOKENS, body)

    assert response.status == 422
    assert response.json() == {
        "detail": [
            {
                "loc": ["body", "allowed_apps"],
                "msg": "Input should be a valid list",
                "type": "list_type",
                "input": value,
            }
        ]
    }


# Scripted answers


def test_fake_fal_next_answers_can_be_scripted(client: Client) -> None:
    client.fake.answer_next(429, '{"detail": "slow down"}', retry_after="1")
    client.fake.answer_next(200, "plain", content_type="text/plain", x_fal_request_id="mine")

    first = client.fal("POST", RUN, {"prompt": "a fox"})
    second = client.fal("GET", "https://anything.fal.ai/at/all")
    third = client.fal("POST", LLM, {"prompt": "Why?"})

    assert (first.status, first.json()) == (429, {"detail": "slow down"})
    assert first.headers["Retry-After"] == "1"
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["x-fal-request-id"]
    assert (second.status, second.data) == (200, b"plain")
    assert second.headers["Content-Type"] == "text/plain"
    assert second.headers["x-fal-request-id"] == "mine"
    assert third.json()["partial"] is False


@pytest.mark.parametrize("data", [{"detail": "slow down"}, {}, ["a", {"b": None}], []])
def test_fake_fal_scripted_answer_of_what_json_holds_is_json(client: Client, data: Any) -> None:
    client.fake.answer_next(HTTPStatus.TOO_MANY_REQUESTS, data)

    answer = client.fal("POST", RUN, {"prompt": "a fox"})

    assert (answer.status, answer.json()) == (429, data)
    assert answer.headers["Content-Type"] == "application/json"


def test_fake_fal_scripted_answer_as_json_can_have_another_content_type(client: Client) -> None:
    client.fake.answer_next(200, {"a": 1}, content_type="application/problem+json")

    answer = client.fal("POST", RUN)

    assert answer.data == b'{"a": 1}'
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("status", [200, 599])
def test_fake_fal_scripted_answer_can_have_any_final_status(client: Client, status: int) -> None:
    client.fake.answer_next(status, "{}")

    assert client.fal("POST", RUN).status == status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, ValueError) for status in (-1, 0, 99, 100, 199, 600, 1000)),
        *((status, TypeError) for status in ("429", "429 Slow Down", 429.0, True, None)),
    ],
)
def test_fake_fal_scripted_answer_needs_a_status(
    client: Client, status: Any, error: type[Exception]
) -> None:
    message = f"status must be a number from 200 to 599, not {status!r}"
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        client.fake.answer_next(status, "{}")

    assert client.fal("POST", RUN, {"prompt": "a fox"}).status == 200


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        pytest.param(b"a", TypeError, "data must be text, a dict or a list, not b'a'", id="bytes"),
        pytest.param(None, TypeError, "data must be text, a dict or a list, not None", id="none"),
        pytest.param({"a": b"{}"}, TypeError, "not JSON serializable", id="bytes-in-it"),
        pytest.param([math.inf], ValueError, "not JSON compliant", id="infinite"),
    ],
)
def test_fake_fal_scripted_answer_needs_text_or_json(
    client: Client, data: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        client.fake.answer_next(200, data)

    assert client.fal("POST", RUN, {"prompt": "a fox"}).status == 200


def test_fake_fal_scripted_answer_is_not_for_the_open_part(client: Client) -> None:
    client.fake.answer_next(500)

    assert ask_open("GET", f"{client.fake.url}/files/1/a.png").status == 404
    assert client.fal("POST", RUN, {"prompt": "a fox"}).status == 500


# Records


def test_fake_fal_answer_that_has_nothing_to_close_is_noted_too(client: Client) -> None:
    client.fake._app.answer_next(Response([b"{}"], direct_passthrough=True))

    assert client.fal("POST", RUN).data == b"{}"

    (record,) = client.fake.requests
    assert record.closed.wait(WAIT_SECONDS)
    assert record.finished


def test_fake_fal_request_is_recorded(client: Client) -> None:
    client.fal("POST", f"{LLM}?a=1", {"prompt": "Why?"}, headers={**client.headers, "X-Other": "1"})

    (record,) = client.fake.requests
    assert (record.method, record.host) == ("POST", "fal.run")
    assert record.request_target == "/fal-ai/any-llm?a=1"
    assert record.headers["authorization"] == f"Key {client.fake.key}"
    assert record.headers["x-other"] == "1"
    assert record.body == b'{"prompt": "Why?"}'
    assert record.json() == {"prompt": "Why?"}
    assert record.closed.wait(WAIT_SECONDS)
    assert record.finished


@pytest.mark.parametrize(
    "request_target",
    ["/", "//", "//fal-ai/llm", "/a//b", "/a/../b", "/a%2fb?c=%20", "/?", "/a?b?c=/../d"],
)
def test_fake_fal_request_target_is_recorded_byte_for_byte(
    fake: FakeFal, request_target: str
) -> None:
    connection = connected(fake)

    connection.send(
        f"GET {request_target} HTTP/1.1\r\nHost: fal.run\r\nConnection: close\r\n\r\n".encode()
    )
    connection.wait_for_close()
    connection.sock.close()

    assert [record.request_target for record in fake.requests] == [request_target]


def test_fake_fal_chunked_content_is_recorded_whole(fake: FakeFal) -> None:
    connection = connected(fake)

    connection.send(
        b"POST /x HTTP/1.1\r\nHost: fal.run\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n1\r\n \r\n0\r\n\r\n"
    )
    connection.wait_for_close()
    connection.sock.close()

    assert [record.body for record in fake.requests] == [b"{} "]


def test_fake_fal_records_what_it_refuses_too(client: Client) -> None:
    client.fal("POST", RUN, b"{", headers={})

    (record,) = client.fake.requests
    with pytest.raises(ValueError, match="property name"):
        record.json()


def test_fake_fal_open_part_is_not_recorded(fake: FakeFal) -> None:
    ask_open("GET", f"{fake.url}/files/1/a.png")

    assert fake.requests == []


def test_fake_fal_record_does_not_show_its_content_and_headers() -> None:
    record = RecordedRequest("POST", "fal.run", "/x", {"authorization": "Key k"}, b"private")

    assert repr(record) == (
        "RecordedRequest(method='POST', host='fal.run', request_target='/x', finished=False)"
    )


def connected(fake: FakeFal) -> Connection:
    return Connection(socket.create_connection(("127.0.0.1", fake.port), WAIT_SECONDS), 1)


def test_fake_fal_client_that_goes_away_in_mid_stream_is_noted(fake: FakeFal) -> None:
    connection = connected(fake)
    connection.send(
        b"GET /fal-ai/flux/stream?prompt=a HTTP/1.1\r\n"
        b"Host: fal.run\r\n"
        b"Authorization: Key " + fake.key.encode() + b"\r\n\r\n"
    )
    connection.read_head()
    connection.read(len(b'19\r\ndata: {"progress": 0.2}\n\n'))
    (record,) = fake.requests
    assert not record.closed.is_set()

    connection.reset()
    fake.advance()

    assert record.closed.wait(WAIT_SECONDS)
    assert not record.finished


# Starting and stopping


def test_fake_fal_stop_lets_streams_run_to_their_end(client: Client) -> None:
    events = client.events("POST", f"{RUN}/stream", {"prompt": "a fox"})
    next(events)

    client.fake.stop()

    assert len(list(events)) == 4
    (record,) = client.fake.requests
    assert record.closed.wait(WAIT_SECONDS)
    assert record.finished


def test_fake_fal_stop_ends_the_wait_for_a_step_that_takes_long() -> None:
    with FakeFal(step_seconds=HOUR) as fake:
        client = Client(fake)
        events = client.events("POST", f"{RUN}/stream", {"prompt": "a fox"})
        next(events)
    assert len(list(events)) == 4
    client.close()


def test_fake_fal_that_has_stopped_answers_nobody(client: Client) -> None:
    client.fake.stop()

    with pytest.raises(NewConnectionError):
        client.fal("POST", RUN, {"prompt": "a fox"})


def test_fake_fal_is_not_held_up_by_a_client_that_never_shakes_hands() -> None:
    with FakeFal(tls=True) as fake, socket.create_connection(("127.0.0.1", fake.port)):
        client = Client(fake)
        assert client.fal("POST", RUN, {"prompt": "a fox"}).status == 200
        client.close()


def test_fake_fal_that_never_started_can_be_stopped() -> None:
    FakeFal().stop()


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("tls", [False, True])
def test_fake_fal_stop_closes_each_socket_once(
    monkeypatch: pytest.MonkeyPatch, tls: bool, started: bool
) -> None:
    closed: list[int] = []

    def server_close(server: BaseWSGIServer) -> None:
        closed.append(server.port)
        super(BaseWSGIServer, server).server_close()

    monkeypatch.setattr(BaseWSGIServer, "server_close", server_close)
    fake = FakeFal(tls=tls)
    if started:
        fake.start()
    ports = {fake.port, int(fake.url.rpartition(":")[2])}
    fake.stop()
    assert sorted(closed) == sorted(ports)
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)


def test_fake_fal_can_be_stopped_twice(fake: FakeFal) -> None:
    fake.stop()
    fake.stop()


def test_fake_fal_port_can_be_chosen(fake: FakeFal) -> None:
    port = fake.port
    fake.stop()

    with FakeFal(port=port) as again:
        assert again.url == f"http://127.0.0.1:{port}"
        assert ask_open("GET", again.url).status == 404


def test_fake_fal_without_tls_has_one_port_and_no_authority(fake: FakeFal) -> None:
    assert fake.url == f"http://127.0.0.1:{fake.port}"
    assert fake.ca_file is None


# TLS


@pytest.mark.parametrize(
    "host", ["fal.run", "queue.fal.run", "fal.ai", "rest.fal.ai", "rest.alpha.fal.ai"]
)
def test_fake_fal_with_tls_is_verified_as_fal(
    fal: FakeFal, host: str, network: NetworkGuard
) -> None:
    client = Client(fal)
    fal.answer_next(200, "{}")

    assert client.fal("POST", f"https://{host}/x", {}).status == 200

    assert fal.requests[0].host == host
    assert network.lookups == []
    assert set(network.dialled) == {("127.0.0.1", fal.port)}
    client.close()


def test_fake_fal_with_tls_does_not_pass_for_anybody_else(fal: FakeFal) -> None:
    client = Client(fal)

    with pytest.raises(SSLError, match=r"evil\.example"):
        client.fal("POST", "https://evil.example/x", {})

    assert fal.requests == []
    client.close()


def test_fake_fal_with_tls_serves_files_in_the_clear(fal: FakeFal) -> None:
    client = Client(fal)
    url = client.fal("POST", RUN, {"prompt": "a fox", "seed": 7}).json()["images"][0]["url"]

    assert url.startswith(f"{fal.url}/files/")
    assert not url.startswith(f"http://127.0.0.1:{fal.port}/")
    assert fetched(url) == png("a fox", 7, 512, 512)
    client.close()


def test_fake_fal_with_tls_leaves_nothing_behind() -> None:
    with FakeFal(tls=True) as fake:
        assert fake.ca_file is not None
        directory = Path(fake.ca_file).parent
        assert directory.is_dir()
    assert not directory.exists()


def test_fake_fal_with_tls_needs_trustme_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)

    with pytest.raises(ImportError, match=r"pip install 'wsgi-fal-proxy\[testing\]'"):
        FakeFal(tls=True)

    # What was left open would warn here.
    gc.collect()


def test_fake_fal_that_has_not_started_makes_no_pool_manager() -> None:
    fake = FakeFal()
    with pytest.raises(RuntimeError, match="has not been started"):
        fake.pool_manager()
    fake.stop()


def test_fake_fal_streams_that_were_left_do_not_take_the_next_ones_steps() -> None:
    with FakeFal(step_seconds=None) as fal:
        headers = {"Host": "fal.run", "Authorization": f"Key {fal.key}"}

        def stream(http: urllib3.PoolManager) -> urllib3.BaseHTTPResponse:
            return http.request(
                "POST",
                f"http://127.0.0.1:{fal.port}/fal-ai/flux/stream",
                json={"prompt": "a fox"},
                headers=headers,
                preload_content=False,
            )

        with urllib3.PoolManager() as http:
            before = stream(http)
            fal._app.reset()
            # To its end, without a step.
            assert before.data.count(b"data: ") == 5
            assert fal.requests == []
            after = stream(http)
            for _ in range(4):
                fal.advance()
            assert after.data.count(b"data: ") == 5
