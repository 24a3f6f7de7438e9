"""The fake fal as a WSGI application. The `Host` header says which of fal's hosts it is."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import uuid4

from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map, Rule

from wsgi_fal_proxy.testing import models
from wsgi_fal_proxy.testing.queue import QueuedRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

_NAMESPACES: Final = ("workflows", "comfy")
_REST_HOSTS: Final = ("rest.fal.ai", "rest.alpha.fal.ai")
_OPEN_TO_ALL: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, PUT, POST",
    "Access-Control-Allow-Headers": "*",
}


def _rule(host: str, method: str, path: str, endpoint: str) -> Rule:
    return Rule(path, host=host, methods=[method], endpoint=endpoint)


# fal's hosts, which require the key ...
_FAL_ROUTES: Final = (
    _rule("fal.run", "POST", "/<path:endpoint>", "run"),
    _rule("fal.run", "GET", "/<path:endpoint>", "run"),
    _rule("fal.run", "POST", "/<path:endpoint>/stream", "stream"),
    _rule("fal.run", "GET", "/<path:endpoint>/stream", "stream"),
    _rule("queue.fal.run", "POST", "/<path:endpoint>", "submit"),
    _rule("queue.fal.run", "GET", "/<path:app>/requests/<request_id>", "result"),
    _rule("queue.fal.run", "GET", "/<path:app>/requests/<request_id>/status", "status"),
    _rule("queue.fal.run", "GET", "/<path:app>/requests/<request_id>/status/stream", "follow"),
    _rule("queue.fal.run", "PUT", "/<path:app>/requests/<request_id>/cancel", "cancel"),
    *(
        _rule(host, "POST", path, endpoint)
        for host in _REST_HOSTS
        for path, endpoint in (
            ("/storage/upload/initiate", "initiate"),
            ("/storage/upload/initiate-multipart", "initiate_multipart"),
            ("/tokens/", "token"),
        )
    ),
)
# ... and the CDN, which does not, at the host and port on which the fake fal runs.
_OPEN_ROUTES: Final = (
    Rule("/upload/<file_id>", methods=["PUT"], endpoint="upload"),
    Rule("/upload/<file_id>/<int:number>", methods=["PUT"], endpoint="upload_part"),
    Rule("/upload/<file_id>/complete", methods=["POST"], endpoint="complete_upload"),
    Rule("/files/<file_id>/<name>", methods=["GET"], endpoint="file"),
    Rule("/_fake/advance", methods=["POST"], endpoint="advance"),
)


def _routes(rules: Iterable[Rule], *, host_matching: bool) -> Map:
    return Map(
        [rule.empty() for rule in rules],
        host_matching=host_matching,
        strict_slashes=False,
        merge_slashes=False,
    )


@dataclass(slots=True)
class RecordedRequest:
    """A request that reached the fake fal.

    Attributes:
        method: Such as "POST".
        host: The `Host` header, such as "queue.fal.run".
        request_target: Path and query, byte for byte as received.
        headers: The values by name. Names are in lower case.
        body: The content.
        closed: Set when the answer is over: it was sent, or the connection was closed before.
        finished: Whether the whole answer was sent. Read it after `closed` is set.
    """

    method: str
    host: str
    request_target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    closed: threading.Event = field(default_factory=threading.Event, repr=False)
    finished: bool = False

    def json(self) -> Any:
        """Parse the content as JSON.

        Raises:
            ValueError: The content is not JSON.
        """
        return json.loads(self.body)


@dataclass(slots=True)
class _StoredFile:
    content_type: str
    content: bytes = b""
    parts: dict[int, bytes] = field(default_factory=dict)


class _Pace:
    """The wait between two events of a stream: a time, or a call of `advance`."""

    def __init__(self, step_seconds: float | None) -> None:
        self._step_seconds = step_seconds and min(step_seconds, threading.TIMEOUT_MAX)
        self._steps = threading.Semaphore(0)
        self._stopped = threading.Event()

    def wait(self) -> None:
        if self._step_seconds is not None:
            self._stopped.wait(self._step_seconds)
        elif not self._stopped.is_set():
            self._steps.acquire()

    def advance(self) -> None:
        self._steps.release()

    def stop(self) -> None:
        self._stopped.set()
        # More than there can be waiting streams.
        self._steps.release(10_000)


class _Noting:
    """A response's iterable. It records how the response ended."""

    def __init__(self, iterable: Iterable[bytes], record: RecordedRequest) -> None:
        self._iterable = iterable
        self._record = record

    def __iter__(self) -> Iterator[bytes]:
        yield from self._iterable
        self._record.finished = True

    def close(self) -> None:
        if close := getattr(self._iterable, "close", None):
            close()
        self._record.closed.set()


class FakeFalApp:
    """The WSGI application behind `FakeFal`, which documents what it does.

    Args:
        key: The key to accept.
        step_seconds: Seconds between two steps of a queued request, and between two events of a
            stream. None: a stream moves by `advance`, a queued request when its status is read.
        public_url: Returns the URL of uploads and files, without a "/" at its end.
    """

    def __init__(self, key: str, step_seconds: float | None, public_url: Callable[[], str]) -> None:
        self.requests: list[RecordedRequest] = []
        self._authorization = f"Key {key}"
        self._step_seconds = math.inf if step_seconds is None else step_seconds
        self._pace = _Pace(step_seconds)
        self._public_url = public_url
        self._queue: dict[str, QueuedRequest] = {}
        self._files: dict[str, _StoredFile] = {}
        self._scripted: deque[Response] = deque()
        self._fal_routes = _routes(_FAL_ROUTES, host_matching=True)
        self._open_routes = _routes(_OPEN_ROUTES, host_matching=False)

    def advance(self) -> None:
        """Let one stream send one more event."""
        self._pace.advance()

    def stop(self) -> None:
        """Let all streams run to their end without waiting."""
        self._pace.stop()

    def reset(self) -> None:
        """Let all present streams run to their end, and forget all requests.

        Otherwise a stream that one test has left could take another test's `advance`.
        """
        self._pace.stop()
        self._pace = _Pace(None if self._step_seconds == math.inf else self._step_seconds)
        self.requests.clear()

    def answer_next(self, response: Response) -> None:
        """Use this response for the next request to a fal host with the right key."""
        self._scripted.append(response)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        request = Request(environ)
        record = RecordedRequest(
            method=request.method,
            host=request.host,
            request_target=environ["REQUEST_URI"],
            headers={name.lower(): value for name, value in request.headers},
            body=request.get_data(),
        )
        if request.host.endswith(("fal.run", "fal.ai")):
            self.requests.append(record)
            response = self._for_fal(request)
        else:
            response = self._for_all(request)
        return _Noting(response(environ, start_response), record)

    def _for_fal(self, request: Request) -> Response:
        if request.headers.get("Authorization") != self._authorization:
            detail = "Authentication is required to access this application."
            response = _json({"detail": detail}, HTTPStatus.UNAUTHORIZED)
        elif self._scripted:
            response = self._scripted.popleft()
        else:
            response = self._routed(request, self._fal_routes)
        response.headers.setdefault("x-fal-request-id", str(uuid4()))
        return response

    def _for_all(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            response = Response(status=HTTPStatus.NO_CONTENT)
        else:
            response = self._routed(request, self._open_routes)
        response.headers.update(_OPEN_TO_ALL)
        return response

    def _routed(self, request: Request, routes: Map) -> Response:
        try:
            view, values = routes.bind_to_environ(request.environ).match()
            response: Response = getattr(self, f"_{view}")(request, **values)
        except models.InvalidInput as invalid:
            return _json({"detail": invalid.detail}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except HTTPException as error:
            return _json({"detail": error.name}, error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        return response

    # fal.run

    def _run(self, request: Request, endpoint: str) -> Response:
        return _json(models.run(endpoint, _input(request), self._store))

    def _stream(self, request: Request, endpoint: str) -> Response:
        result = models.run(endpoint, _input(request), self._store)
        return _event_stream(self._paced(models.progress(endpoint, result)))

    def _paced(self, events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        pace = self._pace
        for number, event in enumerate(events):
            if number:
                pace.wait()
            yield event

    # queue.fal.run

    def _submit(self, request: Request, endpoint: str) -> Response:
        queued = QueuedRequest(
            endpoint,
            _app(endpoint),
            _input(request),
            self._step_seconds,
            models.work_steps(endpoint),
        )
        self._queue[queued.request_id] = queued
        answer = {"status": "IN_QUEUE", "queue_position": 2, **queued.links()}
        return _about(queued, answer)

    def _status(self, request: Request, app: str, request_id: str) -> Response:
        queued = self._queued(app, request_id)
        answer, logs = queued.look()
        if request.args.get("logs") == "1":
            answer["logs"] = logs
        done = answer["status"] == "COMPLETED"
        return _about(queued, answer, HTTPStatus.OK if done else HTTPStatus.ACCEPTED)

    def _follow(self, request: Request, app: str, request_id: str) -> Response:
        queued = self._queued(app, request_id)
        with_logs = request.args.get("logs") == "1"
        response = _event_stream(self._paced(_statuses(queued, with_logs=with_logs)))
        response.headers["x-fal-request-id"] = request_id
        return response

    def _result(self, request: Request, app: str, request_id: str) -> Response:
        queued = self._queued(app, request_id)
        if queued.cancelled:
            return _about(queued, {"detail": "Request was cancelled"}, HTTPStatus.BAD_REQUEST)
        if not queued.is_done:
            detail = "Request is still in progress"
            return _about(queued, {"detail": detail}, HTTPStatus.BAD_REQUEST)
        return _about(queued, models.run(queued.endpoint, queued.data, self._store))

    def _cancel(self, request: Request, app: str, request_id: str) -> Response:
        queued = self._queued(app, request_id)
        if queued.cancel():
            return _about(queued, {"status": "CANCELLATION_REQUESTED"}, HTTPStatus.ACCEPTED)
        return _about(queued, {"status": "ALREADY_COMPLETED"}, HTTPStatus.BAD_REQUEST)

    def _queued(self, app: str, request_id: str) -> QueuedRequest:
        queued = self._queue.get(request_id)
        if queued is None or queued.app != app:
            raise NotFound
        return queued

    # rest.fal.ai

    def _initiate(self, request: Request) -> Response:
        file_id, url = self._new_file(_input(request))
        return _json({"upload_url": f"{self._public_url()}/upload/{file_id}", "file_url": url})

    _initiate_multipart = _initiate

    def _token(self, request: Request) -> Response:
        apps = _input(request).get("allowed_apps")
        if not isinstance(apps, list) or not apps:
            field, message = "allowed_apps", "Input should be a valid list"
            raise models.InvalidInput(field, message, "list_type", apps)
        return _json(f"fake-token-for-{'-'.join(map(str, apps))}")

    # Uploads and files

    def _new_file(self, data: dict[str, Any]) -> tuple[str, str]:
        file_id = uuid4().hex
        name = str(data.get("file_name") or "").rpartition("/")[2] or "file.bin"
        content_type = str(data.get("content_type") or "application/octet-stream")
        self._files[file_id] = _StoredFile(content_type)
        return file_id, f"{self._public_url()}/files/{file_id}/{quote(name, errors='replace')}"

    def _store(self, name: str, content_type: str, content: bytes) -> str:
        file_id, url = self._new_file({"file_name": name, "content_type": content_type})
        self._files[file_id].content = content
        return url

    def _upload(self, request: Request, file_id: str) -> Response:
        self._stored(file_id).content = request.get_data()
        return Response()

    def _upload_part(self, request: Request, file_id: str, number: int) -> Response:
        self._stored(file_id).parts[number] = request.get_data()
        return _json(_part(number))

    def _complete_upload(self, request: Request, file_id: str) -> Response:
        stored = self._stored(file_id)
        numbers = sorted(stored.parts)
        if _input(request).get("parts") != [_part(number) for number in numbers]:
            return _json({"detail": "The parts do not match"}, HTTPStatus.BAD_REQUEST)
        stored.content = b"".join(stored.parts.pop(number) for number in numbers)
        return Response()

    def _file(self, request: Request, file_id: str, name: str) -> Response:
        stored = self._stored(file_id)
        return Response(stored.content, content_type=stored.content_type)

    def _stored(self, file_id: str) -> _StoredFile:
        stored = self._files.get(file_id)
        if stored is None:
            raise NotFound
        return stored

    def _advance(self, request: Request) -> Response:
        self.advance()
        return Response(status=HTTPStatus.NO_CONTENT)


def _part(number: int) -> dict[str, Any]:
    """Return the name of an uploaded part: the part's answer has it, and so does the completion."""
    return {"partNumber": number, "etag": f"etag-{number}"}


def _app(endpoint: str) -> str:
    """Return the part of an endpoint that the paths of its queued requests have."""
    parts = endpoint.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def _input(request: Request) -> dict[str, Any]:
    """Return a request's input: its JSON object, or the query of a GET."""
    if request.method == "GET":
        return request.args.to_dict()
    try:
        data = json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError) as error:
        message = f"JSON decode error: {error}"
        raise models.InvalidInput("", message, "json_invalid", None) from error
    return models.json_object(data)


def _statuses(queued: QueuedRequest, *, with_logs: bool) -> Iterator[dict[str, Any]]:
    """Yield a request's statuses until its end, each with its new log lines."""
    sent = 0
    while True:
        answer, logs = queued.look()
        if with_logs:
            answer["logs"] = logs[sent:]
            sent = len(logs)
        yield answer
        if answer["status"] == "COMPLETED":
            return


def _json(data: Any, status: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(data), status, content_type="application/json")


def _about(queued: QueuedRequest, data: Any, status: int = HTTPStatus.OK) -> Response:
    response = _json(data, status)
    response.headers["x-fal-request-id"] = queued.request_id
    return response


def _event_stream(events: Iterable[dict[str, Any]]) -> Response:
    lines = (f"data: {json.dumps(event)}\n\n" for event in events)
    return Response(lines, content_type="text/event-stream; charset=utf-8")
