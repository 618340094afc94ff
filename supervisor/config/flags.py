"""The flag tables, one row for each flag. Only this module has the defaults and meanings.

Names, defaults and meanings of the upstream flags: weed/command/volume.go (`weed volume`), weed/weed.go, weed/glog and
weed/util/fla9 (flags of the `weed` program itself), seaweed-volume/src/config.rs (flags that only the Rust server has).
go_flags.py has the syntax of flags, load.py the rules between flags.
"""

from __future__ import annotations

import dataclasses
from enum import Enum

from native_handlers.records import dataclass


class Kind(Enum):
    """How the text of a value is parsed. The enum's value is the word that the usage text shows."""

    BOOL = ""
    INT = "int"
    TEXT = "text"
    DURATION = "duration"


class Owner(Enum):
    """The program that has the flag. This decides whether a Go backend may get the flag."""

    VOLUME = "weed volume"
    WEED = "weed"
    RUST = "the Rust volume server"
    OURS = "weed-volume-py"


class Group(Enum):
    """The headings of the usage text, in their order."""

    MODE = "Engine"
    ADDRESS = "Addresses"
    CLUSTER = "Cluster"
    STORAGE = "Directories and volumes"
    REQUESTS = "Requests"
    MAINTENANCE = "Background work"
    SECURITY = "Security and configuration files"
    METRICS = "Metrics and debugging"
    LOG = "Logging"
    MASTER = "Embedded master"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `default` is text in the flag's own syntax.

    `environment` are variables to read when it is not given.
    """

    name: str
    kind: Kind
    default: str
    meaning: str
    group: Group = Group.MODE
    owner: Owner = Owner.VOLUME
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    environment: tuple[str, ...] = ()

    @property
    def is_upstream(self) -> bool:
        """Whether a Go backend knows the flag."""
        return self.owner in {Owner.VOLUME, Owner.WEED}


def weed_variable(key: str) -> str:
    """The environment variable that upstream reads for a flag or a configuration key.

    Source: weed/util/fla9/fla9.go (ParseEnv), weed/util/config.go.
    """
    return "WEED_" + key.upper().replace("-", "_").replace(".", "_")


_PORT_MAX = 65535
_VOLUME_SIZE_MAX_MB = 30_000
WORKERS_MAX = 64
"""The board of the workers (`workers/board.py`) has room for so many."""


def _text(name: str, default: str, meaning: str, *choices: str) -> Flag:
    return Flag(name, Kind.TEXT, default, meaning, choices=choices)


def _boolean(name: str, default: str, meaning: str) -> Flag:
    return Flag(name, Kind.BOOL, default, meaning)


def _count(name: str, default: int, meaning: str, minimum: int = 0, maximum: int | None = None) -> Flag:
    return Flag(name, Kind.INT, str(default), meaning, minimum=minimum, maximum=maximum)


def _port(name: str, default: int, meaning: str) -> Flag:
    """A port. Where the default is 0, the value 0 is allowed and has a meaning."""
    return _count(name, default, meaning, minimum=1 if default else 0, maximum=_PORT_MAX)


def _duration(name: str, default: str, meaning: str) -> Flag:
    return Flag(name, Kind.DURATION, default, meaning)


def _group(group: Group, owner: Owner, *rows: Flag) -> tuple[Flag, ...]:
    """The rows under one heading. Upstream's flags get their WEED_ variables."""
    placed = [dataclasses.replace(row, group=group, owner=owner) for row in rows]
    return tuple(
        dataclasses.replace(row, environment=(weed_variable(row.name),)) if row.is_upstream else row for row in placed
    )


def _table(*groups: tuple[Flag, ...]) -> dict[str, Flag]:
    rows = [row for group in groups for row in group]
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "two rows have the same name"
    return table


_MODE = tuple(
    dataclasses.replace(row, environment=variables)
    for row, variables in zip(
        _group(
            Group.MODE,
            Owner.OURS,
            _text(
                "mode",
                "",
                "who answers; unset: mixed when the routing table forwards anything, else native",
                "exec",
                "proxy",
                "mixed",
                "native",
            ),
            _text(
                "backend", "", "the `weed` program, or native for this program; unset: WEED_BINARY, else weed in PATH"
            ),
            _text("routes", "", "routing table of mixed mode; unset: the one that is shipped"),
            Flag(
                "offset.bytes",
                Kind.INT,
                "0",
                "width of stored offsets; 0 learns it from the backend, else from a .vif, else 4",
                choices=("0", "4", "5"),
            ),
            _count(
                "workers",
                0,
                "further processes that serve HTTP; every HTTP route must be forwarded, or none; 0 serves in this one",
                maximum=WORKERS_MAX,
            ),
        ),
        (("VOLUME_SERVER_PY_MODE", "VOLUME_SERVER_RUST_MODE"), (), ("VOLUME_SERVER_PY_ROUTES",), (), ()),
        strict=True,
    )
)

_ADDRESS = _group(
    Group.ADDRESS,
    Owner.VOLUME,
    _port("port", 8080, "HTTP port"),
    _port("port.grpc", 0, "gRPC port; 0 means -port + 10000"),
    _port("port.public", 0, "read-only HTTP port for the public; 0 means the same as -port"),
    _text("ip", "", "address or name under which others reach this server; detected when empty"),
    _text("ip.bind", "", "address to listen on; empty means the same as -ip"),
    _text("publicUrl", "", "address told to clients for reading; empty means ip:publicPort"),
)

_CLUSTER = _group(
    Group.CLUSTER,
    Owner.VOLUME,
    _text("master", "localhost:9333", "masters, comma separated, host:port or host:port.grpcPort"),
    _text("mserver", "", "older name of -master; wins when both are set"),
    _text("id", "", "identity of this server in the cluster; empty means ip:port"),
    _text("dataCenter", "", "data centre of this server"),
    _text("rack", "", "rack of this server"),
    _count("preStopSeconds", 10, "seconds between the last heartbeat and the shutdown"),
)

_STORAGE = _group(
    Group.STORAGE,
    Owner.VOLUME,
    _text("dir", "", "directories of the volumes, comma separated; empty means the temporary directory"),
    _text("dir.idx", "", "directory of the .idx files; empty means beside the volumes"),
    _text("max", "8", "most volumes per directory, comma separated; 0 sizes itself by free space"),
    _text("minFreeSpace", "", "reserve per directory below which writes are refused: 0 to 100 percent, or 10GiB"),
    _text("minFreeSpacePercent", "1", "older name of -minFreeSpace, used when that is not set"),
    _text("disk", "", "disk type per directory: hdd, ssd or any tag"),
    _text("tags", "", "tags per directory, groups separated by comma, tags by colon: fast:ssd,archive"),
    _text("index", "memory", "needle index: memory, leveldb, leveldbMedium, leveldbLarge"),
    _count("index.leveldbTimeout", 0, "hours after which an unused leveldb index is closed; 0 never"),
)

_REQUESTS = _group(
    Group.REQUESTS,
    Owner.VOLUME,
    _text(
        "readMode",
        "proxy",
        "a read of a volume that is not here: answer 404 (local), fetch it (proxy), redirect",
        "local",
        "proxy",
        "redirect",
    ),
    _count("fileSizeLimitMB", 256, "largest accepted file in MiB"),
    _count("idleTimeout", 30, "seconds after which an idle connection is closed"),
    _count("concurrentUploadLimitMB", 0, "most MiB of uploads in flight; 0 is unlimited"),
    _count("concurrentDownloadLimitMB", 0, "most MiB of downloads in flight; 0 is unlimited"),
    _duration("inflightUploadDataTimeout", "60s", "how long an upload waits for its share of the limit"),
    _duration("inflightDownloadDataTimeout", "60s", "how long a download waits for its share of the limit"),
    _boolean("hasSlowRead", "true", "keep slow readers from blocking others"),
    _count("readBufferSizeMB", 4, "read buffer in MiB, together with -hasSlowRead"),
    _boolean("images.fix.orientation", "false", "turn JPEG files upright when they are uploaded"),
)

_MAINTENANCE = _group(
    Group.MAINTENANCE,
    Owner.VOLUME,
    _count("compactionMBps", 0, "limit of compaction and copying in MB/s; 0 is unlimited"),
    _count("maintenanceMBps", 0, "limit of replication, balancing and scrubs in MB/s; 0 is unlimited"),
)

_SECURITY = (
    *_group(
        Group.SECURITY,
        Owner.VOLUME,
        _text("whiteList", "", "addresses or networks that may write, comma separated; empty means all"),
        _boolean(
            "volume.allowUntrustedRemoteEndpoints",
            "false",
            "let FetchAndWriteNeedle read from any S3 endpoint, loopback and metadata addresses included",
        ),
        _text("options", "", "file with one name=value per line, for what is not set otherwise"),
    ),
    *_group(
        Group.SECURITY,
        Owner.WEED,
        _text("config_dir", "", "directory searched first for security.toml and volume.toml"),
    ),
    *_group(
        Group.SECURITY,
        Owner.RUST,
        _text("securityFile", "", "this file instead of the search for security.toml"),
    ),
)

_METRICS = _group(
    Group.METRICS,
    Owner.VOLUME,
    _port("metricsPort", 0, "port of the Prometheus metrics; 0 means none"),
    _text("metricsIp", "", "address of the metrics port; empty means the same as -ip.bind"),
    _boolean("pprof", "false", "Go profiles at /debug/pprof/ (Go backend only)"),
    _text("cpuprofile", "", "file for a CPU profile; without -pprof"),
    _text("memprofile", "", "file for a memory profile; without -pprof"),
    _boolean("debug", "false", "debugging data on -debug.port, loopback only"),
    _port("debug.port", 6060, "port of -debug"),
)

_LOG = (
    *_group(
        Group.LOG,
        Owner.OURS,
        _boolean("log.json", "false", "one JSON object per log line"),
    ),
    *_group(
        Group.LOG,
        Owner.WEED,
        _count("v", 0, "verbosity, 0 to 4"),
        _boolean("log_json", "false", "upstream's name of -log.json"),
        _text("logdir", "", "directory for the log files of a Go backend; empty means none"),
        _boolean("logtostderr", "false", "log to standard error instead of files (always so here)"),
        _boolean("alsologtostderr", "true", "log to standard error as well as files"),
        _text("stderrthreshold", "ERROR", "lowest level for standard error (exec mode only)"),
        _text("vmodule", "", "verbosity by Go source file, pattern=N (Go backend only)"),
        _text("log_backtrace_at", "", "stack trace at file:N (Go backend only)"),
        _count("log_max_size_mb", 1800, "size at which a Go log file is rotated"),
        _count("log_max_files", 5, "Go log files kept per level"),
        _count("log_rotate_hours", 168, "age at which a Go log file is rotated"),
        _boolean("log_compress", "false", "compress rotated Go log files"),
    ),
)

_QUICKSTART_MASTER = _group(
    Group.MASTER,
    Owner.OURS,
    _port("master.port", 9333, "HTTP port of the embedded master"),
    _port("master.port.grpc", 0, "its gRPC port; 0 means -master.port + 10000"),
    _count("master.volumeSizeLimitMB", 1024, "size in MiB at which a volume is full", 1, _VOLUME_SIZE_MAX_MB),
    _text("master.defaultReplication", "000", "replication of files that ask for none"),
)

_MASTER = (
    *_group(
        Group.ADDRESS,
        Owner.OURS,
        _text("ip", "127.0.0.1", "address under which volume servers reach this master"),
        _text("ip.bind", "", "address to listen on; empty means the same as -ip"),
        _port("port", 9333, "HTTP port"),
        _port("port.grpc", 0, "gRPC port; 0 means -port + 10000"),
    ),
    *_group(
        Group.MASTER,
        Owner.OURS,
        _text("mdir", "", "directory for the master's own state; empty keeps it in memory"),
        _count("volumeSizeLimitMB", 1024, "size in MiB at which a volume is full", 1, _VOLUME_SIZE_MAX_MB),
        _text("defaultReplication", "000", "replication of files that ask for none"),
    ),
    *_group(
        Group.LOG,
        Owner.OURS,
        _count("v", 0, "verbosity, 0 to 4"),
        _boolean("log.json", "false", "one JSON object per log line"),
    ),
)

_TOOL = _group(
    Group.STORAGE,
    Owner.OURS,
    _count("volumeId", 0, "the one volume to work on; 0 means all"),
    _text("collection", "", "the one collection whose volumes to work on; empty means all"),
    _boolean("json", "false", "say what was found as JSON on standard output"),
)
"""The flags of every tool that works on directories."""
_VOLUME_TOOL = _group(
    Group.STORAGE,
    Owner.OURS,
    _text("dir.idx", "", "directory of the .idx files; empty means beside the volumes"),
    Flag("offset.bytes", Kind.INT, "0", "width of stored offsets; 0 learns it from a .vif", choices=("0", "4", "5")),
)
_FIX = _group(
    Group.STORAGE,
    Owner.OURS,
    _boolean("indexIsLost", "false", "make an index where there is none; files without content count as deleted then"),
)
_EXPORT = _group(
    Group.STORAGE,
    Owner.OURS,
    _text("o", "", "a new tar file for the contents, or - for standard output; empty lists the files"),
    _text("fileNameFormat", "{{.Id}}_{{.Name}}{{.Ext}}", "names in the tar file; also {{.Mime}} and {{.Key}}"),
    _text("newer", "", "leave out what is older, as 2006-01-02T15:04:05 in local time"),
    _boolean("deleted", "false", "list what was overwritten or deleted too; not with -o"),
    _count("limit", 0, "end after so many files; 0 means all"),
)

VOLUME_FLAGS = _table(_MODE, _ADDRESS, _CLUSTER, _STORAGE, _REQUESTS, _MAINTENANCE, _SECURITY, _METRICS, _LOG)
"""The flags of `weed-volume-py [volume]`, by name, in the order of the usage text."""
QUICKSTART_FLAGS = _table(tuple(VOLUME_FLAGS.values()), _QUICKSTART_MASTER)
MASTER_FLAGS = _table(_MASTER)
TOOL_FLAGS = {
    "check": _table(_TOOL, _VOLUME_TOOL),
    "fix": _table(_TOOL, _VOLUME_TOOL, _FIX),
    "compact": _table(_TOOL, _VOLUME_TOOL),
    "export": _table(_TOOL, _VOLUME_TOOL, _EXPORT),
    "ec-verify": _table(_TOOL),
}
"""The flags of the tools that work on directories, by command."""
