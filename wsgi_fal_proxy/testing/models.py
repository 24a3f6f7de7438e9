"""The fake fal's models: from an input to pictures, text, or fal's 422."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from wsgi_fal_proxy.testing.picture import png

StoreFile = Callable[[str, str, bytes], str]
"""Takes a file's name, content type and content. Stores the file and returns its URL."""

# fal's names for `image_size`, in pixels.
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
# Steps of the work in the queue, partial results of a stream, and either of a slow model.
_STEPS: Final = 2
_PARTIALS: Final = 4
_SLOW_STEPS: Final = 60
# Pixels per side of the blocks in partial pictures, which get finer.
_BLOCKS: Final = (128, 64, 32, 16)
_MAX_DIGITS: Final = 19  # of the largest number that is accepted


class InvalidInput(Exception):
    """fal's answer 422. `detail` has the form that its model servers (FastAPI) give it."""

    def __init__(self, field: str, message: str, kind: str, value: object) -> None:
        super().__init__(message)
        location = ["body", field] if field else ["body"]
        self.detail: list[dict[str, object]] = [
            {"loc": location, "msg": message, "type": kind, "input": value}
        ]


def work_steps(endpoint: str) -> int:
    """Return the number of steps of a queued request's work."""
    return _SLOW_STEPS if _is_slow(endpoint) else _STEPS


def run(endpoint: str, fields: dict[str, Any], store: StoreFile) -> dict[str, Any]:
    """Run a model and return its result.

    Args:
        endpoint: The model's id, such as `fal-ai/flux/dev`. Ids with "llm" write text, ids with
            "fails" refuse every input, and all others paint.
        fields: The input. All models need a `prompt`. Painters also take `seed`, `image_size`,
            `num_images` and `image_url`; ids with "image-to-image" need an `image_url`.
        store: Stores the pictures.

    Raises:
        InvalidInput: A field is missing or invalid.
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
    """Yield the events of a stream: partial results, then the result."""
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
    """Return an input that is a JSON object, as all of fal's inputs are.

    Raises:
        InvalidInput: The input is not a JSON object.
    """
    if not isinstance(data, dict):
        raise InvalidInput("", "Input should be an object", "model_type", data)
    return data


def _is_slow(endpoint: str) -> bool:
    return "slow" in endpoint


def _blurred(result: dict[str, Any], step: int, steps: int) -> dict[str, Any]:
    """Return the result's first picture as it looks at this step: in blocks, which get finer."""
    image, block = result["images"][0], _BLOCKS[(step - 1) * len(_BLOCKS) // steps]
    size = image["width"], image["height"]
    content = png(result["prompt"], result["seed"], *size, block=block)
    # A data URL, as fal sends pictures that it does not store (its `sync_mode`).
    return {**image, "url": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


def _refused(prompt: str) -> InvalidInput:
    message = "The content could not be processed: it was flagged by a content checker."
    refused = InvalidInput("prompt", message, "content_policy_violation", prompt)
    # fal lists the errors of all fields at once.
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
    # fal's servers also accept digits as text, and a query has nothing else.
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
