"""The servers under test, as data: a name, a command line, and the expected abilities."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from support.ports import LOOPBACK

OURS = (sys.executable, "-m", "supervisor.cli.main")


@dataclass(frozen=True)
class Layout:
    """The place of one server: its ports, its directory and its configuration."""

    http_port: int
    grpc_port: int
    public_port: int
    data_dirs: tuple
    config_dir: Path
    master: object
    ip: str = LOOPBACK


@dataclass(frozen=True)
class Implementation:
    """One server under test.

    Args:
        mode: of our own program; None for any other.
        backend: what our own program is given as the child.
        needs_weed: it cannot run without the Go program.
        routes: the text of a routing table, which it is given as a file; "" leaves it with the shipped one.
        has_native_rpcs: the table makes every RPC native.
        workers: how many processes serve its HTTP; 0 where its own process does.
    """

    name: str
    mode: str | None = None
    backend: str | None = None
    needs_weed: bool = False
    is_go: bool = False
    binary: str | None = None
    routes: str = ""
    has_native_rpcs: bool = False
    workers: int = 0

    @property
    def has_our_rpcs(self):
        """Whether code of this project answers RPCs on volumes and needles, in this process or in the child."""
        return self.mode == "native" or self.backend == "native" or self.has_native_rpcs

    @property
    def is_supervised(self):
        """Whether the server has a child whose death it survives."""
        return self.mode == "proxy" or (self.mode == "mixed" and bool(self.routes))

    @property
    def is_front(self):
        """Whether the front-end of this project parses requests."""
        return self.mode in {"proxy", "mixed", "native"}

    def command(self, layout, weed, extra=()):
        if self.binary:
            return [self.binary, *_rust_flags(layout), *extra]
        if self.is_go:
            return [weed, "-logtostderr=true", f"-config_dir={layout.config_dir}", "volume", *_go_flags(layout), *extra]
        backend = [f"-backend={weed if self.backend == 'go' else self.backend}"] if self.backend else []
        common = ["-logtostderr=true", f"-config_dir={layout.config_dir}"]
        engine = [f"-mode={self.mode}", *backend, *([f"-workers={self.workers}"] if self.workers else [])]
        return [*OURS, *common, *engine, *self._routes_flags(layout), *_go_flags(layout), *extra]

    def _routes_flags(self, layout):
        if not self.routes:
            return []
        table = layout.config_dir / "routes.yaml"
        table.write_text(self.routes)
        return [f"-routes={table}"]


def _go_flags(layout):
    return [
        f"-master={layout.master.address}",
        f"-dir={','.join(map(str, layout.data_dirs))}",
        f"-port={layout.http_port}",
        f"-port.grpc={layout.grpc_port}",
        f"-port.public={layout.public_port}",
        f"-ip={layout.ip}",
        "-max=16",
        "-preStopSeconds=0",
    ]


def _rust_flags(layout):
    """The flags with which upstream's suite starts its Rust server. Source:
    test/volume_server/framework/cluster_rust.go.
    """
    words = {
        "--port": layout.http_port,
        "--port.grpc": layout.grpc_port,
        "--port.public": layout.public_port,
        "--ip": LOOPBACK,
        "--ip.bind": LOOPBACK,
        "--dir": ",".join(map(str, layout.data_dirs)),
        "--max": 16,
        "--master": f"{LOOPBACK}:{layout.master.http_port}",
        "--securityFile": layout.config_dir / "security.toml",
        "--preStopSeconds": 0,
    }
    return [str(word) for pair in words.items() for word in pair]


CONTROL_PLANE = "phase: 1\nroutes: {}\n"
"""The control plane is native; all routes about volumes are forwarded."""

ALL = (
    Implementation("native", mode="native"),
    Implementation("proxy-native", mode="proxy", backend="native"),
    Implementation("mixed-native", mode="mixed", backend="native", routes=CONTROL_PLANE),
    Implementation("go", needs_weed=True, is_go=True),
    Implementation("proxy-go", mode="proxy", backend="go", needs_weed=True),
    Implementation("mixed-go", mode="mixed", backend="go", needs_weed=True, routes=CONTROL_PLANE),
    Implementation("exec-go", mode="exec", backend="go", needs_weed=True),
)

NATIVE_RPCS = Implementation(
    "mixed-native-grpc-go",
    mode="mixed",
    backend="go",
    needs_weed=True,
    routes="phase: 3\nroutes:\n  http.favicon: forward\n",
    has_native_rpcs=True,
)
"""Every RPC is native. The backend has each volume until its first use: one forwarded route keeps the backend
running."""

NATIVE_HTTP = Implementation(
    "mixed-http-native", mode="mixed", backend="go", needs_weed=True, routes='phase: 2\nroutes:\n  "grpc.*": forward\n'
)
"""HTTP is native, and volumes change hands for each RPC. In `mixed-go` Go does both, replication too."""


FORWARDED_HTTP = Implementation(
    "mixed-http-forwarded",
    mode="mixed",
    backend="go",
    needs_weed=True,
    routes="phase: 3\nroutes:\n"
    + "".join(f"  http.{name}: forward\n" for name in ("read", "public.read", "write", "delete")),
    has_native_rpcs=True,
)
"""The other way round: every RPC is native, and Go reads and writes."""

SHIPPED = Implementation("mixed-shipped", mode="mixed", backend="native")
"""The shipped table: everything is native, and the backend is not started."""

WORKERS = Implementation("proxy-native-workers", mode="proxy", backend="native", workers=2)
WORKERS_GO = Implementation("proxy-go-workers", mode="proxy", backend="go", needs_weed=True, workers=2)
"""HTTP is forwarded by two further processes."""

NATIVE_WORKERS = Implementation("native-workers", mode="native", workers=2)
"""Two further processes read volumes, and hand everything else on."""

_OTHERS = (NATIVE_RPCS, NATIVE_HTTP, FORWARDED_HTTP, SHIPPED, WORKERS, WORKERS_GO, NATIVE_WORKERS)
BY_NAME = {one.name: one for one in (*ALL, *_OTHERS)}


def find_weed():
    """The Go program's path, or None, and the reason without one."""
    named = os.environ.get("WEED_BINARY")
    if named:
        found = shutil.which(named)
        return found, f"WEED_BINARY={named} is not an executable file"
    return shutil.which("weed"), "no weed: WEED_BINARY is not set and PATH has none"


def weed_program():
    """The Go program's path, or None."""
    return find_weed()[0]


def chosen():
    """The implementations that VOLUME_SERVER_BINARY or VOLUME_SERVER_IMPL selects; all when neither is set."""
    binary = os.environ.get("VOLUME_SERVER_BINARY")
    if binary:
        return (Implementation("binary", binary=str(Path(binary).resolve())),)
    wanted = os.environ.get("VOLUME_SERVER_IMPL")
    if not wanted:
        return ALL
    unknown = [name for name in wanted.split(",") if name not in BY_NAME]
    if unknown:
        raise ValueError(f"VOLUME_SERVER_IMPL names {unknown[0]!r}; known are {', '.join(BY_NAME)}")
    return tuple(BY_NAME[name] for name in wanted.split(","))
