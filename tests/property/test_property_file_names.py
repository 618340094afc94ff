"""Names of files that other servers send: an accepted file is in the directory, belongs to the named volume, and does
not make the next start load, replace or remove another file.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from native_handlers.format.volume_name import format_volume_name, parse_volume_name
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.file_names import check_sent_file
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.directory.scan import volume_candidates
from native_handlers.storage.directory.unfinished import is_unfinished
from native_handlers.storage.model.file_kinds import CODED_EXTENSIONS, RESERVED_EXTENSIONS, VOLUME_EXTENSIONS

COLLECTIONS = st.one_of(
    st.sampled_from(["", "0", "4", "a_4", "_", "__", ".", "..", "../x", "a/b", "a\\b", "\0", "a\n", "٣", "b_"]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
EXTENSIONS = st.one_of(
    st.sampled_from(sorted(RESERVED_EXTENSIONS)),
    st.sampled_from(
        [".DAT", ".eC00", ".ec32", ".ec٣٣", ".ec00\n", ".ec00/x", "ec00", ".", "", ".tmprecv", ".dat.copying"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8).map(".".__add__),
    st.from_regex(r"\.[0-9A-Za-z]{1,6}", fullmatch=True),
)


def sent(collection, volume_id, extension, *, is_coded):
    """The name of the file; None for a refusal."""
    info = pb.ReceiveFileInfo(volume_id=volume_id, collection=collection, ext=extension, is_ec_volume=is_coded)
    try:
        check_sent_file(info)
    except RpcFailure:
        return None
    return format_volume_name(info.collection, info.volume_id) + info.ext


@given(COLLECTIONS, st.integers(0, 2**32 - 1), EXTENSIONS, st.booleans())
@example("0", 4, ".dat", True)
@example("0", 4, ".ec00", True)
@example("a_4", 4, ".vif", True)
def test_a_name_that_is_accepted(collection, volume_id, extension, is_coded):
    name = sent(collection, volume_id, extension, is_coded=is_coded)
    if name is None:
        return
    directory = Path("/data")
    assert (directory / name).parent == directory
    assert Path(name).name == name
    base = name[: -len(extension)]
    assert parse_volume_name(base) == (collection, volume_id)
    assert not is_unfinished(name)
    if is_coded:
        assert extension in CODED_EXTENSIONS
        # A .vif without data is no volume.
        assert volume_candidates([name]) in ({}, {volume_id: [collection]})
    else:
        assert extension in {*VOLUME_EXTENSIONS, ".tmprecv"}


@given(st.sampled_from(sorted(CODED_EXTENSIONS)), st.integers(0, 2**32 - 1))
def test_what_the_protocol_sends_is_accepted(extension, volume_id):
    assert sent("pics", volume_id, extension, is_coded=True) == f"pics_{volume_id}{extension}"


@given(st.text(max_size=30))
def test_a_file_is_taken_for_an_unfinished_one_only_by_the_whole_of_its_name(name):
    assert not is_unfinished(name + "x")
    if is_unfinished(name):
        assert name.endswith((".receiving", ".arriving", ".copying", ".tmp"))


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), max_size=8),
    st.integers(0, 2**32 - 1),
    st.sampled_from(VOLUME_EXTENSIONS),
)
def test_every_name_that_this_server_gives_to_one_is_known_again(collection, volume_id, extension):
    base = format_volume_name(collection, volume_id)
    assert is_unfinished(f"{base}{extension}.17.receiving")
    assert is_unfinished(f"{base}{extension}.copying.17.receiving")
    assert is_unfinished(f"{base}{extension}.arriving")
    assert is_unfinished(f"{base}.arrived.tmp")
