from __future__ import annotations

from supervisor.logs.repeats import BURST, MAX_KINDS, WINDOW_S, LineKind, RepeatLimiter, Suppressed, shape_of


def kind(shape, **changes):
    return LineKind(**{"logger": "x", "level": 20, "file": "f.py", "line": 1, "shape": shape} | changes)


def admitted(limiter, line, now_s, times):
    return sum(limiter.admit(line, now_s) for _ in range(times))


def test_a_burst_passes_and_the_rest_is_counted_until_the_window_is_over():
    limiter = RepeatLimiter()
    assert admitted(limiter, kind("a"), 100.0, BURST + 5) == BURST
    assert not limiter.admit(kind("a"), 101.0)
    assert list(limiter.take_due(100.0 + WINDOW_S - 0.1)) == []
    assert list(limiter.take_due(100.0 + WINDOW_S)) == [Suppressed(kind("a"), 6, 101.0)]
    assert list(limiter.take_due(200.0)) == []
    assert limiter.admit(kind("a"), 200.0)


def test_kinds_do_not_count_together():
    limiter = RepeatLimiter()
    kinds = [
        kind("a"),
        kind("b"),
        kind("a", level=30),
        kind("a", line=2),
        kind("a", backend="weed"),
        kind("a", logger="y"),
    ]
    for line in kinds:
        assert admitted(limiter, line, 1.0, BURST) == BURST


def test_a_clock_that_was_set_back_closes_the_windows_of_the_future():
    limiter = RepeatLimiter()
    admitted(limiter, kind("a"), 1000.0, BURST + 1)
    assert list(limiter.take_due(10.0)) == [Suppressed(kind("a"), 1, 1000.0)]
    assert limiter.admit(kind("a"), 10.0)


def test_memory_is_bounded_and_nothing_held_back_goes_untold():
    limiter = RepeatLimiter()
    admitted(limiter, kind("first"), 1.0, BURST + 1)
    told = []
    for number in range(3 * MAX_KINDS):
        told += limiter.take_due(1.0)
        limiter.admit(kind(str(number)), 1.0)
    assert told == [Suppressed(kind("first"), 1, 1.0)]
    assert limiter.kind_count <= MAX_KINDS + 1


def test_take_all_closes_open_windows():
    limiter = RepeatLimiter()
    admitted(limiter, kind("a"), 1.0, BURST + 2)
    admitted(limiter, kind("b"), 1.0, 1)
    assert list(limiter.take_all()) == [Suppressed(kind("a"), 2, 1.0)]
    assert list(limiter.take_all()) == []


def test_shapes_ignore_numbers_and_ids_and_stop_at_the_first_line():
    assert shape_of("volume 7: needle 01ab37d6 from 127.0.0.1:80") == shape_of("volume 12: needle 9 from 127.0.0.2:9")
    assert shape_of("volume 7 not found") == "volume # not found"
    assert shape_of("volume gone") != shape_of("volume lost")
    assert shape_of("a\nb") == "a"
    assert len(shape_of("x" * 10_000)) == 200
