"""The fake fal's queue: requests move from a place in line to a result."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final
from uuid import uuid4

# The places in line. A request takes one step for each of them, one to load its model, then the
# steps of its work, and one to its end.
_PLACES: Final = (2, 1, 0)


@dataclass(slots=True)
class QueuedRequest:
    """One submitted request.

    The request moves one step when its status is read, and also every `step_seconds`. A client that
    polls often sees every step, and a request that nobody polls ends, too.

    Attributes:
        endpoint: The endpoint that it was submitted to, such as `fal-ai/flux/dev`.
        app: The part of the endpoint that its own paths have, such as `fal-ai/flux`.
        data: The input.
        step_seconds: Seconds for a step. `math.inf`: only reading the status moves it.
        work_steps: Steps of the work, after the wait in line and the loading of the model.
        request_id: The request's id.
        cancelled: Whether it was cancelled.
    """

    endpoint: str
    app: str
    data: dict[str, Any]
    step_seconds: float = math.inf
    work_steps: int = 2
    request_id: str = field(default_factory=lambda: str(uuid4()))
    cancelled: bool = False
    _submitted: float = field(default_factory=monotonic)
    _looks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """The URL of the result. The URLs of status and cancel are below it."""
        return f"https://queue.fal.run/{self.app}/requests/{self.request_id}"

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or the request was cancelled."""
        return self.cancelled or self._step() == self._last

    @property
    def _last(self) -> int:
        return len(_PLACES) + 1 + self.work_steps

    def _step(self) -> int:
        elapsed = monotonic() - self._submitted
        if elapsed >= self._last * self.step_seconds:
            return self._last
        return min(max(self._looks, int(elapsed / self.step_seconds)), self._last)

    def links(self) -> dict[str, str]:
        """Return the fields that all answers about a request have."""
        return {
            "request_id": self.request_id,
            "response_url": self.url,
            "status_url": f"{self.url}/status",
            "cancel_url": f"{self.url}/cancel",
        }

    def look(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Return the status and all log lines so far. Then move one step."""
        answer: dict[str, Any]
        with self._lock:
            step = self._last if self.cancelled else self._step()
            self._looks = step + 1
        if step < len(_PLACES):
            answer = {"status": "IN_QUEUE", **self.links(), "queue_position": _PLACES[step]}
        elif step < self._last:
            answer = {"status": "IN_PROGRESS", **self.links()}
        else:
            answer = {"status": "COMPLETED", **self.links()}
            if self.cancelled:
                answer["error"] = "Request was cancelled"
            else:
                answer["metrics"] = {"inference_time": 0.01}
        return answer, self._logs(step)

    def _logs(self, step: int) -> list[dict[str, str]]:
        work = [f"step {number} of {self.work_steps}" for number in range(1, self.work_steps + 1)]
        written = max(0, step + 1 - len(_PLACES))
        return [_log(message) for message in ["loading the model", *work][:written]]

    def cancel(self) -> bool:
        """Cancel the request. Returns whether it was still unfinished."""
        with self._lock:
            if self.is_done:
                return False
            self.cancelled = True
            return True


def _log(message: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat()
    return {"message": message, "level": "INFO", "source": "USER", "timestamp": now}
