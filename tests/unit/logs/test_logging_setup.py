"""From a logging call to the bytes of a line."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from datetime import datetime
from pathlib import Path

import pytest

from supervisor.config.config import LogConfig
from supervisor.logs.repeats import BURST, WINDOW_S
from supervisor.logs.setup import LogHandler, set_up_logging

OWN = logging.getLogger("supervisor.some.part")
CHILD = logging.getLogger("supervisor.backend.output")
GLOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} (.*)")


@pytest.fixture
def start():
    """Sets logging up on a stream of its own, and puts everything back."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "supervisor", "native_handlers")}

    def start(verbosity=0, json_lines=False, stream=None):
        stream = stream if stream is not None else io.StringIO()
        set_up_logging(LogConfig(verbosity, json_lines, None), stream)
        return stream

    yield start
    logging.captureWarnings(False)
    for handler in [handler for handler in root.handlers if isinstance(handler, LogHandler)]:
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def child_line(level, text):
    CHILD.log(level, "%s", text, extra={"backend": "weed"})


def test_a_glog_line(start):
    stream = start()
    before = datetime.now().astimezone()
    OWN.warning("volume %d is full", 7)
    line = stream.getvalue()
    assert re.fullmatch(r"W\d{4} \d\d:\d\d:\d\d\.\d{6} test_logging_setup\.py:\d+ volume 7 is full\n", line)
    assert line[1:5] in {f"{before:%m%d}", f"{datetime.now().astimezone():%m%d}"}


@pytest.mark.parametrize(("level", "letter"), [(10, "I"), (20, "I"), (30, "W"), (40, "E"), (50, "F")], ids=str)
def test_levels_are_letters(start, level, letter):
    stream = start(verbosity=1)
    OWN.log(level, "x")
    assert stream.getvalue()[0] == letter


def test_a_json_line(start):
    stream = start(json_lines=True)
    OWN.critical('a "quoted"\nüber line')
    fields = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert datetime.fromisoformat(fields.pop("ts")).utcoffset().total_seconds() == 0
    assert fields.pop("line") > 0
    assert fields == {
        "level": "FATAL",
        "file": "test_logging_setup.py",
        "msg": 'a "quoted"\nüber line',
        "logger": "supervisor.some.part",
    }


def test_the_backends_line_keeps_its_level_and_its_source(start):
    stream = start()
    child_line(logging.ERROR, "volume.go:123 loading failed")
    child_line(logging.WARNING, "volume.go:123] older form")
    child_line(logging.ERROR, "goroutine 1 [running]:")
    lines = stream.getvalue().splitlines()
    assert [line[0] for line in lines] == ["E", "W", "E"]
    assert [GLOG.fullmatch(line)[1] for line in lines] == [
        "[weed] volume.go:123 loading failed",
        "[weed] volume.go:123 older form",
        "[weed] goroutine 1 [running]:",
    ]


def test_the_backends_line_as_json(start):
    stream = start(json_lines=True)
    child_line(logging.WARNING, "volume.go:123 disk is slow")
    fields = json.loads(stream.getvalue())
    del fields["ts"]
    assert fields == {"level": "WARNING", "file": "volume.go", "line": 123, "msg": "disk is slow", "backend": "weed"}


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_stack_comes_with_its_line_and_without_secrets(start, json_lines):
    stream = start(json_lines=json_lines)
    try:
        raise ValueError("bad ?jwt=s3cr3t here")
    except ValueError:
        OWN.exception("failed")
    text = stream.getvalue()
    assert "Traceback" in text
    assert "ValueError: bad ?jwt=<redacted> here" in text
    assert "s3cr3t" not in text
    if not json_lines:
        assert all(line.startswith("    ") for line in text.splitlines()[1:])


def test_stack_info_is_written(start):
    stream = start()
    OWN.info("where", stack_info=True)
    assert "\n    Stack (most recent call last):" in stream.getvalue()


@pytest.mark.parametrize("json_lines", [False, True])
def test_text_from_outside_cannot_forge_a_line_or_drive_a_terminal(start, json_lines):
    stream = start(json_lines=json_lines)
    OWN.info("path %s", "/a\nE1123 10:11:12.123456 main.py:1 forged\r\x1b[2Jx\x9b")
    first, *rest = stream.getvalue().splitlines()
    assert all(line.startswith("    ") for line in rest)
    assert not {"\x1b", "\r", "\x9b"} & set(stream.getvalue())
    assert "path /a" in first


def test_tokens_are_redacted_in_arguments(start):
    stream = start()
    OWN.info("%s %s", "GET", "/3,01?jwt=abcdef")
    assert stream.getvalue().endswith("GET /3,01?jwt=<redacted>\n")


@pytest.mark.parametrize(("verbosity", "shown"), [(0, ""), (1, "own"), (3, "own"), (4, "own library")])
def test_verbosity_opens_debug_lines(start, verbosity, shown):
    stream = start(verbosity=verbosity)
    OWN.debug("own")
    logging.getLogger("some.library").debug("library")
    logging.getLogger("native_handlers.storage").debug("")
    assert [
        line.rsplit(" ", 1)[1] for line in stream.getvalue().splitlines() if not line.endswith(" ")
    ] == shown.split()


def test_libraries_are_heard_when_they_warn(start):
    stream = start()
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    assert stream.getvalue().count("\n") == 1


def test_warnings_of_python_are_logged(start):
    stream = start()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("an old call", DeprecationWarning, stacklevel=1)
    assert "an old call" in stream.getvalue()


def test_repeats_are_held_back_and_counted(start, monkeypatch):
    stream = start()
    now = 1_000_000.0
    monkeypatch.setattr("logging.time.time_ns", lambda: int(now * 1e9), raising=False)
    monkeypatch.setattr("logging.time.time", lambda: now)

    def fail(volume_id):
        OWN.error("volume %d fails", volume_id)

    for volume_id in range(BURST + 32):
        fail(volume_id)
    assert stream.getvalue().count("\n") == BURST
    now += WINDOW_S + 1
    fail(99)
    summary, last = stream.getvalue().splitlines()[BURST:]
    assert re.fullmatch(r"E.* test_logging_setup\.py:\d+ 32 more lines like: volume # fails", summary)
    assert last.endswith("volume 99 fails")


def test_repeats_of_the_backend_are_told_as_the_backends(start):
    stream = start()
    for _ in range(BURST + 3):
        child_line(logging.ERROR, "store.go:5 disk gone")
    set_up_logging(LogConfig(0, False, None), io.StringIO())
    assert GLOG.fullmatch(stream.getvalue().splitlines()[-1])[1] == "[weed] store.go:5 3 more lines like: disk gone"


def test_last_words_stacks_and_debug_lines_are_never_held_back(start):
    stream = start(verbosity=1)
    for _ in range(3 * BURST):
        OWN.critical("the end")
        OWN.debug("detail")
        child_line(logging.ERROR, "goroutine 5 [select]:")
    assert stream.getvalue().count("\n") == 9 * BURST


def test_a_second_setup_replaces_the_first_and_tells_what_it_held_back(start):
    first = start()
    for _ in range(BURST + 4):
        OWN.info("again")
    second = start()
    OWN.info("once")
    assert first.getvalue().splitlines()[-1].endswith("4 more lines like: again")
    assert second.getvalue().count("\n") == 1


class BrokenStream(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "nobody reads")


def test_a_reader_that_went_away_hurts_nobody(start, capsys):
    start(stream=BrokenStream())
    OWN.error("unheard")
    assert capsys.readouterr().err == ""


def test_a_closed_stream_hurts_nobody(start, capsys):
    stream = start()
    stream.close()
    OWN.error("unheard")
    assert capsys.readouterr().err == ""


def test_a_wrong_logging_call_is_seen_and_does_not_break_its_caller(capsys):
    handler = LogHandler(io.StringIO())
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": logging.INFO}))
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.stream.getvalue() == ""


def test_without_standard_error_there_is_no_log(monkeypatch, start):
    start()
    monkeypatch.setattr(sys, "stderr", None)
    assert set_up_logging(LogConfig(0, False, Path("unused"))) is None
    OWN.error("unheard")
