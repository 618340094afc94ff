"""Crops and scales images for reads, and turns JPEGs upright on upload. Call these functions in a worker thread.

An image that cannot be edited is returned unchanged. Source: weed/images/{cropping,resizing,orientation}.go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from PIL import Image

from native_handlers.content.images_codec import (
    BadImage,
    as_true_colour,
    bad_image,
    check_pixels,
    encode_image,
    open_image,
)
from native_handlers.content.images_edit import plan_scaling

if TYPE_CHECKING:
    from native_handlers.content.images_edit import ImageEdit, Scaling

log = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 20
"""EXIF is looked for in so many bytes of a JPEG. Cameras write it first."""
_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def edit_image(data: bytes | memoryview, edit: ImageEdit) -> bytes | memoryview:
    """`data` after `edit`. Returns `data` itself where the edit changes nothing or the image cannot be edited.

    The result is empty for a size that leaves no pixels, such as mode "fit" without a height, as upstream answers.
    """
    try:
        with bad_image("it cannot be edited"):
            return _edited(data, edit)
    except BadImage as failure:
        log.info("an image of %d bytes goes out as it is: %s", len(data), failure)
        return data


def _edited(data: bytes | memoryview, edit: ImageEdit) -> bytes | memoryview:
    image = open_image(data)
    is_cut = edit.crop is not None and edit.crop[2] <= image.width and edit.crop[3] <= image.height
    if is_cut:
        image = image.crop(edit.crop)
    scaling = plan_scaling(image.size, edit)
    if scaling is None:
        return encode_image(as_true_colour(image), edit.ext) if is_cut else data
    if not all(scaling.size):
        return b""
    return encode_image(_scaled(image, scaling), edit.ext)


def _scaled(image: Image.Image, scaling: Scaling) -> Image.Image:
    check_pixels(*scaling.size)
    image = as_true_colour(image.crop(scaling.before) if scaling.before else image)
    # The width is scaled first. For a flat image that grows in height, the image between the two steps is no larger
    # than the result.
    check_pixels(scaling.size[0], image.height)
    if image.size != scaling.size:
        image = image.resize(scaling.size, Image.Resampling.LANCZOS)
    return image.crop(scaling.after) if scaling.after else image


def fix_orientation(data: bytes | memoryview) -> bytes | memoryview:
    """The JPEG in `data` turned upright, without EXIF. Returns `data` itself where EXIF names no orientation or the
    image is upright.
    """
    try:
        with bad_image("it cannot be turned"):
            orientation = _orientation(data) if data[:2] == b"\xff\xd8" else None
            if orientation is None or orientation == _UPRIGHT:
                return data
            image = as_true_colour(open_image(data))
            turn = _TURNS.get(orientation)
            return encode_image(image if turn is None else image.transpose(turn), ".jpg")
    except BadImage as failure:
        log.info("an upload of %d bytes is stored as it is: %s", len(data), failure)
        return data


def _orientation(data: bytes | memoryview) -> int | None:
    with bad_image("its EXIF cannot be read"):
        exif = Image.Exif()
        exif.load(_exif_segment(data))
        value = exif.get(_ORIENTATION_TAG)
    return value if isinstance(value, int) else None


def _exif_segment(data: bytes | memoryview) -> bytes:
    """The first EXIF segment before the picture, b"" when there is none."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= min(len(data), _HEAD_BYTES):
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return bytes(data[at + 4 : at + 2 + size])
        if marker == 0xDA:
            break
        at += 2 + size
    return b""
