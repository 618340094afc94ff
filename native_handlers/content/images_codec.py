"""Decodes and encodes images within limits. For worker threads; every failure on a hostile file is a `BadImage`.

Upstream decodes the formats of Go's image packages and writes PNG, JPEG of quality 75, and GIF in the fixed palette of
Plan 9; it answers WebP with PNG. Source: weed/images/resizing.go, cropping.go.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from PIL import Image, WebPImagePlugin

from native_handlers.arrays import np
from native_handlers.content.images_source import ImageSource, count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PIXELS = 50_000_000
"""Pixels of an image that is decoded or made: 200 MB in memory, and conversions make up to three copies. A photo of 48
megapixels is within the limit; a file of some kilobytes that decodes to gigabytes is not."""
MAX_SIDE_PIXELS = 65_535
"""Pixels of one side. Scaling takes about 50 bytes for each pixel of a side and holds the interpreter, however short
the other side is. JPEG has the same limit; cameras and screens are far below."""
MAX_WEBP_PIXELS = 16_000_000
"""Pixels of a WebP: its decoder holds the interpreter until the whole picture is decoded."""
MAX_SCANS = 200
"""Scans of a JPEG: each scan goes over all pixels again, and a small file has room for thousands. Usual files have
about 10."""
JPEG_QUALITY = 75

_FORMATS = ("PNG", "JPEG", "GIF", WebPImagePlugin.WebPImageFile.format, "BMP")
_ENCODERS = {".png": "PNG", ".webp": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF"}

# `check_pixels` checks every image before anything is decoded. The library's own check only warns for some sizes, and a
# server cannot act on a warning.
Image.MAX_IMAGE_PIXELS = None


class BadImage(ValueError):
    """The data is no image that can be edited: another format, damaged, or beyond a limit."""


def check_pixels(width: int, height: int) -> None:
    """Raises BadImage where an image of this size is beyond a limit."""
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS}")
    if max(width, height) > MAX_SIDE_PIXELS:
        raise BadImage(f"a side of {max(width, height)} pixels is longer than {MAX_SIDE_PIXELS}")


@contextmanager
def bad_image(what: str) -> Iterator[None]:
    """Turns every exception of the block into BadImage, with the text `what`. For a hostile file the library raises
    many classes, from EOFError to struct.error, and MemoryError for an image that does not fit.
    """
    try:
        yield
    except BadImage:
        raise
    except Exception as failure:
        raise BadImage(f"{what}: {failure or type(failure).__name__}") from failure


def open_image(data: bytes | memoryview) -> Image.Image:
    """Decodes the image in `data`, the first one if there are several.

    Raises:
        BadImage: `data` holds no image.
    """
    with bad_image("it cannot be decoded"):
        if bytes(data[:3]) == b"\xff\xd8\xff" and count_of(b"\xff\xda", data) > MAX_SCANS:
            raise BadImage(f"a JPEG in more than {MAX_SCANS} scans")
        source = ImageSource(data)
        if bytes(data[8:12]) == b"WEBP":
            # The decoder reads a WebP in one piece.
            source.begin_picture()
        image = Image.open(cast("IO[bytes]", source), formats=_FORMATS)
        check_pixels(*image.size)
        if image.format == "WEBP":
            _check_webp(image)
        source.begin_picture()
        frame = image.tile[0][1] if image.format == "GIF" and image.tile else None
        image.load()
        # A GIF's first picture may be smaller than the GIF; upstream uses the picture.
        return image.crop(frame) if frame is not None and frame != (0, 0, *image.size) else image


def _check_webp(image: Image.Image) -> None:
    if getattr(image, "is_animated", False):
        raise BadImage("an animated WebP")  # upstream's decoder does not know them either
    if image.width * image.height > MAX_WEBP_PIXELS:
        raise BadImage(f"{image.width}x{image.height} pixels of a WebP are more than {MAX_WEBP_PIXELS}")


def as_true_colour(image: Image.Image) -> Image.Image:
    """`image` with 8 bits each of red, green and blue, and of transparency where the image has some."""
    with bad_image(f"its colours cannot be converted from {image.mode}"):
        if image.mode.startswith("I"):
            # 16 bits of grey: the high byte is the 8-bit value.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return image if image.mode == mode else image.convert(mode)


def encode_image(image: Image.Image, ext: str) -> bytes:
    """Encodes `image` (true colour) in the format that upstream uses for names that end in `ext`.

    The original's colour profile and EXIF are left out. Transparency becomes black in JPEG and GIF.

    Raises:
        BadImage: the format cannot hold the image.
    """
    format_name = _ENCODERS[ext]
    out = io.BytesIO()
    with bad_image(f"{format_name} cannot hold it"):
        plain = _opaque(image) if format_name != "PNG" or _is_opaque(image) else image.copy()
        plain.info = {}
        if format_name == "GIF":
            plain = plain.quantize(palette=_plan9_image(), dither=Image.Dither.FLOYDSTEINBERG)
        plain.save(out, format_name, **({"quality": JPEG_QUALITY} if format_name == "JPEG" else {}))
    return out.getvalue()


def plan9_palette() -> bytes:
    """The 256 colours that Plan 9 shares among programs, three bytes each. Source: Plan 9 manual, color(6)."""
    colours = bytearray(256 * 3)
    for red in range(4):
        for shade in range(4):
            for rest in range(16):
                mix = (red, rest >> 2, rest & 3)
                at = 3 * (64 * red + 16 * shade + ((rest + shade - red) & 15))
                strongest = max(mix)
                level = 17 * (4 * strongest + shade)
                values = [part * level // strongest for part in mix] if strongest else [17 * shade] * 3
                colours[at : at + 3] = bytes(values)
    return bytes(colours)


def _plan9_image() -> Image.Image:
    palette = Image.new("P", (1, 1))
    palette.putpalette(plan9_palette())
    return palette


def _is_opaque(image: Image.Image) -> bool:
    return image.mode == "RGB" or image.getchannel("A").getextrema() == (255, 255)


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return black
