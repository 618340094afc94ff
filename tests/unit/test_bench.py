"""The bench's model, reports and generators, without servers; and one run of the whole table, as small as it can be."""

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bench import catalogue, generator, plot, report
from bench.found import Program
from bench.lines import Aim, Better, Figure, Line, Result, spread_of
from bench.object_load import parse_wrk
from bench.startup import parse_smaps
from bench.weed_benchmark import BenchmarkRates, ReportError, parse_report
from support.threaded_servers import running

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
REPORT = """
------------ Writing Benchmark ----------
Completed 512 of 1000 requests, 51.2% 511.5/s 0.5MB/s

Concurrency Level:      16
Time taken for tests:   0.287 seconds
Completed requests:      1000
Failed requests:        {failed}
Total transferred:      1056013 bytes
Requests per second:    3480.44 [#/sec]
Transfer rate:          3589.21 [Kbytes/sec]

Connection Times (ms)
              min      avg        max      std
Total:        0.3      4.5       40.3      3.9

------------ Randomly Reading Benchmark ----------

Concurrency Level:      16
Time taken for tests:   0.086 seconds
Completed requests:      {read}
Failed requests:        0
Total transferred:      1056013 bytes
Requests per second:    11652.24 [#/sec]
Transfer rate:          12016.55 [Kbytes/sec]
"""
SMAPS = """\
00400000-00b4e000 r-xp 00000000 fe:00 1183 /usr/bin/python3.11
Size:               7480 kB
Rss:                3000 kB
Pss:                 500 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00d4d000-00e4d000 rw-p 0074d000 fe:00 1183 /usr/bin/python3.11
Rss:                 100 kB
Anonymous:            60 kB
VmFlags: rd wr mr mw me
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Rss:                1000 kB
Anonymous:          1000 kB
VmFlags: rd wr mr mw me
"""


def result_of(figures, *, aims=None, better=Better.MORE, baseline="go"):
    """A result of the servers and figures in `figures`."""
    line = Line("key", "group", "name", "MB/s", tuple(figures), aims or {}, better=better, baseline=baseline)
    made = Result(line, "wrk")
    for server, seen in figures.items():
        for figure in seen:
            made.add(server, Figure(figure))
    return made


def test_a_ratio_is_made_within_its_round():
    seen = result_of({"go": [100, 200, 50], "native": [50, 200, 100]})
    assert seen.ratios("native") == [0.5, 1.0, 2.0]
    assert spread_of(seen.ratios("native")) == (1.0, 0.5, 2.0)
    assert seen.spread("go") == (100, 50, 200)


def test_without_the_baseline_there_is_no_ratio_and_no_judgement():
    seen = result_of({"native": [50, 60]}, aims={"native": Aim(1.0)})
    assert seen.ratios("native") is None
    assert seen.is_met("native") is None
    assert seen.spread("native") == (55, 50, 60)


def test_a_ratio_to_another_server_than_the_baseline():
    seen = result_of({"go": [100], "nginx": [50], "proxy-go": [40]}, baseline="nginx")
    assert seen.ratios("proxy-go") == [0.8]
    assert seen.ratios("proxy-go", "go") == [0.4]


def test_servers_with_unequal_rounds_have_no_ratios():
    with pytest.raises(ValueError, match="zip"):
        result_of({"go": [100, 200], "native": [50]}).ratios("native")


def test_no_round_has_no_spread():
    with pytest.raises(ValueError, match="no round"):
        spread_of([])


@pytest.mark.parametrize(
    ("aim", "better", "met"),
    [
        (Aim(0.5), Better.MORE, True),
        (Aim(0.51), Better.MORE, False),
        (Aim(0.5), Better.LESS, True),
        (Aim(0.49), Better.LESS, False),
        (Aim(50, is_ratio=False), Better.MORE, True),
        (Aim(49, is_ratio=False), Better.LESS, False),
    ],
)
def test_an_aim_is_judged_by_the_median(aim, better, met):
    seen = result_of({"go": [100, 100, 100], "native": [1, 50, 99]}, aims={"native": aim}, better=better)
    assert seen.is_met("native") is met
    assert seen.is_met("go") is None


def test_measured_servers_come_in_the_order_of_the_line():
    line = Line("key", "group", "name", "s", ("go", "rust", "native"))
    seen = Result(line)
    seen.add("native", Figure(1.0))
    seen.add("go", Figure(2.0))
    assert seen.measured() == ["go", "native"]


@pytest.mark.parametrize("line", catalogue.LINES, ids=lambda line: line.key)
def test_each_line_has_an_aim_or_says_why_it_has_none(line):
    assert bool(line.aims) != bool(line.why_no_aim)
    assert set(line.aims) <= set(line.servers)
    assert line.baseline in line.servers


def test_the_lines_have_keys_of_their_own():
    keys = [line.key for line in catalogue.LINES]
    assert len(set(keys)) == len(keys)
    assert [catalogue.line_of(key) for key in keys] == list(catalogue.LINES)


def test_the_page_has_each_line_with_its_aims():
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| ")]
    for line in catalogue.LINES:
        (row, *_) = [row for row in rows if row.startswith(f"| {line.name} | ")] or [""]
        assert row, f"{PAGE.name} has no row for {line.name}"
        last_cell = row.rstrip("| ").rpartition("| ")[2]
        assert set(re.findall(r"\d\.\d", last_cell)) == {f"{aim.value:.1f}" for aim in line.aims.values()}, row


def test_the_printed_table(capsys):
    seen = result_of({"go": [100.0, 200.0], "native": [50.0, 150.0]}, aims={"native": Aim(0.7)})
    report.print_head()
    report.print_result(seen)
    head, _, go, native = capsys.readouterr().out.splitlines()
    assert head.startswith("| line | server | unit | median |")
    assert go == "| name | go | MB/s | 150 | 100 to 200 |  |  |  |  |  |  | wrk |"
    assert native == "| name | native | MB/s | 100 | 50 to 150 | go | 0.62 | 0.50 to 0.75 | 0.7 | no |  | wrk |"


def test_a_busy_generator_is_named(capsys):
    seen = result_of({})
    seen.line = Line("key", "group", "name", "MB/s", ("go",))
    seen.add("go", Figure(100, 0.97, 1.234))
    report.print_result(seen)
    assert "| 1.23 | wrk (used 97% of a processor: it may be the limit) |" in capsys.readouterr().out


def test_a_line_that_nobody_was_measured_for_says_why(capsys):
    seen = Result(catalogue.LINES[0], left_out={"go": "no weed", "native": "no weed"})
    report.print_result(seen)
    assert capsys.readouterr().out.count("not measured: no weed") == 1


def test_the_ratio_to_go_stands_beside_the_one_to_nginx(capsys):
    report.print_result(result_of({"go": [100], "nginx": [50], "proxy-go": [40]}, baseline="nginx"))
    rows = capsys.readouterr().out.splitlines()
    assert "| nginx | 0.80 | 0.80 to 0.80 |" in rows[-2]
    assert "| go | 0.40 | 0.40 to 0.40 |" in rows[-1]


def test_the_json_has_all_figures_with_what_they_were_measured_on():
    seen = result_of({"go": [100.0, 200.0], "native": [50.0, 150.0]}, aims={"native": Aim(0.7)})
    seen.left_out["rust"] = "no Rust server"
    programs = {"go": Program("/bin/weed", "version 4.44"), "wrk": Program(None, why_not="not installed")}
    text = report.as_json([seen], {"processors": 2}, programs, {"rounds": 2}, "2026-01-02T03:04:05+00:00")
    read = json.loads(text)
    assert read == {
        "schema": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"processors": 2},
        "programs": {
            "go": {"found": True, "version": "version 4.44", "why_not": ""},
            "wrk": {"found": False, "version": "", "why_not": "not installed"},
        },
        "options": {"rounds": 2},
        "lines": [
            {
                "key": "key",
                "group": "group",
                "name": "name",
                "unit": "MB/s",
                "better": "more",
                "baseline": "go",
                "aims": {"native": {"value": 0.7, "is_ratio": True}},
                "why_no_aim": "",
                "generator": "wrk",
                "left_out": {"rust": "no Rust server"},
                "servers": {
                    "go": {
                        "figures": [100.0, 200.0],
                        "ratios": [1.0, 1.0],
                        "generator_busy": None,
                        "server_busy": None,
                        "is_met": None,
                    },
                    "native": {
                        "figures": [50.0, 150.0],
                        "ratios": [0.5, 0.75],
                        "generator_busy": None,
                        "server_busy": None,
                        "is_met": False,
                    },
                },
            }
        ],
    }


@pytest.mark.slow
def test_the_plot_is_an_svg_with_each_ratio(tmp_path):
    """Slow: loads matplotlib."""
    pytest.importorskip("matplotlib")
    seen = result_of({"go": [100.0, 200.0], "native": [50.0, 150.0]}, aims={"native": Aim(0.7)})
    assert plot.write_plot([seen], tmp_path / "plot.svg", "a title") == ""
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn.startswith("<?xml")
    assert all(text in drawn for text in ("name, native / go", "a title", ">0.62<"))


def test_without_matplotlib_the_bench_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    seen = result_of({"go": [100.0], "native": [50.0]})
    assert "weed-volume-py[bench]" in plot.write_plot([seen], tmp_path / "plot.svg", "")
    assert not list(tmp_path.iterdir())


def test_without_ratios_there_is_no_plot(tmp_path):
    assert plot.write_plot([result_of({"native": [50.0]})], tmp_path / "plot.svg", "") == plot.NO_RATIO
    assert not list(tmp_path.iterdir())


def test_the_report_of_weed_benchmark():
    assert parse_report(REPORT.format(failed=0, read=1000), 1000) == BenchmarkRates(3480.44, 11652.24)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REPORT.format(failed=1, read=1000), "1000 of 1000 requests, 1 failed"),
        (REPORT.format(failed=0, read=999), "999 of 1000 requests, 0 failed"),
        (REPORT.format(failed=0, read=1000).split("------------ Randomly")[0], "no Randomly Reading Benchmark"),
        (REPORT.format(failed=0, read=1000).replace("Requests per second", "Rate"), "no Requests per second"),
        ("", "no Writing Benchmark"),
    ],
)
def test_a_report_of_weed_benchmark_that_lacks_requests_is_refused(text, message):
    with pytest.raises(ReportError, match=message):
        parse_report(text, 1000)


def test_the_report_of_wrk():
    assert parse_wrk("  30000 requests in 1.50s, 2.00MB read\nRequests/sec: 20000\n") == (30000, 1.5, 2 << 20)


@pytest.mark.parametrize(
    "text",
    [
        "  30 requests in 1.50s, 2.00KB read\n  Non-2xx or 3xx responses: 3\n",
        "  30 requests in 1.50s, 2.00KB read\n  Socket errors: connect 0, read 1, write 0, timeout 0\n",
        "  0 requests in 1.50s, 0.00B read\n",
        "unable to connect",
    ],
)
def test_failures_in_the_report_of_wrk_are_refused(text):
    with pytest.raises(ValueError, match="wrk reports"):
        parse_wrk(text)


class Objects(BaseHTTPRequestHandler):
    """Answers as a volume server does, and keeps what it was asked for."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        self._answer(200 if self.path == "/1,1" else 404, b"x" * 8)

    def do_POST(self):
        assert b"x" * 8 in self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201, b"{}")

    def do_DELETE(self):
        self._answer(202, b"{}")

    def _answer(self, status, body):
        self.server.seen.append((self.command, self.path))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: the test looks at `seen`."""


class ObjectServer(ThreadingHTTPServer):
    """Keeps quiet where the generator gives a connection up, as it does after an answer that it refuses."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def objects():
    server = ObjectServer(("127.0.0.1", 0), Objects)
    server.seen = []
    with running(server):
        yield server


def plan_for(server, **fields):
    """A plan of eight bytes on two connections, until its ids are used up."""
    host, port = server.server_address
    common = {"host": host, "port": port, "connections": 2, "bytes": 8, "seconds": 0, "volume": 3, "first_id": 1}
    return common | {"ids": 0} | fields


@pytest.mark.parametrize("kind", ["post", "delete"])
def test_the_generator_asks_once_for_each_id(objects, kind):
    done = generator.run(plan_for(objects, kind=kind, ids=30))
    assert (done["done"], done["answered"]) == (30, 30)
    assert done["taken_s"] > 0
    assert sorted(objects.seen) == sorted((kind.upper(), f"/3,{number:x}{generator.COOKIE}") for number in range(1, 31))


def test_the_generator_counts_no_answer_after_its_time(objects):
    done = generator.run(plan_for(objects, kind="get", target="/1,1", seconds=0.05))
    assert 0 < done["done"] <= done["answered"] == len(objects.seen)
    assert done["taken_s"] >= 0.05


@pytest.mark.parametrize(("target", "size"), [("/missing", 8), ("/1,1", 9)])
def test_the_generator_refuses_another_answer(objects, target, size):
    with pytest.raises(generator.UnexpectedAnswer, match="wanted 200"):
        generator.run(plan_for(objects, kind="get", target=target, bytes=size, seconds=5))


def test_an_answer_in_pieces_is_whole_with_its_last_byte():
    whole = b"HTTP/1.1 201 Created\r\nX: y\r\ncontent-length: 3\r\n\r\nabc"
    assert [size for size in range(len(whole) + 1) if generator.is_whole(whole[:size], b"201", None)] == [len(whole)]
    with pytest.raises(generator.UnexpectedAnswer, match="1 bytes after"):
        generator.is_whole(whole + b"d", b"201", 3)


def test_memory_is_read_by_mapping():
    assert list(parse_smaps(SMAPS)) == [
        (("fe:00", "1183", "00000000"), 3000 << 10, 0),
        (("fe:00", "1183", "0074d000"), 100 << 10, 60 << 10),
        (("00:00", "0", "00000000"), 1000 << 10, 1000 << 10),
    ]


def run_bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_the_measurements_load():
    """Slow: starts a program."""
    ended = run_bench("--help")
    assert ended.returncode == 0, ended.stderr
    assert "sweep-volumes" in ended.stdout


@pytest.mark.slow
def test_the_whole_table_without_other_programs(tmp_path):
    """Slow: starts servers, and loads two of them with each line that needs no other program."""
    small = ["--rounds", "1", "--seconds", "0.1", "--large-requests", "8", "--copy-mib", "4"]
    files = ["--json", str(tmp_path / "table.json"), "--svg", str(tmp_path / "table.svg")]
    alone = {"WEED_BINARY": "/none", "RUST_VOLUME_BINARY": "/none", "PATH": "/none"}
    ended = run_bench(*small, *files, **alone)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    read = json.loads((tmp_path / "table.json").read_text())
    measured = {line["key"]: list(line["servers"]) for line in read["lines"]}
    expected = {
        line.key: [server for server in line.servers if server in {"native", "native-workers"}]
        for line in catalogue.LINES
        if "native" in line.servers and line.group != "weed-benchmark" and line.key != "unary-at-once"
    }
    assert {key: servers for key, servers in measured.items() if servers} == expected
    assert list(measured) == [line.key for line in catalogue.LINES]
    assert all(min(one["servers"]["native"]["figures"]) > 0 for one in read["lines"] if one["servers"])
    assert plot.NO_RATIO in ended.stdout
    assert not read["programs"]["go"]["found"]
