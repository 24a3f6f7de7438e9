"""What the fake fal's models make of an input: pictures, text, or fal's 422."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from wsgi_fal_proxy.testing.picture import png

StoreFile = Callable[[str, str, bytes], str]
"""Keeps a file, given its name, content type and content; gives its URL."""

# The names that fal's image models take for `image_size`, in pixels.
_SIZES: Final = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
_DEFAULT_SIZE: Final = "square"
_MAX_PIXELS_PER_SIDE: Final = 2_048
_MAX_IMAGES: Final = 4
_URL_SCHEMES: Final = ("https://", "http://", "data:")
# Steps of the work in the queue, partial results of a stream, and both where a model is slow.
_STEPS: Final = 2
_PARTIALS: Final = 4
_SLOW_STEPS: Final = 60
# Pixels to a side of the blocks that partial pictures are made of: finer and finer.
_BLOCKS: Final = (128, 64, 32, 16)
_MAX_DIGITS: Final = 19  # as many as the largest number that is accepted has


class InvalidInput(Exception):
    """fal's answer 422: `detail` is what its model servers (FastAPI) put under that name."""

    def __init__(self, field: str, message: str, kind: str, value: object) -> None:
        super().__init__(message)
        location = ["body", field] if field else ["body"]
        self.detail: list[dict[str, object]] = [
            {"loc": location, "msg": message, "type": kind, "input": value}
        ]


def work_steps(endpoint: str) -> int:
    """Give how many steps a queued request takes, once its model is loaded."""
    return _SLOW_STEPS if _is_slow(endpoint) else _STEPS


def run(endpoint: str, fields: dict[str, Any], store: StoreFile) -> dict[str, Any]:
    """Run a model to its result.

    Args:
        endpoint: Its id, such as `fal-ai/flux/dev`. One with "llm" in it writes, others paint; one
            with "fails" in it refuses every input.
        fields: The input. Every model needs a `prompt`; painters also take `seed`, `image_size`,
            `num_images` and `image_url`, which those with "image-to-image" in their id need.
        store: Keeps the pictures.

    Raises:
        InvalidInput: The input lacks something, or has it wrong.
    """
    prompt = _text(fields, "prompt")
    if "fails" in endpoint:
        raise _refused(prompt)
    if "llm" in endpoint:
        return {"output": _written(prompt), "partial": False, "error": None}
    if "image-to-image" in endpoint or fields.get("image_url") is not None:
        _url(fields, "image_url")
    seed = _whole(fields, "seed", zlib.crc32(prompt.encode(errors="surrogatepass")), 0, 2**63)
    count = _whole(fields, "num_images", 1, 1, _MAX_IMAGES)
    width, height = _size(fields.get("image_size", _DEFAULT_SIZE))
    images = [
        {
            "url": store("picture.png", "image/png", png(prompt, seed + index, width, height)),
            "width": width,
            "height": height,
            "content_type": "image/png",
        }
        for index in range(count)
    ]
    return {
        "images": images,
        "timings": {"inference": 0.01},
        "seed": seed,
        "has_nsfw_concepts": [False] * count,
        "prompt": prompt,
    }


def progress(endpoint: str, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the events by which a model streams its result: partial ones, then the result."""
    steps = _SLOW_STEPS if _is_slow(endpoint) else _PARTIALS
    for step in range(1, steps + 1):
        if "llm" in endpoint:
            words = result["output"].split()
            begun = " ".join(words[: len(words) * step // (steps + 1)])
            yield {**result, "output": begun, "partial": True}
        else:
            yield {"progress": step / (steps + 1), "images": [_blurred(result, step, steps)]}
    yield result if "llm" in endpoint else {"progress": 1.0, **result}


def json_object(data: object) -> dict[str, Any]:
    """Give an input if it is a JSON object, which every one of fal's is.

    Raises:
        InvalidInput: It is not.
    """
    if not isinstance(data, dict):
        raise InvalidInput("", "Input should be an object", "model_type", data)
    return data


def _is_slow(endpoint: str) -> bool:
    return "slow" in endpoint


def _blurred(result: dict[str, Any], step: int, steps: int) -> dict[str, Any]:
    """Give what can be seen of a result's first picture by then: its blocks get finer."""
    image, block = result["images"][0], _BLOCKS[(step - 1) * len(_BLOCKS) // steps]
    size = image["width"], image["height"]
    content = png(result["prompt"], result["seed"], *size, block=block)
    # Within the event itself, as fal has it where a picture is not to be kept (its `sync_mode`).
    return {**image, "url": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


def _refused(prompt: str) -> InvalidInput:
    message = "The content could not be processed: it was flagged by a content checker."
    refused = InvalidInput("prompt", message, "content_policy_violation", prompt)
    # fal tells of every field at once.
    message = "The image is not large enough."
    refused.detail += InvalidInput("image_url", message, "image_too_small", None).detail
    return refused


def _written(prompt: str) -> str:
    return f"You asked: {prompt.strip()} This is the fake fal, so no model has thought about it."


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise InvalidInput(name, "Field required", "missing", fields)
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidInput(name, "Input should be a valid string", "string_type", value)
    if not value.strip():
        message = "String should have at least 1 character"
        raise InvalidInput(name, message, "string_too_short", value)
    return value


def _url(fields: dict[str, Any], name: str) -> None:
    if not _text(fields, name).startswith(_URL_SCHEMES):
        raise InvalidInput(name, "Input should be a valid URL", "url_parsing", fields[name])


def _whole(fields: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    # As fal's own servers take it, and as a query can only write it.
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(name, "Input should be a valid integer", "int_type", value)
    if not least <= value <= most:
        message = f"Input should be from {least} to {most}"
        raise InvalidInput(name, message, "out_of_range", value)
    return value


def _size(size: object) -> tuple[int, int]:
    if isinstance(size, dict):
        width, height = (
            _whole(size, side, 512, 1, _MAX_PIXELS_PER_SIDE) for side in ("width", "height")
        )
        return width, height
    if not isinstance(size, str) or size not in _SIZES:
        message = f"Input should be an object or one of {', '.join(_SIZES)}"
        raise InvalidInput("image_size", message, "enum", size)
    return _SIZES[size]
