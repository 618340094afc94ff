"""The lines of the table, with their aims. docs/performance.md explains each of them."""

from bench.lines import GO, NATIVE, NATIVE_WORKERS, NGINX, PROXY, PROXY_WORKERS, RUST, Aim, Better, Line

PAYLOAD_BYTES = 1024
READERS = 32
"""Connections of the small reads and of what is forwarded."""
BENCHMARK_CLIENTS = 16
LARGE_CONNECTIONS = 8

_DIRECT = (GO, RUST, NATIVE)
_WITH_WORKERS = (*_DIRECT, NATIVE_WORKERS)
_FORWARDED = (GO, NGINX, PROXY, PROXY_WORKERS)


def _ours(native, proxy=None):
    """The aims of our servers, with workers and without."""
    aims = dict.fromkeys((NATIVE, NATIVE_WORKERS), native)
    return aims if proxy is None else aims | dict.fromkeys((PROXY, PROXY_WORKERS), proxy)


LINES = (
    Line("get-1k-32", "get", "GET 1 KiB, 32 connections", "requests/s", _WITH_WORKERS, _ours(Aim(1.0))),
    Line("post-1k-1", "write", "POST 1 KiB, 1 connection", "requests/s", _WITH_WORKERS, _ours(Aim(1.0))),
    Line("delete-1k-1", "write", "DELETE 1 KiB, 1 connection", "requests/s", _WITH_WORKERS, _ours(Aim(1.0))),
    Line("post-1k-16", "write", "POST 1 KiB, 16 connections", "requests/s", _WITH_WORKERS, _ours(Aim(0.8))),
    Line("delete-1k-16", "write", "DELETE 1 KiB, 16 connections", "requests/s", _WITH_WORKERS, _ours(Aim(0.8))),
    Line(
        "weed-benchmark-write",
        "weed-benchmark",
        "`weed benchmark`, 16 clients, 1 KiB: write",
        "requests/s",
        (*_WITH_WORKERS, PROXY, PROXY_WORKERS),
        _ours(Aim(0.9), Aim(0.6)),
    ),
    Line(
        "weed-benchmark-read",
        "weed-benchmark",
        "`weed benchmark`, 16 clients, 1 KiB: read",
        "requests/s",
        (*_WITH_WORKERS, PROXY, PROXY_WORKERS),
        _ours(Aim(0.9), Aim(0.6)),
    ),
    Line(
        "forwarded-get-1k-32",
        "forwarded",
        "GET 1 KiB forwarded, 32 connections",
        "requests/s",
        _FORWARDED,
        dict.fromkeys((PROXY, PROXY_WORKERS), Aim(1.0)),
        baseline=NGINX,
    ),
    Line(
        "forwarded-post-1k-32",
        "forwarded",
        "POST 1 KiB forwarded, 32 connections",
        "requests/s",
        _FORWARDED,
        dict.fromkeys((PROXY, PROXY_WORKERS), Aim(1.0)),
        baseline=NGINX,
    ),
    Line("get-4m-8", "large", "GET 4 MiB, 8 connections", "MB/s", _WITH_WORKERS, _ours(Aim(1.0))),
    Line("put-4m-8", "large", "PUT 4 MiB, 8 connections", "MB/s", _WITH_WORKERS, _ours(Aim(1.0))),
    Line(
        "copy-file",
        "copy-file",
        "CopyFile",
        "MB/s",
        (*_DIRECT, PROXY),
        {NATIVE: Aim(1.0), PROXY: Aim(0.8)},
    ),
    Line("unary-in-turn", "unary", "small RPC, one in turn", "calls/s", _DIRECT, {NATIVE: Aim(0.5)}),
    Line(
        "unary-at-once",
        "unary",
        "small RPC, 32 at once",
        "calls/s",
        _DIRECT,
        why_no_aim="grpcio's server bounds it: a bare echo of grpcio has about a tenth of Go's",
    ),
    Line(
        "idle-memory",
        "start",
        "idle memory, 0 volumes",
        "MB",
        _WITH_WORKERS,
        _ours(Aim(1.0)),
        better=Better.LESS,
    ),
    Line(
        "first-healthy-answer",
        "start",
        "exec to first healthy answer",
        "s",
        _WITH_WORKERS,
        _ours(Aim(0.8, is_ratio=False)),
        better=Better.LESS,
    ),
)
GROUPS = tuple(dict.fromkeys(line.group for line in LINES))


def line_of(key):
    """Raises StopIteration for an unknown key."""
    return next(line for line in LINES if line.key == key)
