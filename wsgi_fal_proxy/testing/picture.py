"""A real picture for any prompt. The same prompt and seed give the same picture."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_DISCS: Final = 7


def png(prompt: str, seed: int, width: int, height: int, *, block: int = 1) -> bytes:
    """Paint a diagonal gradient with discs on it, in colours drawn from the prompt and the seed.

    Args:
        prompt: Any text.
        seed: Any whole number.
        width: Pixels.
        height: Pixels.
        block: Pixels per side of the blocks in which it is painted. 1, the default, shows all
            detail.

    Returns:
        A PNG file (ISO/IEC 15948) with eight bits each for red, green and blue.
    """
    # It must be reproducible, not unpredictable. Bytes seed it alike in every process.
    draw = random.Random(f"{seed}:{prompt}".encode(errors="surrogatepass"))  # noqa: S311
    ramps = _ramps(draw, width + height)
    discs = [
        (
            draw.randrange(width),
            draw.randrange(height),
            draw.randrange(1, max(2, min(width, height) // 4)),
            draw.randbytes(3),
        )
        for _ in range(_DISCS)
    ]
    rows = bytearray()
    for y in range(0, height, block):
        row = bytearray(3 * width)
        for channel, ramp in enumerate(ramps):
            row[channel::3] = ramp[y : y + width]
        for centre_x, centre_y, radius, colour in discs:
            half = radius**2 - (y - centre_y) ** 2
            if half > 0:
                left = max(0, centre_x - int(half**0.5))
                right = min(width, centre_x + int(half**0.5))
                row[3 * left : 3 * right] = colour * max(0, right - left)
        # Only blocks need a loop over the pixels, which takes seconds for a whole picture.
        if block > 1:
            row = bytearray().join(row[3 * x : 3 * x + 3] * block for x in range(0, width, block))
        # Each row begins with its filter type; 0 is none.
        rows += (b"\0" + row[: 3 * width]) * min(block, height - y)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(bytes(rows), 6)),
            _chunk(b"IEND", b""),
        )
    )


def _ramps(draw: random.Random, length: int) -> list[bytes]:
    ramps = []
    for _ in range(3):
        start, end = draw.randrange(256), draw.randrange(256)
        ramps.append(bytes(start + (end - start) * i // length for i in range(length)))
    return ramps


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
