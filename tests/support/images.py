"""Small images in every mode and format."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(width=60, height=40, mode="RGB"):
    """Colours that differ from place to place, in any mode."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 4 % 256, y * 4 % 256, x * 0 + 200], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def oriented(value, image=None):
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(image or picture(), "JPEG", exif=exif, quality=95)
