"""Decodes an answer that has a content coding although the proxy asked for none."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy.errors import Truncated, UpstreamCodingUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsgi_fal_proxy._http.fields import Fields

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
# RFC 9110 section 8.4.1. "deflate" means the zlib format there.
_WINDOW_BITS: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


def content_coding(fields: Fields) -> str | None:
    """Return the content coding to decode. None if there is none.

    Raises:
        UpstreamCodingUnsupported: Python cannot decode it, or there is more than one.
    """
    if "content-encoding" not in fields.names:
        return None
    codings = [
        coding
        for value in fields.values("content-encoding")
        for part in value.split(",")
        if (coding := part.strip(" \t").lower()) not in {"", "identity"}
    ]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        raise UpstreamCodingUnsupported
    return codings[0]


def decoded(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Decode content piece by piece. No piece is larger than `PIECE_BYTES`.

    Args:
        pieces: The coded content.
        coding: The result of `content_coding`.

    Raises:
        Truncated: The content is corrupt, or ends too early.
    """
    decoder = zlib.decompressobj(_WINDOW_BITS[coding])
    begun = False
    for piece in pieces:
        waiting = piece
        while waiting:
            begun = True
            if decoder.eof:
                # RFC 1952 section 2.2: a gzip file is a series of members. Like other readers,
                # skip zeros after a member as padding.
                waiting = waiting.lstrip(b"\0")
                if not waiting:
                    break
                decoder = zlib.decompressobj(_WINDOW_BITS[coding])
            try:
                content = decoder.decompress(waiting, PIECE_BYTES)
            except zlib.error as error:
                detail = "The target's answer is corrupt: its content coding cannot be decoded."
                raise Truncated(detail) from error
            waiting = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if content:
                yield content
    # Empty content is valid without any coded data.
    if begun and not decoder.eof:
        raise Truncated
