"""Images are cropped and scaled on reads, and rotated upright on upload."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.http_native import SETTINGS, fetch, make_context
from support.images import encoded, oriented, picture

from native_handlers.content import images_codec, images_source
from native_handlers.content.images import edit_image, fix_orientation
from native_handlers.content.images_codec import BadImage, plan9_palette
from native_handlers.content.images_edit import ImageEdit, Scaling, plan_scaling, wanted_edit
from native_handlers.content.images_source import ImageSource, count_of
from native_handlers.http_model.query import parse_query

FID = "/3,0212345678"


PNG = encoded(picture())


def decoded(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def edited(data, query, ext=".png"):
    return edit_image(data, wanted_edit(ext, parse_query(query)))


# ---- what is asked for


@pytest.mark.parametrize(
    ("ext", "query", "edit"),
    [
        (".png", "", None),
        (".txt", "width=3", None),
        (".PNG", "width=3", None),
        (".png", "width=x&height=0", None),
        (".png", "width=-3", None),
        (".png", "width=-3&height=4", ImageEdit(".png", None, -3, 4, "")),
        (".webp", "width=3&mode=fit", ImageEdit(".webp", None, 3, 0, "fit")),
        (".webp", "crop_x2=3&crop_y2=3", None),
        (".gif", "crop_x2=3&crop_y2=3", ImageEdit(".gif", (0, 0, 3, 3), 0, 0, "")),
        (".gif", "crop_x1=-1&crop_x2=3&crop_y2=3", None),
        (".gif", "crop_x1=3&crop_x2=3&crop_y2=3", None),
    ],
)
def test_what_a_query_asks_for(ext, query, edit):
    assert wanted_edit(ext, parse_query(query)) == edit


@pytest.mark.parametrize(
    ("source", "query", "scaling"),
    [
        ((60, 40), "width=60&height=40", None),
        ((60, 40), "width=100", None),
        ((60, 40), "width=30", Scaling((30, 20))),
        ((60, 40), "height=10", Scaling((15, 10))),
        ((60, 40), "width=30&height=30&mode=fit", Scaling((30, 20))),
        ((60, 40), "width=50&height=7&mode=fit", Scaling((10, 7))),
        ((60, 40), "width=50&mode=fit", Scaling((0, 0))),
        ((60, 40), "width=20&height=30", Scaling((20, 30))),
        ((60, 40), "width=20&height=20", Scaling((30, 20), after=(5, 0, 25, 20))),
        ((40, 40), "width=20&height=20", Scaling((20, 20))),
        ((300, 200), "width=50&height=50&mode=fill", Scaling((50, 50), before=(50, 0, 250, 200))),
        ((200, 300), "width=50&height=50&mode=fill", Scaling((50, 50), before=(0, 50, 200, 250))),
        ((60, 40), "width=-1&height=9", Scaling((0, 0))),
        ((60, 40), "width=-1&height=9&mode=fill", Scaling((0, 0))),
    ],
)
def test_how_it_is_scaled(source, query, scaling):
    assert plan_scaling(source, wanted_edit(".png", parse_query(query))) == scaling


# ---- pixels


def test_a_cut_has_the_pixels_of_the_original():
    cut = decoded(edited(PNG, "crop_x1=5&crop_y1=6&crop_x2=25&crop_y2=16"))
    assert (cut.mode, cut.tobytes()) == ("RGB", picture().crop((5, 6, 25, 16)).tobytes())


def test_it_is_cut_before_it_is_scaled():
    assert decoded(edited(PNG, "crop_x2=20&crop_y2=20&width=10&height=5")).size == (10, 5)
    assert decoded(edited(PNG, "crop_x2=20&crop_y2=20&width=30")).size == (20, 20)


def test_a_cut_beyond_the_edge_is_left_out():
    assert edited(PNG, "crop_x2=61&crop_y2=10") is PNG
    assert decoded(edited(PNG, "crop_x2=61&crop_y2=10&width=30")).size == (30, 20)


@pytest.mark.parametrize(("ext", "kind", "mode"), [
    (".png", "PNG", "RGB"), (".webp", "PNG", "RGB"), (".jpg", "JPEG", "RGB"), (".jpeg", "JPEG", "RGB"),
    (".gif", "GIF", "P"),
])  # fmt: skip
@pytest.mark.parametrize("source", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_the_name_decides_the_format(ext, kind, mode, source):
    image = decoded(edited(encoded(picture(), source), "width=30", ext))
    assert (image.format, image.mode, image.size) == (kind, mode, (30, 20))
    near = np.asarray(image.convert("RGB"), dtype=int).mean(axis=(0, 1))
    assert np.abs(near - np.asarray(picture(), dtype=int).mean(axis=(0, 1))).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png(mode):
    image = Image.fromarray(np.full((40, 60), 0x8012, np.uint16)) if mode == "I;16" else picture(mode=mode)
    small = decoded(edited(encoded(image), "width=30"))
    assert (small.size, small.mode) == ((30, 20), "RGB")
    if mode == "I;16":
        assert small.getpixel((3, 3)) == (0x80, 0x80, 0x80)


def test_transparency_is_kept_in_png_and_black_elsewhere():
    image = picture(mode="RGBA")
    image.paste((255, 255, 255, 0), (0, 0, 30, 40))
    data = encoded(image)
    assert decoded(edited(data, "width=30")).getpixel((2, 2))[3] == 0
    assert decoded(edited(data, "width=30", ".gif")).convert("RGB").getpixel((2, 2)) == (0, 0, 0)
    assert max(decoded(edited(data, "width=30", ".jpg")).getpixel((2, 2))) < 8


def test_of_an_animation_the_first_picture_is_taken():
    frames = [picture(), picture().rotate(90)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    small = decoded(edited(data, "width=30", ".gif"))
    assert (small.size, getattr(small, "n_frames", 1)) == ((30, 20), 1)
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert edited(moving, "width=30", ".webp") is moving


def test_of_a_gif_whose_picture_is_smaller_than_itself_the_picture_is_taken():
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = b"\x50\0\x32\0"
    assert decoded(data).size == (80, 50)
    assert decoded(edited(bytes(data), "width=30", ".gif")).size == (30, 20)


def test_the_gif_palette_has_its_corners():
    palette = plan9_palette()
    assert (palette[:3], palette[-3:], len({palette[i : i + 3] for i in range(0, 768, 3)})) == (
        b"\0\0\0",
        b"\xff\xff\xff",
        256,
    )


def test_what_no_decoder_takes_is_left_alone():
    for data in (b"", b"\x89PNG\r\n\x1a\n", PNG[: len(PNG) // 2], b"\xff\xd8\xff" + b"\xff\xda" * 300, b"GIF89a" * 9):
        assert edited(data, "width=3") is data


def test_sizes_that_leave_nothing_leave_nothing():
    assert edited(PNG, "width=30&mode=fit") == b""


def test_bombs_are_left_alone(monkeypatch):
    monkeypatch.setattr(images_codec, "MAX_PIXELS", 60 * 40)
    assert decoded(edited(PNG, "width=30")).size == (30, 20)
    assert edited(PNG, "width=59&height=41") is PNG
    large = encoded(picture(60, 41))
    assert edited(large, "width=30") is large
    with pytest.raises(BadImage, match="60x41 pixels are more than 2400"):
        images_codec.open_image(large)


def png_of(*chunks, size=(1, 1)):
    """A PNG: the signature, the header, and `chunks`."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks)


GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
MANY = 1_000_000


@pytest.mark.parametrize(
    ("ext", "begins", "part"),
    [
        (".jpg", b"\xff\xd8\xff\xe0\x00\x02", b"\xff\x00"),
        (".jpg", b"\xff\xd8", b"\xff\xe5\x00\x02"),
        (".jpg", b"\xff\xd8", b"\xff\xfe\x00\x02"),
        (".png", png_of(), png_of((b"prVt", b""))[33:]),
        (".png", png_of(), png_of((b"tEXt", b"a\0b"))[33:]),
        (".png", png_of(), png_of((b"IDAT", b""))[33:]),
        (".gif", GIF_HEAD, b"!\xfe\x01c\0"),
        (".gif", GIF_HEAD, b"\0"),
    ],
)
@pytest.mark.slow
def test_a_file_of_very_many_parts_is_left_alone(ext, begins, part, monkeypatch):
    """Pillow reads segments one by one and keeps them in memory: 40 times the file's size. Slow: reads as many parts
    as an image may have.
    """
    reads = []
    read = ImageSource.read
    monkeypatch.setattr(ImageSource, "read", lambda self, size=-1: reads.append(size) or read(self, size))
    data = begins + part * MANY
    assert edited(data, "width=10", ext) is data
    assert len(reads) <= images_source.MAX_READS + 1


def test_a_file_with_very_much_before_its_picture_is_left_alone(monkeypatch):
    """Pillow joins each EXIF segment to all earlier ones."""
    exif = b"\xff\xe1\xff\xffExif\0\0" + bytes(0xFFFF - 8)
    data = b"\xff\xd8" + exif * 40 + encoded(picture(), "JPEG")[2:]
    assert decoded(edited(data, "width=30", ".jpg")).size == (30, 20)
    monkeypatch.setattr(images_source, "MAX_HEAD_BYTES", 30 * len(exif))
    assert edited(data, "width=30", ".jpg") is data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_picture_is_longer_than_what_may_come_before_it(kind, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 300, 3), np.uint8))
    data = encoded(noise, kind)
    monkeypatch.setattr(images_source, "MAX_HEAD_BYTES", 4096)
    assert len(data) > 4096
    assert decoded(edited(data, "width=30")).size == (30, 20)


def test_a_png_in_chunks_of_8_kib():
    noise = np.random.default_rng(1).integers(0, 255, (400, 600, 3), np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise))
    pieces = [(b"IDAT", packed[at : at + 8192]) for at in range(0, len(packed), 8192)]
    data = png_of(*pieces, (b"IEND", b""), size=(600, 400))
    assert decoded(edited(data, "width=30")).size == (30, 20)


@pytest.mark.parametrize("at", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) - 2])
def test_marks_are_counted_across_pieces(at):
    data = bytearray(2 << 20)
    data[at : at + 2] = b"\xff\xda"
    assert count_of(b"\xff\xda", bytes(data)) == 1


def test_images_with_a_long_side_are_left_alone():
    longest = images_codec.MAX_SIDE_PIXELS
    for size in ((longest, 1), (1, longest)):
        assert max(decoded(edited(encoded(Image.new("1", size)), "width=1&height=9&mode=fit")).size) <= 9
    for size in ((longest + 1, 1), (1, longest + 1)):
        data = encoded(Image.new("1", size))
        for query in ("width=5", "height=5", "width=5&height=5&mode=fill", "crop_x1=0&crop_y1=0&crop_x2=1&crop_y2=1"):
            assert edited(data, query) is data


def test_a_webp_with_more_pixels_than_its_decoder_may_take_is_left_alone(monkeypatch):
    monkeypatch.setattr(images_codec, "MAX_WEBP_PIXELS", 60 * 40)
    assert decoded(edited(encoded(picture(), "WEBP"), "width=30", ext=".webp")).size == (30, 20)
    large = encoded(picture(60, 41), "WEBP")
    assert edited(large, "width=30", ext=".webp") is large


# ---- orientation


@pytest.mark.parametrize("value", range(2, 9))
def test_turned_upright(value):
    fixed = decoded(fix_orientation(oriented(value)))
    assert (fixed.size, dict(fixed.getexif())) == ((60, 40) if value < 5 else (40, 60), {})
    corners = {
        2: (59, 0), 3: (59, 39), 4: (0, 39), 5: (0, 0), 6: (39, 0), 7: (39, 59), 8: (0, 59),
    }  # fmt: skip
    # The corner in which the stored top left corner appears: the one with the least red and green.
    assert sum(fixed.getpixel(corners[value])[:2]) < 40


@pytest.mark.parametrize(
    "data", [oriented(1), encoded(picture(), "JPEG"), PNG, b"", b"\xff\xd8\xff\xe1\0\x10Exif\0\0II"]
)
def test_what_is_upright_or_unreadable_is_stored_as_it_is(data):
    assert fix_orientation(data) is data


@pytest.fixture
def store(tmp_path, opened):
    return opened(tmp_path, volumes=(3,))


@pytest.fixture
def context(store):
    return make_context(store=store)


async def put(context, target, body, headers=()):
    return await fetch("http.write", context, method="PUT", target=target, headers=headers, body=body)


async def get(context, target, headers=(), method="GET"):
    return await fetch("http.read", context, method=method, target=target, headers=headers)


@pytest.mark.parametrize("mime", ["image/jpeg", "image/png"])
@pytest.mark.parametrize("is_on", [True, False])
async def test_uploads_are_turned_if_asked_for(store, mime, is_on):
    context = make_context(store=store, settings=replace(SETTINGS, fix_jpg_orientation=is_on))
    data = oriented(6)
    answer = await put(context, FID, data, {"Content-Type": mime})
    assert json.loads(answer.body)["size"] == len(data)
    stored = (await get(context, FID)).body
    assert decoded(stored).size == ((40, 60) if is_on and mime == "image/jpeg" else (60, 40))
    assert (stored == data) is not (is_on and mime == "image/jpeg")


# ---- reads


async def test_the_extension_comes_from_the_url_or_the_stored_name(context):
    await put(context, FID, PNG, {"Content-Type": "image/png", "Content-Disposition": 'name="a.PNG"'})
    for target in (FID, FID + ".png", "/3/0212345678/b.png"):
        answer = await get(context, target + "?width=30")
        assert (answer.status, decoded(answer.body).size) == (200, (30, 20)), target
        assert answer.headers.get("Content-Type") == "image/png"
        assert answer.headers.get("Content-Length") == str(len(answer.body))
    assert (await get(context, FID + ".txt?width=30")).body == PNG
    assert (await get(context, FID + "?width=30", method="HEAD")).headers.get("Content-Length") == str(len(PNG))


async def test_a_range_is_one_of_the_edited_image(context):
    await put(context, FID, PNG)
    whole = (await get(context, FID + ".png?width=30")).body
    answer = await get(context, FID + ".png?width=30", {"Range": "bytes=8-15"})
    assert (answer.status, answer.body) == (206, whole[8:16])


async def test_compressed_images_are_edited_for_everyone(context):
    await put(context, FID, gzip.compress(PNG), {"Content-Encoding": "gzip", "Content-Type": "image/png"})
    answer = await get(context, FID + ".png?width=30", {"Accept-Encoding": "gzip"})
    assert (answer.headers.get("Content-Encoding"), decoded(answer.body).size) == (None, (30, 20))


async def test_a_large_image_is_edited_only_by_its_url(store):
    """Upstream streams the file before the stored name is known."""
    context = make_context(store=store, settings=replace(SETTINGS, file_size_limit_bytes=1 << 24))
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    data = encoded(noise, compress_level=0)
    await put(context, FID, data, {"Content-Disposition": 'name="a.png"'})
    assert (await get(context, FID + "?width=30")).body == data
    assert decoded((await get(context, FID + ".png?width=30")).body).size == (30, 30)


async def test_an_image_in_chunks(context):
    half = len(PNG) // 2
    await put(context, "/3,0312345678", PNG[:half])
    await put(context, "/3,0412345678", PNG[half:])
    chunks = [
        {"fid": "3,0312345678", "offset": 0, "size": half},
        {"fid": "3,0412345678", "offset": half, "size": len(PNG) - half},
    ]
    manifest = json.dumps({"name": "a.png", "mime": "image/png", "size": len(PNG), "chunks": chunks})
    await put(context, FID + "?cm=true", manifest.encode())
    assert (await get(context, FID)).body == PNG
    assert decoded((await get(context, FID + "?width=30")).body).size == (30, 20)
