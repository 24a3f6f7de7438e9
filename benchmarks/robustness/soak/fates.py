"""The names of calls, what chance makes of them, and the bounds that both sides know."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

READ_TIMEOUT: Final = 2.0
TOTAL_TIMEOUT: Final = 4.0
CONNECT_TIMEOUT: Final = 2.0
"""The proxy's options, in seconds."""
ATTEMPT_HEADER: Final = "x-fal-soak-attempt"
"""Says which repeat a call is; the call itself stays the same. fal's fields go up."""
HOLD_SECONDS: Final = 1.2
"""The time that an answer to `/hold` takes."""
BIG_BYTES: Final = 16_000_000
"""Bytes in an answer to `/big`: more than the buffers between fal and a client hold."""

_END: Final = b"|end"


def chance(*what: object) -> random.Random:
    """Make a source of chance that is the same in each run for the same thing."""
    return random.Random("/".join(map(str, what)))  # noqa: S311 - chance, not a secret


def content(name: str, size: int) -> bytes:
    """Make an answer that tells whose it is and where it ends."""
    return f"{name}|".encode() + b"x" * size + _END


class Reading(NamedTuple):
    """How a client judges content that it took to be complete.

    Attributes:
        is_mine: It begins with the call's own name.
        is_whole: It has its end.
    """

    is_mine: bool
    is_whole: bool


def reading(name: str, received: bytes) -> Reading:
    """Compare the content of an answer with the call."""
    begin = f"{name}|".encode()
    return Reading(received[: len(begin)] == begin[: len(received)], received.endswith(_END))
