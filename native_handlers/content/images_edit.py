"""The image edit that a read asks for, and its arithmetic; no pixels here.

Source of the rules: weed/server/volume_server_handlers_read.go shouldResizeImages and shouldCropImages,
weed/images/resizing.go, and the arithmetic of the Go library "imaging" that they call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from native_handlers.http_model.go_numbers import parse_int_or_zero
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.http_model.query import Query

CROPPED = frozenset((".png", ".jpg", ".jpeg", ".gif"))
RESIZED = CROPPED | {".webp"}
_LARGE_SIDE = 100
"""Where both sides have so many pixels, filling crops first and scales then. Smaller images are scaled first."""

Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are just outside the box."""


@dataclass(frozen=True, slots=True)
class ImageEdit:
    """The edit of an image whose name ends in `ext`: crop by `crop`, then scale.

    `width` and `height` are as in the query, 0 where absent; both 0 means no scaling.
    """

    ext: str
    crop: Box | None
    width: int
    height: int
    mode: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """Crop to `before`, scale to `size`, crop to `after`. A `size` with a zero leaves no pixels."""

    size: Size
    before: Box | None = None
    after: Box | None = None


def wanted_edit(ext: str, query: Query) -> ImageEdit | None:
    """The edit that `query` asks for a file with the extension `ext` (lower case), or None."""
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
    """The scaling of an image of the size `source` by `edit`; None where the image is small enough already."""
    width, height = edit.width, edit.height
    if not ((width and source[0] > width) or (height and source[1] > height)):
        return None
    if edit.mode == "fit":
        return _fit(source, width, height)
    if edit.mode == "fill" or (width == height and source[0] != source[1]):
        return _fill(source, width, height)
    return Scaling(_full_size(source, width, height))


def _full_size(source: Size, width: int, height: int) -> Size:
    """The size to scale to. 0 for one side keeps the proportions; a negative side gives (0, 0)."""
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
    """Whether an upload with this name and type is turned upright."""
    return mime == "image/jpeg" or name.lower().endswith((".jpg", ".jpeg"))
