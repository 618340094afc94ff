"""A child's /status, read piece by piece."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.backend_status import Child, view_of, whole

from supervisor.gateway import backend_view
from supervisor.gateway.status_text import read_status

FLAT = st.none() | st.booleans() | st.integers() | st.text()
OBJECT = st.dictionaries(st.text(), st.recursive(FLAT, st.lists, max_leaves=5))


@given(st.lists(OBJECT), st.dictionaries(st.text().filter(lambda key: key != "Volumes"), FLAT), st.booleans())
@pytest.mark.slow
def test_it_says_what_parsing_in_one_go_says(volumes, rest, is_indented):
    """Slow: the examples are lists of nested objects, which take long to make."""
    status = {**rest, "Volumes": volumes, "last": [1, {"a": [2]}]}
    text = json.dumps(status, indent=2 if is_indented else None, ensure_ascii=False)
    found = read_status(text.encode("utf-8", "surrogatepass"))
    assert [volume for volume, _ in found.volumes] == volumes
    assert all(json.loads(raw) == volume for volume, raw in found.volumes)
    assert found.rest == {key: value for key, value in status.items() if key != "Volumes"}


def test_no_volumes_are_null():
    assert read_status(b'{"Volumes":null}').volumes == []
    assert read_status(b" { } ").rest == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b"{",
        b'{"a"',
        b'{"a":1',
        b'{"a":1,}',
        b'{"Volumes":[',
        b'{"Volumes":[1]}',
        b'{"Volumes":[{}',
        b"\xff",
        b"{} {}",
    ],
)
def test_what_is_no_status_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011  the text is the parser's
        read_status(data)


async def test_a_long_one_is_read_in_a_thread(monkeypatch):
    volumes = [{"Id": number, "Collection": "x" * 50} for number in range(2000, 0, -1)]
    seen = []
    monkeypatch.setattr(backend_view, "read_status", lambda data: seen.append(len(data)) or read_status(data))
    view = view_of(Child(whole({"Volumes": volumes}), whole({"Volumes": volumes[:1]})))
    asides = []
    aside = view.aside
    monkeypatch.setattr(view, "aside", lambda work: asides.append(1) or aside(work))
    rows = await view.volume_rows(is_pretty=False)
    assert [number for number, _ in rows] == list(range(1, 2001))
    assert json.loads(rows[0][1]) == volumes[-1]
    assert len(asides) == 2
    assert [number for number, _ in await view.volume_rows(is_pretty=True)] == [2000]
    assert len(asides) == 3
