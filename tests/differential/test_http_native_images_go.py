"""The same images from the Go server and from the native handlers: equal sizes and formats, and nearly equal pixels.
Bytes differ, because no two encoders agree. Slow: two Go processes are started. Skipped without `weed`.
"""

from __future__ import annotations

import http.client
import io
from dataclasses import replace

import numpy as np
import pytest
import trio
from go_volume_server import go_volume_server
from harness.implementations import weed_program
from PIL import Image
from support.http_native import SETTINGS, fetch, make_context
from support.images import encoded, oriented, picture
from support.stores import open_at
from support.waiting import LIMIT_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
]

VOLUME_ID = 4
QUERIES = (
    "width=30", "height=10", "width=30&height=7", "width=20&height=20", "width=600", "width=x", "width=-3&height=7",
    "width=30&height=30&mode=fit", "width=30&mode=fit", "width=50&height=3&mode=fit", "width=30&height=30&mode=fill",
    "width=90&height=20&mode=fill", "width=20&height=35&mode=fill", "mode=fill&height=5", "width=60&height=40",
    "crop_x1=5&crop_y1=6&crop_x2=25&crop_y2=16", "crop_x2=61&crop_y2=10", "crop_x2=60&crop_y2=40",
    "crop_x1=9&crop_x2=3&crop_y2=3", "crop_x2=40&crop_y2=40&width=20", "crop_x2=61&crop_y2=10&width=30",
)  # fmt: skip
_GIF = encoded(picture(), "GIF")
SMALL_FRAME = _GIF[:6] + b"\x50\0\x32\0" + _GIF[10:]
"""A GIF of 80x50 whose picture has 60x40."""
PICTURES = {
    "rgb": encoded(picture()),
    "grey": encoded(picture(mode="L")),
    "grey16": encoded(Image.fromarray(np.asarray(picture(mode="L"), dtype=np.uint16) * 257)),
    "alpha": encoded(picture(mode="RGBA").rotate(20)),
    "palette": encoded(picture(mode="P")),
    "jpeg": encoded(picture(), "JPEG"),
    "cmyk": encoded(picture(mode="CMYK"), "JPEG"),
    "gif": encoded(picture(), "GIF"),
    "animation": encoded(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
    "small frame": SMALL_FRAME,
    "webp": encoded(picture(), "WEBP", quality=95),
    "animated webp": encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)]),
    "bmp": encoded(picture(), "BMP"),
    "large": encoded(picture(220, 130)),
    "half": encoded(picture())[:150],
    "text": b"no image",
}
FAR = 24
"""By how much the mean of an area may differ: encoders round, and GIF dithers."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The Go server's port, and the context of a native one; both have a volume."""
    own = tmp_path_factory.mktemp("native")
    store = open_at(own)
    try:
        store.allocate_volume(VOLUME_ID)
        go = go_volume_server(weed_program(), tmp_path_factory.mktemp("go"), VOLUME_ID, "-images.fix.orientation")
        with go as (admin, _):
            yield admin, make_context(store=store, settings=replace(SETTINGS, fix_jpg_orientation=True))
    finally:
        store.close()


def ask_go(port, method, target, body=None, mime="image/png"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request(method, target, body, {"Content-Type": mime} if body else {})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()
    finally:
        connection.close()


async def ask_native(context, method, target, body=b"", mime="image/png"):
    headers = {"Content-Type": mime} if body else {}
    route = "http.write" if body else "http.read"
    answer = await fetch(route, context, method=method, target=target, headers=headers, body=body)
    return answer.status, answer.headers.get("Content-Type"), answer.body


def seen(data):
    """Format, mode and size of an image, and its colours on a grid of 4x4 areas; other data unchanged."""
    try:
        image = Image.open(io.BytesIO(data))
        mode = image.mode
        colours = image.convert("RGBA").convert("RGBa").resize((4, 4), Image.Resampling.BOX)
    except OSError:
        return data, None
    return (image.format, mode, image.size), np.asarray(colours, dtype=int)[..., :3]


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_pictures(servers, name):
    port, context = servers
    fid = f"/{VOLUME_ID},{list(PICTURES).index(name) + 1:x}12345678"
    ask_go(port, "PUT", fid, PICTURES[name])
    trio.run(ask_native, context, "PUT", fid, PICTURES[name])
    for ext in (".png", ".jpg", ".gif", ".webp"):
        for query in QUERIES:
            target = f"{fid}{ext}?{query}"
            theirs, ours = ask_go(port, "GET", target), trio.run(ask_native, context, "GET", target)
            assert ours[:2] == theirs[:2], target
            facts, colours = seen(ours[2])
            wanted_facts, wanted_colours = seen(theirs[2])
            if not ours[2] and theirs[2] and 0 in (*wanted_facts[2:], 0):
                continue  # an image without pixels; docs/policy/http-answers.md
            assert facts == wanted_facts, target
            if colours is not None and not (ext == ".gif" and max(facts[2]) < 8):  # dither has no room to even out
                assert np.abs(colours - wanted_colours).max() <= FAR, target


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("value", range(10))
def test_the_same_turns(servers, value, mode):
    """Images of even width: Go's mirrored images of odd width have a black column."""
    port, context = servers
    fid = f"/{VOLUME_ID},{value + (100 if mode == 'L' else 200):x}12345678"
    data = oriented(value, picture(mode=mode))
    ask_go(port, "PUT", fid, data, "image/jpeg")
    trio.run(ask_native, context, "PUT", fid, data, "image/jpeg")
    theirs, ours = ask_go(port, "GET", fid), trio.run(ask_native, context, "GET", fid)
    assert ours[:2] == theirs[:2]
    assert (ours[2] == data) is (theirs[2] == data)
    facts, colours = seen(ours[2])
    wanted_facts, wanted_colours = seen(theirs[2])
    assert (facts[0], facts[2]) == (wanted_facts[0], wanted_facts[2])
    assert np.abs(colours - wanted_colours).max() <= FAR
