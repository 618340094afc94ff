"""Erasure coding against plain arithmetic: matrices, kernels, layout, every loss that can be mended, checksums."""

import functools
import itertools
import os
import platform
import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.files import UnsyncedFiles

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.storage.erasure_coding import bitrot, encode, kernel, parallel, rebuild, verify
from native_handlers.storage.erasure_coding.crc_sums import join_pieces
from native_handlers.storage.erasure_coding.decode import layout_for_decode, write_dat
from native_handlers.storage.erasure_coding.errors import DecodeFailed, RebuildFailed, VerifyFailed
from native_handlers.storage.erasure_coding.galois import (
    coding_matrix,
    inverse,
    invert,
    multiply,
    multiply_matrices,
    recovery_matrix,
)
from native_handlers.storage.erasure_coding.index_files import find_row, sorted_rows, with_deletions
from native_handlers.storage.erasure_coding.kernel_program import CHECKSUM_STEPS, METHODS, best_of, program
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Layout, Ratio, shard_bytes_of
from native_handlers.storage.erasure_coding.live_records import Run
from native_handlers.storage.erasure_coding.names import shard_extension

OS_FILES = UnsyncedFiles()
LARGE, SMALL = 1024, 64
MIB, GIB = 1 << 20, 1 << 30
PIECE = 16


def slow_product(one, other):
    product = 0
    while other:
        if other & 1:
            product ^= one
        one = one << 1 ^ (0x11D if one & 0x80 else 0)
        other >>= 1
    return product


@functools.cache
def kernels():
    """Numpy's way, and all that this processor can run."""
    found = [kernel.multiply_with_numpy]
    for method in METHODS:
        try:
            found.append(kernel.compile_kernel(method))
        except (ImportError, LookupError):
            continue
    return found


def test_products_are_those_of_the_field():
    assert all(multiply(a, b) == slow_product(a, b) for a in range(256) for b in range(256))
    assert all(multiply(a, inverse(a)) == 1 for a in range(1, 256))


def test_the_matrix_is_upstreams():
    """Factors of the parity shards of 10+4, as github.com/klauspost/reedsolomon has them."""
    rows = [row.hex() for row in coding_matrix(10, 14)]
    assert rows[10:] == [
        "8196afb8d2c4fee80302",
        "9681b8afc4d2e8fe0203",
        "bfd6620a066fdfb70504",
        "d6bf0a626f06b7df0405",
    ]
    assert all(rows[shard] == "00" * shard + "01" + "00" * (9 - shard) for shard in range(10))


@given(st.integers(1, 12), st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_data_shards_give_the_data(data, parity, random):
    total = data + parity
    present = tuple(sorted(random.sample(range(total), data)))
    matrix = coding_matrix(data, total)
    back = recovery_matrix(data, total, present, tuple(range(total)))
    assert multiply_matrices(back, [matrix[shard] for shard in present]) == matrix
    square = [matrix[shard] for shard in present]
    assert multiply_matrices(invert(square), square) == coding_matrix(data, data + 1)[:data]


@pytest.mark.slow
@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=min(30, settings().max_examples))
def test_every_kernel_gives_the_same_bytes(length, inputs, rows, seed):
    """Slow: several kernels are compiled."""
    random = np.random.default_rng(seed)
    matrix = tuple(random.integers(0, 256, inputs, np.uint8).tobytes() for _ in range(rows))
    data = [random.integers(0, 256, length, np.uint8) for _ in range(inputs)]
    expected = np.zeros((rows, length), np.uint8)
    for row, factors in enumerate(matrix):
        for factor, one in zip(factors, data, strict=True):
            expected[row] ^= np.array([slow_product(factor, int(value)) for value in one], np.uint8)
    for run in kernels():
        outputs = [np.full(length, 7, np.uint8) for _ in range(rows)]
        run(matrix, data, outputs)
        assert all((one == other).all() for one, other in zip(expected, outputs, strict=True))


def test_every_kernel_of_this_processor_takes_part():
    """Nearly all x86-64 processors have the shuffles of 16 and 32 bytes."""
    pytest.importorskip("llvmlite")
    features = pytest.importorskip("llvmlite.binding").get_host_cpu_features()
    able = [one for one in METHODS if all(features.get(name) for name in one.features)]
    assert [one.method for one in kernels()[1:]] == able
    if platform.machine() == "x86_64":
        assert "llvm.x86.ssse3.pshuf.b.128" in {one.intrinsic for one in able}


@given(st.integers(1, 700), st.integers(1, 12), st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=30)
def test_every_kernel_sums_up_what_it_reads_and_writes(length, inputs, rows, seed):
    random = np.random.default_rng(seed)
    matrix = tuple(random.integers(0, 256, inputs, np.uint8).tobytes() for _ in range(rows))
    data = [random.integers(0, 256, length, np.uint8) for _ in range(inputs)]
    expected = [np.zeros(length, np.uint8) for _ in range(rows)]
    kernel.multiply_with_numpy(matrix, data, expected)
    for run in summing_kernels():
        outputs = [np.full(length, 7, np.uint8) for _ in range(rows)]
        sums = run(matrix, data, outputs)
        assert all((one == other).all() for one, other in zip(expected, outputs, strict=True))
        assert sums == [crc32c(array.tobytes()) for array in (*data, *expected)]


def summing_kernels():
    compiled = [one for one in kernels()[1:] if one.sums]
    return [*(one.multiply_and_sum for one in compiled), kernel.multiply_and_sum]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.intrinsic)
def test_the_program_of_each_method_can_be_compiled(method):
    """For the processor of the method, which need not be this one."""
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    is_arm = "aarch64" in method.intrinsic
    step = next(one for one in CHECKSUM_STEPS if ("aarch64" in one.intrinsic) == is_arm)
    features = ",".join(f"+{name}" for name in (*method.features, step.feature))
    try:
        target = llvm.Target.from_triple("aarch64-linux-gnu" if is_arm else "x86_64-linux-gnu")
    except RuntimeError:
        pytest.skip("this llvmlite compiles for its own processor only")
    machine = target.create_target_machine(features=features, opt=3)
    module = llvm.parse_assembly(program(method, step, range(1, 5)))
    module.verify()
    text = machine.emit_assembly(module)
    instructions = {"x86": ("gf2p8affineqb", "pshufb"), "aarch64": ("tbl",)}["aarch64" if is_arm else "x86"]
    assert any(name in text for name in instructions)
    assert "crc32" in text


def test_a_processor_gets_the_best_that_it_has():
    def best(*features):
        method, step = best_of(lambda name: name in features)
        return method.intrinsic.rpartition(".")[2], method.vector_bytes, step is not None

    assert best("ssse3") == ("128", 16, False)
    assert best("ssse3", "crc32", "avx2") == ("b", 32, True)
    assert best("ssse3", "crc32", "avx2", "gfni") == ("256", 32, True)
    assert best("ssse3", "crc32", "avx2", "avx512bw") == ("512", 64, True)
    assert best("neon", "crc") == ("v16i8", 16, True)
    with pytest.raises(LookupError, match="no byte shuffle"):
        best("mmx")


def test_without_llvmlite_numpy_does_the_work(monkeypatch):
    monkeypatch.setenv(kernel.NO_KERNEL_VARIABLE, "1")
    assert kernel.compiled() is None
    one, out = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    kernel.multiply((b"\x02",), [one], [out])
    expected = [slow_product(2, int(value)) for value in one]
    assert list(out) == expected
    assert kernel.multiply_and_sum((b"\x02",), [one], [out]) == [crc32c(one.data), crc32c(bytes(expected))]


sizes = st.one_of(
    st.integers(0, 40 * SMALL),
    st.builds(lambda rows, more: max(rows * 10 * LARGE + more, 0), st.integers(0, 2), st.integers(-SMALL, SMALL)),
    st.builds(lambda rows, more: max(rows * 10 * SMALL + more, 0), st.integers(0, 4), st.integers(-3, 3)),
)


def coded(tmp_path, dat, ratio=DEFAULT_RATIO):
    """The directory with the shards of `dat`, made of small blocks, and their checksums."""
    path = tmp_path / "1.dat"
    path.write_bytes(dat)
    fds = [os.open(tmp_path / f"1{shard_extension(shard)}", os.O_RDWR | os.O_CREAT) for shard in range(ratio.total)]
    dat_fd = os.open(path, os.O_RDONLY)
    try:
        layout = Layout.of_dat(len(dat), ratio.data, LARGE, SMALL)
        return encode.encode(OS_FILES, dat_fd, len(dat), ratio, fds, layout)
    finally:
        for fd in (*fds, dat_fd):
            os.close(fd)


@pytest.fixture(params=["compiled", "numpy"])
def way(request, monkeypatch):
    """How bytes are multiplied: by the program for this processor, or by numpy."""
    if request.param == "numpy":
        monkeypatch.setenv(kernel.NO_KERNEL_VARIABLE, "1")
    elif kernel.compiled() is None:
        pytest.skip("there is no llvmlite, or no program for this processor")
    assert (kernel.compiled() is None) == (request.param == "numpy")
    return request.param


@pytest.fixture
def small_pieces(monkeypatch, way):
    monkeypatch.setattr(encode, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(rebuild, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(verify, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(verify, "BLOCK_BYTES", 4 * PIECE)
    monkeypatch.setattr(encode, "BLOCK_BYTES", 4 * PIECE)
    monkeypatch.setattr(rebuild, "BLOCK_BYTES", 4 * PIECE)
    # The threads of thousands of rounds would take most of the time.
    monkeypatch.setattr(parallel, "thread_count", lambda: 1)


def plain_shards(dat, ratio):
    """The shards by the rule alone: blocks are dealt out in rows, large ones while a whole row is left."""
    shards = [bytearray() for _ in range(ratio.data)]
    while len(dat) >= LARGE * ratio.data:
        for shard in range(ratio.data):
            shards[shard] += dat[shard * LARGE : (shard + 1) * LARGE]
        dat = dat[LARGE * ratio.data :]
    while dat:
        for shard in range(ratio.data):
            shards[shard] += dat[shard * SMALL : (shard + 1) * SMALL].ljust(SMALL, b"\0")
        dat = dat[SMALL * ratio.data :]
    return [bytes(shard) for shard in shards]


@pytest.mark.parametrize("ratio", [DEFAULT_RATIO, Ratio(3, 2), Ratio(1, 1)])
@given(size=sizes, seed=st.integers(0, 2**32))
@settings(max_examples=min(25, settings().max_examples), deadline=None, suppress_health_check=list(HealthCheck))
def test_shards_are_laid_out_by_the_rule(tmp_path, small_pieces, ratio, size, seed):
    dat = np.random.default_rng(seed).bytes(size)
    sums = coded(tmp_path, dat, ratio)
    expected = plain_shards(dat, ratio)
    layout = Layout.of_dat(size, ratio.data, LARGE, SMALL)
    found = [(tmp_path / f"1{shard_extension(shard)}").read_bytes() for shard in range(ratio.total)]
    assert found[: ratio.data] == expected
    assert layout.shard_bytes(size) == len(expected[0])
    for shard, data in zip(sums.shards, found, strict=True):
        assert shard.covered_bytes == len(data)
        assert list(shard.blocks) == [crc32c(data[at : at + 4 * PIECE]) for at in range(0, len(data), 4 * PIECE)]
    for path in tmp_path.iterdir():
        path.unlink()
    start = seed % (size + 1)
    pieces = list(layout.locate(start, min(200, size - start)))
    assert b"".join(found[s][o : o + n] for s, o, n in pieces) == dat[start : start + min(200, size - start)]


def shard_files(tmp_path, ratio, lost):
    places = {shard: tmp_path / f"1{shard_extension(shard)}" for shard in range(ratio.total)}
    present = {shard: (path, path.stat().st_size) for shard, path in places.items() if shard not in lost}
    return rebuild.ShardFiles(tmp_path / "1", present, places)


@pytest.mark.slow
def test_every_loss_of_up_to_four_shards_is_mended(tmp_path, small_pieces, way):
    """Slow: there are some 1500 of them. Of these numpy mends one in seven."""
    dat = os.urandom(10 * SMALL + 17)
    sums = coded(tmp_path, dat)
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    losses = [lost for count in range(1, 5) for lost in itertools.combinations(range(14), count)]
    for lost in losses if way == "compiled" else losses[::7]:
        for shard in lost:
            (tmp_path / f"1{shard_extension(shard)}").unlink()
        with_sums = (bitrot.Protection.ON, sums) if sum(lost) % 2 else ()
        assert rebuild.rebuild(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, lost), DEFAULT_RATIO, *with_sums) == (
            list(lost)
        )
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_more_losses_than_parity_change_nothing(tmp_path, small_pieces):
    coded(tmp_path, os.urandom(100))
    with pytest.raises(RebuildFailed, match="found 9 shards, need at least 10"):
        rebuild.rebuild(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, range(5)), DEFAULT_RATIO)


def test_damaged_shards_are_found_and_made_anew(tmp_path, small_pieces):
    sums = coded(tmp_path, os.urandom(5000))
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for shard in (2, 11):
        path = tmp_path / f"1{shard_extension(shard)}"
        path.write_bytes(content[path][:-1] + bytes((content[path][-1] ^ 1,)))
    (tmp_path / "1.ec05").write_bytes(b"short")
    (tmp_path / "1.ec07").unlink()
    found = shard_files(tmp_path, DEFAULT_RATIO, [7])
    assert sorted(rebuild.rebuild(OS_FILES, found, DEFAULT_RATIO, bitrot.Protection.ON, sums)) == [2, 5, 7, 11]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_checksums_of_something_else_are_not_believed(tmp_path, small_pieces):
    coded(tmp_path, os.urandom(3000))
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "other").mkdir()
    wrong = coded(tmp_path / "other", os.urandom(3000))
    found = shard_files(tmp_path, DEFAULT_RATIO, [])
    with pytest.raises(RebuildFailed, match="14/14 present shards mismatch"):
        rebuild.rebuild(OS_FILES, found, DEFAULT_RATIO, bitrot.Protection.ON, wrong)
    with pytest.raises(RebuildFailed, match="refusing to rebuild"):
        rebuild.rebuild(OS_FILES, found, DEFAULT_RATIO, bitrot.Protection.INVALID, None)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == content


@given(st.data())
@settings(max_examples=min(30, settings().max_examples), deadline=None, suppress_health_check=list(HealthCheck))
def test_decoding_gives_the_dat(tmp_path, small_pieces, data):
    dat = os.urandom(data.draw(sizes.filter(bool)))
    coded(tmp_path, dat)
    fds = [os.open(tmp_path / f"1{shard_extension(shard)}", os.O_RDONLY) for shard in range(10)]
    wanted = data.draw(st.integers(1, len(dat)))
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    write_dat(OS_FILES, fds, out, [Run(0, 0, wanted)], Layout.of_dat(len(dat), 10, LARGE, SMALL))
    for fd in (*fds, out):
        os.close(fd)
    assert (tmp_path / "out").read_bytes() == dat[:wanted]


def test_an_ambiguous_layout_is_not_decoded():
    gib = 1 << 30
    assert layout_for_decode("1", 5, 0, 2 * gib, 10).large_rows == 2
    with pytest.raises(DecodeFailed, match="does not identify the block layout"):
        layout_for_decode("1", 10 * gib - 5, 0, gib, 10)
    with pytest.raises(DecodeFailed, match="exceeds encoded"):
        layout_for_decode("1", 11, 10, gib, 10)
    assert layout_for_decode("1", 5, 10 * gib, gib, 10).large_rows == 1
    assert layout_for_decode("1", 5, 10 * gib - 1, gib, 10).large_rows == 0
    assert Layout.of_shard(gib, 10).large_rows == 0


@pytest.mark.parametrize(
    ("encoded_bytes", "shard_bytes"),
    [
        (10 * GIB - 1, GIB + MIB),
        (10 * GIB - 1, GIB - MIB),
        (10 * GIB, GIB - MIB),
        (10 * GIB + 5, MIB),
        (10 * GIB + 5, GIB),
        (20 * GIB - 1, 2 * GIB + MIB),
        (10 * MIB + 1, MIB),
    ],
)
def test_shards_of_another_length_than_the_vif_says_are_not_decoded(encoded_bytes, shard_bytes):
    """Blocks of 1 MiB would be taken for blocks of 1 GiB, or the other way round."""
    with pytest.raises(DecodeFailed, match=f"shard size {shard_bytes} of 1 does not fit the dat file size"):
        layout_for_decode("1", 5, encoded_bytes, shard_bytes, 10)


@pytest.mark.parametrize("large_rows", [0, 1, 2])
@pytest.mark.parametrize("rest_bytes", [0, 1, 10 * MIB, 10 * MIB + 1, 10 * GIB - 10 * MIB, 10 * GIB - 1])
def test_shards_of_the_length_that_the_vif_says_are_decoded(large_rows, rest_bytes):
    encoded_bytes = large_rows * 10 * GIB + rest_bytes
    if encoded_bytes:
        length = shard_bytes_of(encoded_bytes, 10)
        assert layout_for_decode("1", 1, encoded_bytes, length, 10).large_rows == large_rows


def test_shards_that_were_written_to_while_they_were_made_are_decoded():
    """Upstream takes the length of the .dat before it codes the .dat."""
    assert layout_for_decode("1", 5, 10 * MIB, 2 * MIB, 10).large_rows == 0
    assert layout_for_decode("1", 5, 10 * GIB, GIB + MIB, 10).large_rows == 1


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_checksums_of_pieces_give_those_of_blocks(values, each):
    data = struct.pack(f">{len(values)}I", *values)
    pieces = np.array([[crc32c(data[at : at + 4]) for at in range(0, len(data), 4)]], np.uint32)
    blocks = join_pieces(pieces, 4, 4 * each)[0]
    assert [int(one) for one in blocks] == [crc32c(data[at : at + 4 * each]) for at in range(0, len(data), 4 * each)]


rows = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2**31), st.integers(-2, 50)), max_size=600)


@given(rows, st.sampled_from([4, 5]), st.sets(st.integers(0, 40)))
def test_an_index_has_the_last_word_on_each_live_needle(entries, width, deleted):
    idx = b"".join(encode_entry(key, offset, size, width) for key, offset, size in entries)
    live = {}
    for key, offset, size in entries:
        live.pop(key, None)
        if offset and size >= 0:
            live[key] = (offset, size)
    ecx = sorted_rows(idx + b"torn", width)
    assert [(e.needle_id, (e.offset, e.size)) for e in iter_entries(ecx, width)] == sorted(live.items())

    def read(length, offset):
        return ecx[offset : offset + length]

    for key in range(40):
        found = find_row(read, len(ecx), key, width)
        assert (found and (found.offset, found.size)) == live.get(key)
    marked = {e.needle_id for e in iter_entries(with_deletions(ecx, deleted, width, None), width) if e.size == -1}
    assert marked == deleted & live.keys()


@pytest.mark.slow
def test_a_checksum_file_is_believed_only_whole(tmp_path):
    """Slow: writes two files for each byte."""
    sums = bitrot.checksums_of(DEFAULT_RATIO, 100, np.arange(14, dtype=np.uint32).reshape(14, 1))
    content = bitrot.encode_checksums(sums)
    assert bitrot.parse_checksums(content) == sums
    path = tmp_path / "1.ecsum"
    assert bitrot.load_checksums(OS_FILES, [path], DEFAULT_RATIO)[0] is bitrot.Protection.OFF
    path.write_bytes(content)
    assert bitrot.load_checksums(OS_FILES, [path], DEFAULT_RATIO) == (bitrot.Protection.ON, sums)
    assert bitrot.load_checksums(OS_FILES, [path], Ratio(9, 3))[0] is bitrot.Protection.OFF
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
        assert bitrot.load_checksums(OS_FILES, [path], DEFAULT_RATIO)[0] is bitrot.Protection.INVALID, at
        path.write_bytes(content[:at])
        assert bitrot.load_checksums(OS_FILES, [path], DEFAULT_RATIO)[0] is bitrot.Protection.INVALID, at


@pytest.mark.slow
@pytest.mark.parametrize("lost", [(), (4,), (3, 11), (0, 9)])
@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_wrong_shards_are_named(tmp_path, small_pieces, lost, data):
    """Up to half as many wrong shards at each place as there are more shards than data shards. Slow: each of twenty
    examples codes a file and checks all of its shards.
    """
    for path in tmp_path.iterdir():
        path.unlink()
    coded(tmp_path, os.urandom(3000))
    here = [shard for shard in range(14) if shard not in lost]
    shard_bytes = (tmp_path / "1.ec05").stat().st_size
    places = data.draw(st.lists(st.integers(0, shard_bytes - 1), unique=True, max_size=5))
    expected = Counter()
    for place in places:
        for shard in data.draw(st.lists(st.sampled_from(here), unique=True, min_size=1, max_size=(4 - len(lost)) // 2)):
            path = tmp_path / f"1{shard_extension(shard)}"
            content = bytearray(path.read_bytes())
            content[place] ^= data.draw(st.integers(1, 255))
            path.write_bytes(content)
            expected[shard] += 1
    passed = []
    verdict = verify.verify(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, lost), DEFAULT_RATIO, passed.append)
    assert (verdict.wrong_bytes, verdict.undecided_bytes) == (expected, 0)
    assert verdict.is_sound is not bool(places)
    assert (verdict.missing, sum(passed)) == (list(lost), shard_bytes)
    assert (verdict.checksums is not None) == (not lost and not places)


def test_checksums_of_sound_shards_are_those_of_their_coding(tmp_path, small_pieces):
    sums = coded(tmp_path, os.urandom(5000))
    verdict = verify.verify(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, ()), DEFAULT_RATIO)
    assert verdict.checksums == sums


def test_what_cannot_be_told_of_shards_is_said(tmp_path, small_pieces):
    coded(tmp_path, os.urandom(3000))
    with pytest.raises(VerifyFailed, match="10 shards of one length are here; 11 at least are needed"):
        verify.verify(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, range(4)), DEFAULT_RATIO)
    path = tmp_path / "1.ec02"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    verdict = verify.verify(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, (4, 5, 6)), DEFAULT_RATIO)
    assert (verdict.wrong_bytes, verdict.undecided_bytes, verdict.is_sound) == (Counter(), 1, False)
    path.write_bytes(b"short")
    verdict = verify.verify(OS_FILES, shard_files(tmp_path, DEFAULT_RATIO, ()), DEFAULT_RATIO)
    assert (verdict.other_lengths, verdict.is_sound, verdict.checksums) == ({2: 5}, False, None)
