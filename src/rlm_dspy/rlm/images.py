"""Images among the inputs: cells see a line of text for each, and a sub-model that can see looks at them."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dspy

from rlm_dspy.corpus.readers import converter
from rlm_dspy.corpus.readers.reader import UnreadableError
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence.locate import fields_of
from rlm_dspy.metering import metadata
from rlm_dspy.rlm.step_texts import without_markers

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WebP": "image/webp"}
MAX_FILE_BYTES = 50 << 20  # bytes of an image or a PDF
_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
MAX_PIXELS = 50_000_000  # of an image that the host cuts
MAX_HEAD_BYTES = 1 << 20  # in which the size of a JPEG is looked for
MAX_NAMED = 10  # files named in a prompt
MAX_IMAGES = 20  # images of one call
MAX_MEDIA_DEPTH = 20  # of lists, dicts and records in which images are looked for
MEDIA = (dspy.Image, dspy.Audio, dspy.File)
BASE64 = ";base64,"


class ImageHandle(str):
    """The line of text that stands for an image in the REPL, in prompts and in records; it holds no pixel."""

    __slots__ = ()


class Images:
    """The images of a run by their handle; only these can be looked at.

    Args:
        values: the inputs; images in them, also in lists and dicts, are replaced in :attr:`values`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._by_handle: dict[str, dspy.Image] = {}
        self._corpora = [value for value in values.values() if hasattr(value, "path_of") and hasattr(value, "skipped")]
        self.values = {name: with_media(value, self._handle_of, name) for name, value in values.items()}

    def __bool__(self) -> bool:
        return bool(self._by_handle)

    def _handle_of(self, value: Any, name: str) -> ImageHandle:
        if not isinstance(value, dspy.Image):
            return ImageHandle(f"[{describe_media(value)}; no function here can open it]")
        number = len(self._by_handle) + 1
        handle = ImageHandle(f"[image {number}: {describe_image(value)}; look at it with view({name}, question)]")
        self._by_handle[handle] = value
        return handle

    def check_texts(self, texts: Iterable[Any]) -> None:
        """Refuse the handle of an image in a text for a model, which would see the handle and make up the rest.

        Raises:
            ValueError: there is one.
        """
        for text in texts:
            shown = next((handle for handle in self._by_handle if handle in str(text)), None)
            if shown is not None:
                raise ValueError(f"a model that is asked in words does not see {shown}: use view(…, question)")

    def file_names(self) -> list[str]:
        """Return the images and PDFs of the input corpora, read or not."""
        names = [file.name for corpus in self._corpora for file in (*corpus.documents, *corpus.skipped)]
        return [name for name in names if name.lower().endswith((*IMAGE_ENDINGS, ".pdf"))]

    def files_note(self, model: str) -> str:
        """Return the line about images and PDFs of a corpus for a sub-model that is known to see, else ""."""
        if not self._corpora or not metadata(model).get("supports_vision"):
            return ""
        names = self.file_names()
        if not names:
            return ""
        listed = ", ".join(names[:MAX_NAMED])
        if len(names) > MAX_NAMED:
            listed += f" and {len(names) - MAX_NAMED} more"
        return (
            "view(name, question) asks a model about an image of the corpus, view(name, question, page=2) about a page "
            f"of a PDF: {listed}"
        )

    def _file_image(self, name: str, page: int | None) -> dspy.Image | None:
        """Return an image file of a corpus, or a page of a PDF in it; None if no corpus has the name."""
        if name not in self.file_names():
            return None
        path = next(filter(None, (corpus.path_of(name) for corpus in self._corpora)), None)
        if path is None or "://" in path or os.path.islink(path):
            raise ValueError(f"{name!r} is not a file of its own, so it cannot be looked at")
        data = _file_bytes(path, name)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{name!r} has more than {MAX_FILE_BYTES >> 20} MB")
        if b"%PDF-" in data[:1024]:
            try:
                data = converter.shared().page_image(data, 1 if page is None else page)
            except UnreadableError as error:
                raise ValueError(f"{name!r}: {error}") from error
        elif page is not None:
            raise ValueError(f"page= is for a PDF; {name!r} is not one")
        kind = _pixel_size(data)[0]
        if kind not in MEDIA_TYPES:
            raise ValueError(f"{name!r} is neither a PNG, JPEG, GIF or WebP image nor a PDF")
        return dspy.Image(f"data:{MEDIA_TYPES[kind]}{BASE64}{base64.b64encode(data).decode()}")

    def image_of(self, handle: Any, page: int | None = None) -> dspy.Image:
        """Return the image of a handle, or an image file or a page of a PDF of an input corpus.

        Raises:
            ValueError: it is neither: addresses and other files are never opened.
        """
        if isinstance(handle, str):
            found = self._by_handle.get(handle)
        else:
            found = None
        if found is not None and page is not None:
            raise ValueError(f"page= is for the name of a PDF; {str(handle)[:80]!r} is an image")
        if found is None and isinstance(handle, str):
            found = self._file_image(handle, page)
        if found is None:
            known = ", ".join(handle.partition(":")[0] + "]" for handle in self._by_handle) or "none"
            raise ValueError(f"{str(handle)[:80]!r} is not an image of this run; pass the variable of one ({known})")
        return found

    def typed_inputs(self, signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a typed call with the images that its signature asks for.

        Raises:
            ValueError: an input that is to be an image is not one of this run.
        """
        prepared = dict(inputs)
        images = (dspy.Image, list[dspy.Image])
        self.check_texts(
            inputs[name] for name, field in signature.input_fields.items() if field.annotation not in images
        )
        for name, field in signature.input_fields.items():
            if field.annotation is dspy.Image:
                prepared[name] = self.image_of(inputs[name])
            elif field.annotation == list[dspy.Image]:
                prepared[name] = [self.image_of(handle) for handle in inputs[name]]
            elif "dspy" in str(field.annotation) and "Image" in str(field.annotation):
                raise ValueError(f"the input {name!r} must be dspy.Image or list[dspy.Image] to hold an image")
        return prepared


def with_media(value: Any, replace: Callable[[Any, str], Any], name: str, depth: int = 0) -> Any:
    """Return a value with its images, audio and files replaced; the parts that have any are copied.

    Args:
        value: an input; its lists, dicts, models and dataclasses are searched.
        replace: returns the stand-in for an image, audio or file, given it and its place in the input.
        name: the name of the input.
        depth: how deep the value lies in the input.
    """
    if isinstance(value, MEDIA):
        return replace(value, name)
    if not holds_media(value, depth):
        return value
    if type(value) in (list, tuple):
        return type(value)(with_media(item, replace, f"{name}[{at}]", depth + 1) for at, item in enumerate(value))
    if type(value) is dict:
        return {key: with_media(item, replace, f"{name}[{key!r}]", depth + 1) for key, item in value.items()}
    fields = _record_fields(value)
    replaced = {field: with_media(item, replace, f"{name}.{field}", depth + 1) for field, item in fields.items()}
    if isinstance(value, tuple):
        return value._replace(**replaced)  # type: ignore[attr-defined]
    shown = copy.copy(value)
    for field, item in replaced.items():
        object.__setattr__(shown, field, item)  # a pydantic model would refuse a value of another type
    return shown


def holds_media(value: Any, depth: int = 0) -> bool:
    """Return whether a value is an image, audio or file, or has any in its lists, dicts, models or dataclasses."""
    if isinstance(value, MEDIA):
        return True
    if depth == MAX_MEDIA_DEPTH or value is None or isinstance(value, (str, int, float, bytes)):
        return False
    if type(value) in (list, tuple):
        return any(holds_media(item, depth + 1) for item in value)
    if type(value) is dict:
        return any(holds_media(item, depth + 1) for item in value.values())
    return any(holds_media(item, depth + 1) for item in _record_fields(value).values())


def _record_fields(value: Any) -> dict[str, Any]:
    if isinstance(value, (Mapping, dspy.History)):
        return {}
    return fields_of(value) or {}


def describe_media(value: Any) -> str:
    """Return a line about an image, audio or file: its kind, its size and a hash, none of its content."""
    if isinstance(value, dspy.Image):
        return f"image: {describe_image(value)}"
    if isinstance(value, dspy.Audio):
        kind, data = f"audio: {value.audio_format}", value.data
    else:
        kind, data = f"file: {value.filename or value.file_id or 'without a name'}", value.file_data or ""
    if not data:
        return kind
    digest = hashlib.sha256(data.encode()).hexdigest()[:12]
    return f"{kind}, about {len(data) * 3 // 4:,} bytes, sha256 {digest}"


def _file_bytes(path: str, name: str) -> bytes:
    """Return the bytes of a regular file; a pipe in its place is not waited for."""
    try:
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{name!r} is not a regular file")
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read: {error.strerror}") from error


def holds_image(value: Any) -> bool:
    """Return whether a value is an image or a list of images."""
    return isinstance(value, dspy.Image) or (
        type(value) is list and any(isinstance(item, dspy.Image) for item in value)
    )


def without_parts(value: Any) -> Any:
    """Return an input of a call with images, changed so that no text in it can pass for a content part."""
    if isinstance(value, dspy.Image) or value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [without_parts(item) for item in value]
    if isinstance(value, dict):
        return {without_markers(str(key)): without_parts(item) for key, item in value.items()}
    return without_markers(str(value))


def check_vision(model: str) -> None:
    """Refuse a model that is known not to see, before the first paid call.

    Raises:
        ConfigurationError: the packaged table has the model and does not say that it sees.
    """
    facts = metadata(model)
    if facts and not facts.get("supports_vision"):
        raise ConfigurationError(f"the sub-model {model} cannot see images; pass sub_lm= with a model that can")


def cropped_image(image: dspy.Image, box: Any) -> dspy.Image:
    """Return a part of an image.

    Args:
        image: with its bytes, not an address.
        box: left, top, right and bottom in pixels.

    Raises:
        ValueError: the box is empty or not four numbers, the image cannot be cut, or Pillow is not installed.
    """
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise ValueError("a part of an image needs the package Pillow; look at the whole image") from None
    numbers = list(box) if isinstance(box, (list, tuple)) else []
    if len(numbers) != 4 or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"box must be (left, top, right, bottom) in pixels, not {str(box)[:80]}")
    data = image_bytes(image)
    if data is None:
        raise ValueError("this image is an address, so a part of it cannot be cut; look at the whole image")
    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP")) as whole:
            if whole.width * whole.height > MAX_PIXELS:
                raise ValueError(f"an image of {whole.width}×{whole.height} pixels is too large to be cut")
            left, top = max(0, int(numbers[0])), max(0, int(numbers[1]))
            right, bottom = min(whole.width, int(numbers[2])), min(whole.height, int(numbers[3]))
            if left >= right or top >= bottom:
                raise ValueError(f"the box {numbers} holds no pixel of an image of {whole.width}×{whole.height}")
            file = io.BytesIO()
            whole.crop((left, top, right, bottom)).save(file, "PNG")
    except (OSError, OverflowError, Pillow.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be read: {error}") from error
    return dspy.Image(f"data:image/png{BASE64}{base64.b64encode(file.getvalue()).decode()}")


def image_bytes(image: dspy.Image) -> bytes | None:
    """Return the bytes of an image, None if it is an address."""
    head, mark, body = image.url.partition(BASE64)
    if not head.startswith("data:") or not mark:
        return None
    try:
        return base64.b64decode(body)
    except ValueError:
        return None


def describe_image(image: dspy.Image) -> str:
    """Return kind, size in pixels and bytes, and hash, such as ``PNG 1240×1754, 312 KB, sha256 0123456789ab``."""
    data = image_bytes(image)
    if data is None:
        return "at an address"
    kind, size = _pixel_size(data)
    if size is not None:
        width, height = size
        kind = f"{kind} {width}×{height}"
    if len(data) < 10_000:
        shown = f"{len(data):,} bytes"
    else:
        shown = f"{len(data) // 1000:,} KB"
    return f"{kind}, {shown}, sha256 {hashlib.sha256(data).hexdigest()[:12]}"


def _pixel_size(data: bytes) -> tuple[str, tuple[int, int] | None]:
    """Return the kind of an image and its width and height, as far as its head says."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return "PNG", struct.unpack(">II", data[16:24])
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        return "GIF", struct.unpack("<HH", data[6:10])
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", None
    if data.startswith(b"\xff\xd8"):
        return "JPEG", _jpeg_size(data)
    return "image", None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the frame header of a JPEG."""
    at = 2
    data = data[:MAX_HEAD_BYTES]
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None
