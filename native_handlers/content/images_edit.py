"""What a read asks of an image, and the arithmetic of it; no pixels here.

Source of the rules: weed/server/volume_server_handlers_read.go shouldResizeImages and shouldCropImages,
weed/images/resizing.go, and the arithmetic of the Go library "imaging" that it calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.http.go_numbers import parse_int_or_zero

if TYPE_CHECKING:
    from native_handlers.http.query import Query

CROPPED = frozenset((".png", ".jpg", ".jpeg", ".gif"))
RESIZED = CROPPED | {".webp"}
_LARGE_SIDE = 100
"""From here on both sides, filling cuts first and scales then; smaller images are scaled first."""

Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are just outside."""


@dataclass(frozen=True, slots=True)
class ImageEdit:
    """What to make of an image whose name ends in `ext`: cut it if `crop` says so, then scale it.

    `width` and `height` are as asked for, 0 where nothing was; both 0 is no scaling.
    """

    ext: str
    crop: Box | None
    width: int
    height: int
    mode: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """Cut to `before`, scale to `size`, cut to `after`. A `size` with a zero leaves nothing of the image."""

    size: Size
    before: Box | None = None
    after: Box | None = None


def wanted_edit(ext: str, query: Query) -> ImageEdit | None:
    """The edit that `query` asks for of a file with the extension `ext`, in lower case; None where there is none."""
    crop, width, height = None, 0, 0
    if ext in CROPPED:
        x1, y1, x2, y2 = (parse_int_or_zero(query.get(f"crop_{side}")) for side in ("x1", "y1", "x2", "y2"))
        crop = (x1, y1, x2, y2) if 0 <= x1 < x2 and 0 <= y1 < y2 else None
    if ext in RESIZED:
        width, height = parse_int_or_zero(query.get("width")), parse_int_or_zero(query.get("height"))
    if width <= 0 and height <= 0:
        width = height = 0
    if crop is None and not (width or height):
        return None
    return ImageEdit(ext, crop, width, height, query.get("mode"))


def plan_scaling(source: Size, edit: ImageEdit) -> Scaling | None:
    """How `edit` scales an image of the size `source`; None where it is small enough already."""
    width, height = edit.width, edit.height
    if not ((width and source[0] > width) or (height and source[1] > height)):
        return None
    if edit.mode == "fit":
        return _fit(source, width, height)
    if edit.mode == "fill" or (width == height and source[0] != source[1]):
        return _fill(source, width, height)
    return Scaling(_full_size(source, width, height))


def _full_size(source: Size, width: int, height: int) -> Size:
    """The size to scale to, where 0 keeps the proportions; (0, 0) for what is no size."""
    if width < 0 or height < 0:
        return 0, 0
    if not width:
        width = max(1, math.floor(height * source[0] / source[1] + 0.5))
    elif not height:
        height = max(1, math.floor(width * source[1] / source[0] + 0.5))
    return width, height


def _fit(source: Size, width: int, height: int) -> Scaling:
    if width <= 0 or height <= 0:
        return Scaling((0, 0))
    proportion = source[0] / source[1]
    if proportion > width / height:
        return Scaling(_full_size(source, width, int(width / proportion)))
    return Scaling(_full_size(source, int(height * proportion), height))


def _fill(source: Size, width: int, height: int) -> Scaling:
    if width <= 0 or height <= 0:
        return Scaling((0, 0))
    is_narrow = source[0] / source[1] < width / height
    if min(source) >= _LARGE_SIDE:
        if is_narrow:
            cut = source[0], int(max(1.0, source[0] * height / width) + 0.5)
        else:
            cut = int(max(1.0, source[1] * width / height) + 0.5), source[1]
        return Scaling((width, height), before=_centre(source, cut))
    size = _full_size(source, width, 0) if is_narrow else _full_size(source, 0, height)
    return Scaling(size, after=_centre(size, (width, height)))


def _centre(source: Size, cut: Size) -> Box:
    left, top = (source[0] - cut[0]) // 2, (source[1] - cut[1]) // 2
    return left, top, left + cut[0], top + cut[1]


def is_jpeg_upload(name: str, mime: str) -> bool:
    """Whether an upload of this name and type is looked at for its orientation."""
    return mime == "image/jpeg" or name.lower().endswith((".jpg", ".jpeg"))
