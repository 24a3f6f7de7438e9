"""Material for targets that are nearly right: what parsers are known to disagree about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

# Of each part, what is accepted and what is not.
SCHEMES = (
    ["https://", "HTTPS://", "hTTps://"],
    [
        "https:/",
        "https:",
        "https:\\\\",
        "https:///",
        "//",
        "http://",
        "wss://",
        " https://",
        "",
        "https://\t",
        "h\nttps://",
        "https://@",
        "https://a@",
        "https://a:b@",
        "https://:@",
    ],
)
HOSTS = (
    [
        "fal.run",
        "queue.fal.run",
        "rest.fal.ai",
        "fal.ai",
        "FAL.RUN",
        "a.b-c.9.fal.run",
        "rest.alpha.fal.ai",
        "1.fal.run",
        "0x7f.fal.run",
        "ab--c.fal.run",
        "a" * 63 + ".fal.run",
    ],
    [
        "evil.example",
        "evilfal.run",
        "fal.run.evil.example",
        "fal.run.",
        ".fal.run",
        "fal..run",
        "xn--fal-9ja.fal.run",
        "a.xn--p1ai.fal.run",
        "XN--A.fal.ai",
        "-a.fal.run",
        "a-.fal.run",
        "a_b.fal.run",
        "127.0.0.1",
        "[::1]",
        "0x7f.1",
        "%66al.run",
        "fal%2erun",
        "fal\u3002run",
        "f\u00e4l.run",
        "\u2024fal.run",
        "fal.run\xad",
        "fal.run@evil.example",
        "localhost",
        "evil.example\\.fal.run",
        "evil.example/.fal.run",
        "evil.example#.fal.run",
        "evil.example?.fal.run",
        "a" * 64 + ".fal.ai",
        "a." * 124 + "fal.run",
    ],
)
PORTS = ["", ":443"], [":", ":80", ":0443", ":+443", ":443:443", ":443@evil.example", ":\u0664"]
PATHS = (
    [
        "",
        "/",
        "/fal-ai/flux/dev",
        "/a/../b",
        "/a//b",
        "//a",
        "/%2e%2e/%2F%5c",
        "/:@",
        "/*",
        "/;a=b",
        "/a'b|c\"<>`{}^[]",
        "/%",
        "/%zz",
    ],
    ["/a b", "/a\tb", "/a\\b", "/a\x00", "/a\x7f", "/a\u00e9", "/a,b", "\\"],
)
QUERIES = (
    ["", "?", "?a=1&b=2", "?a[0]=%c3+;|'&&=", "?a?b", "?a=https://evil.example/", "?a,b", "?@:/"],
    [
        "?a,https://evil.example/",
        "?a,//b",
        "?,",
        "?a b",
        "?\\",
        "?#",
        "#",
        "#a",
        "?\u20ac",
        "?\x1f",
    ],
)
BETWEEN = [
    "@",
    ":",
    "\\",
    "/",
    ".",
    "#",
    "?",
    "%",
    "\t",
    "\r",
    "\n",
    " ",
    "\x00",
    "\u00ad",
    "\u200d",
]


def near_target(draw: random.Random) -> str:
    """Give a text that is a target, or was one before it was spoilt."""
    parts = [
        draw.choice(good if draw.random() < 0.9 else bad)
        for good, bad in (SCHEMES, HOSTS, PORTS, PATHS, QUERIES)
    ]
    if draw.random() < 0.1:
        parts.insert(draw.randrange(len(parts) + 1), draw.choice(BETWEEN))
    text = "".join(parts)
    if draw.random() < 0.2:
        position = draw.randrange(len(text) + 1)
        code = draw.randrange(draw.choice([0x80, 0x80, 0x100, 0x3100]))
        text = text[:position] + chr(code) + text[position + draw.randrange(2) :]
    return text
