"""Images from bytes and back, within limits. For worker threads; hostile files end in `BadImage` and nothing else.

Upstream decodes what Go's image packages know and writes PNG, JPEG of quality 75, and GIF in the fixed palette of
Plan 9; WebP is answered with PNG. Source: weed/images/resizing.go, cropping.go.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, WebPImagePlugin

MAX_PIXELS = 50_000_000
"""Of an image that is decoded or made: 200 MB in memory, and converting makes up to three copies. A photo of 48
megapixels is within; a file of some kilobytes that unfolds to gigabytes is not."""
MAX_SCANS = 200
"""Of a JPEG: each goes over all pixels again, and a small file has room for thousands. Real ones have about 10."""
JPEG_QUALITY = 75

_FORMATS = ("PNG", "JPEG", "GIF", WebPImagePlugin.WebPImageFile.format, "BMP")
_ENCODERS = {".png": "PNG", ".webp": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF"}

# Every image that is opened here is measured against MAX_PIXELS before anything is decoded. The library's own
# check only warns in between, and a warning is nothing that a server could act on.
Image.MAX_IMAGE_PIXELS = None


class BadImage(ValueError):
    """The data is no image that can be worked on: another format, damaged, or beyond a limit."""


def check_pixels(width: int, height: int) -> None:
    """Raises BadImage where an image of this size is beyond the limit."""
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS}")


def open_image(data: bytes | memoryview) -> Image.Image:
    """The image in `data`, its first one if there are several, with its pixels decoded.

    Raises:
        BadImage: there is none.
    """
    try:
        if bytes(data[:3]) == b"\xff\xd8\xff" and bytes(data).count(b"\xff\xda") > MAX_SCANS:
            raise BadImage(f"a JPEG in more than {MAX_SCANS} scans")
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        check_pixels(*image.size)
        if image.format == "WEBP" and getattr(image, "is_animated", False):
            raise BadImage("an animated WebP")  # upstream's decoder does not know them either
        frame = image.tile[0][1] if image.format == "GIF" and image.tile else None
        image.load()
        # A GIF's first picture may be smaller than the GIF; upstream takes the picture.
        return image.crop(frame) if frame is not None and frame != (0, 0, *image.size) else image
    except BadImage:
        raise
    except Exception as failure:
        # Decoders raise anything for a damaged file, from EOFError to struct.error.
        raise BadImage(f"it cannot be decoded: {failure or type(failure).__name__}") from failure


def as_true_colour(image: Image.Image) -> Image.Image:
    """`image` with 8 bits of red, green, blue, and transparency where it has some."""
    try:
        if image.mode.startswith("I"):
            # 16 bits of grey: the high byte counts.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return image if image.mode == mode else image.convert(mode)
    except Exception as failure:
        raise BadImage(f"its colours cannot be converted from {image.mode}: {failure}") from failure


def encode_image(image: Image.Image, ext: str) -> bytes:
    """`image`, true colour, in the format that upstream uses for names that end in `ext`.

    Without what the original said about itself (colour profile, EXIF). Transparency becomes black in JPEG and GIF.

    Raises:
        BadImage: the format cannot hold it.
    """
    format_name = _ENCODERS[ext]
    plain = _opaque(image) if format_name != "PNG" or _is_opaque(image) else image.copy()
    plain.info = {}
    if format_name == "GIF":
        plain = plain.quantize(palette=_plan9_image(), dither=Image.Dither.FLOYDSTEINBERG)
    out = io.BytesIO()
    try:
        plain.save(out, format_name, **({"quality": JPEG_QUALITY} if format_name == "JPEG" else {}))
    except Exception as failure:
        raise BadImage(f"{format_name} cannot hold it: {failure}") from failure
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
