"""Files that many tests begin with are made once, and each test has its own copy of them."""

from support.coded_volumes import open_coded_volume, put_coded_volume
from support.made_once import put_files

from native_handlers.format.needle import Needle


def test_files_are_made_once_for_a_key_and_copied_whole(tmp_path):
    made = []

    def make(directory):
        made.append(directory)
        (directory / "below").mkdir()
        (directory / "below" / "file").write_bytes(b"\0data\0" + bytes(5000))
        (directory / "empty").touch()
        (directory / "vol_dir.uuid").write_bytes(b"whose directory it is")

    for name in ("one", "two"):
        put_files(tmp_path / name, (__name__, "files"), make)
        (tmp_path / name / "empty").write_bytes(b"changed by one test")
    assert len(made) == 1
    for name in ("one", "two"):
        files = {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert files == {"below/file", "empty"}
        assert (tmp_path / name / "below" / "file").read_bytes() == b"\0data\0" + bytes(5000)


def test_a_volume_is_coded_once(tmp_path):
    """Its .vif has the time of the coding."""
    needle = Needle(needle_id=1, cookie=5, data=b"content")
    for name in ("one", "two"):
        put_coded_volume(tmp_path / name, 7, needle)
    assert (tmp_path / "one" / "7.vif").read_bytes() == (tmp_path / "two" / "7.vif").read_bytes()
    store = open_coded_volume(tmp_path / "three", 7, needle)
    assert bytes(store.ec_reader.read_needle(7, 1, 5).data) == b"content"
    store.close()
