"""fal's answer: its head, and its content as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from wsgi_fal_proxy._upstream.errors import IN_THE_CONTENT
from wsgi_fal_proxy._upstream.wire import receive
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from wsgi_fal_proxy._http.fields import Fields
    from wsgi_fal_proxy._http.h1 import ResponseHead
    from wsgi_fal_proxy._upstream.call import Call


class UpstreamResponse:
    """A response whose head is here and whose content may still come.

    Iterating gives the content in pieces as they arrive, `PIECE_BYTES` at most each. When the
    content is complete, the connection goes back to its pool.

    Args:
        call: The call, which holds the connection.
        head: The head of the response.
        received: The bytes that came after the head.
        reusable: Whether the connection may carry another request after this response.
        read_timeout: Seconds that each piece may take. None: no limit.

    Attributes:
        status: Such as 200.
        phrase: The reason phrase as it came, perhaps empty.
        fields: All header fields in their order.
        length: Bytes of content, if the head says so, else None.

    Raises:
        MalformedResponse: What came after the head is not the content that it announces.
    """

    __slots__ = (
        "_call",
        "_framing",
        "_read_timeout",
        "_reusable",
        "_waiting",
        "fields",
        "length",
        "phrase",
        "status",
    )

    def __init__(
        self,
        call: Call,
        head: ResponseHead,
        *,
        received: bytes,
        reusable: bool,
        read_timeout: float | None,
    ) -> None:
        self.status: int = head.status
        self.phrase: str = head.phrase
        self.fields: Fields = head.fields
        self._framing = head.framing
        self.length: int | None = head.framing.length
        self._call = call
        self._reusable = reusable
        self._read_timeout = read_timeout
        # Content that is here and has not been given yet.
        self._waiting = head.framing.feed(received)

    def take_whole(self) -> bytes | None:
        """If the whole content came with the head, release the connection and return it."""
        framing = self._framing
        if not framing.complete:
            return None
        self._call.release_connection(reusable=self._reusable and not framing.excess)
        return self._waiting

    @property
    def has_begun(self) -> bool:
        """Whether content has arrived, or the answer has none."""
        return bool(self._waiting) or self._framing.complete

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Return the next piece as soon as it is here.

        Raises:
            Truncated: The content broke off, is malformed, or did not go on in time.
        """
        framing = self._framing
        content, self._waiting = self._waiting, b""
        call = self._call
        # The deadline is for content. Framing that drips in does not extend it.
        deadline = call.deadline_for(self._read_timeout)
        try:
            while not content and not framing.complete:
                connection = call.connection
                if connection is None:
                    raise ConnectionError("the connection is closed")
                if data := receive(connection.sock, deadline):
                    content = framing.feed(data)
                else:
                    framing.end()
        except IN_THE_CONTENT as error:
            call.release_connection(reusable=False)
            why = "total_timeout ran out" if call.has_timed_out() else error or type(error).__name__
            raise Truncated(f"The target's answer broke off: {why}") from error
        if framing.complete:
            call.release_connection(reusable=self._reusable and not framing.excess)
        if not content:
            raise StopIteration
        return content
