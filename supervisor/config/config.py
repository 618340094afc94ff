"""The one typed, frozen configuration object that everything below the command line is built from.

`supervisor.cli.load` makes it from flags, environment and TOML files; nothing else reads those. Units are in the
names. Defaults live with the flags, so every field here is required except where absence is a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.wire.server_address import ServerAddress


class Mode(Enum):
    """What this process does with requests. See docs/modes.md."""

    EXEC = "exec"
    PROXY = "proxy"
    MIXED = "mixed"
    NATIVE = "native"


class ReadMode(Enum):
    """What a read of a volume that is not here does. Source: weed/command/volume.go, -readMode."""

    LOCAL = "local"
    PROXY = "proxy"
    REDIRECT = "redirect"


class NativeBackend(Enum):
    """The backend that is this project's own native server, run as the child."""

    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class MinFreeSpace:
    """A reserve: exactly one of the two is set. Source: weed/util/minfreespace.go."""

    percent: float | None = None
    size_bytes: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """One -dir with what -max, -disk, -tags and -minFreeSpace say of it. `max_volumes` 0 sizes itself.

    `disk_type` is the wire form: "" for hdd.
    """

    path: Path
    max_volumes: int
    disk_type: str
    tags: tuple[str, ...]
    min_free_space: MinFreeSpace


@dataclass(frozen=True, slots=True)
class DiskProbeConfig:
    """volume.disk.io.* : the active disk probe. Source: weed/stats, weed/command/volume.go."""

    enabled: bool
    interval_s: float
    slow_s: float
    timeout_s: float
    window_s: float
    min_samples: int
    slow_percent: float
    error_percent: float
    max_stat_failures: int
    recovery_coefficient: float


@dataclass(frozen=True, slots=True)
class JwtKey:
    """A signing key; an empty `key` means that no token is asked for."""

    key: bytes = field(repr=False)
    expires_after_s: int


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths as configured; an empty path is None. Nothing is opened here."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    allowed_common_names: tuple[str, ...] = ()
    allowed_wildcard_domain: str = ""

    @property
    def is_configured(self) -> bool:
        return self.cert is not None and self.key is not None


@dataclass(frozen=True, slots=True)
class HttpsClientConfig:
    """https.client.*: how this server talks to peers over HTTP."""

    enabled: bool = False
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """What security.toml and the WEED_ environment say; re-read as one snapshot on SIGHUP.

    `white_list` has the flag's entries followed by guard.white_list's.
    """

    write_key: JwtKey
    read_key: JwtKey
    ui_access: bool
    white_list: tuple[str, ...]
    grpc: TlsFiles
    https: TlsFiles
    https_client: HttpsClientConfig
    tls_min_version: str = ""
    tls_max_version: str = ""
    tls_cipher_suites: str = ""
    loaded_from: tuple[Path, ...] = ()
    file_data: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    """The merged files as they were read, keys in lower case; backend/child_config.py derives the child's from it."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences to be logged about what was read: in `Config.warnings` at the start, here after a reload."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`verbosity` is upstream's -v level (0 = info); `json_lines` is -log.json."""

    verbosity: int
    json_lines: bool
    directory: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything one server needs to know, checked. See docs/configuration.md for each flag."""

    mode: Mode
    backend: Path | NativeBackend | None
    """The Go program, our own server, or None where none was found (only `native` mode starts then)."""
    backend_searched: tuple[str, ...]
    """Where the backend was looked for, in order, for the message that says it is missing."""
    routes_file: Path | None
    offset_width_bytes: int | None
    """4 or 5 as the flag says; None where it is to be learnt from the backend, a .vif, or the default."""

    ip: str
    port: int
    port_grpc: int
    port_public: int
    bind_ip: str
    id: str
    public_url: str
    masters: tuple[ServerAddress, ...]
    data_center: str
    rack: str

    directories: tuple[DirectoryConfig, ...]
    idx_directory: Path | None
    index: str

    read_mode: ReadMode
    pre_stop_s: int
    idle_timeout_s: int
    fix_jpg_orientation: bool
    file_size_limit_bytes: int
    compaction_bytes_per_s: int
    maintenance_bytes_per_s: int
    leveldb_timeout_h: int
    concurrent_upload_limit_bytes: int
    concurrent_download_limit_bytes: int
    inflight_upload_timeout_s: float
    inflight_download_timeout_s: float
    has_slow_read: bool
    read_buffer_size_mb: int
    allow_untrusted_remote_endpoints: bool

    metrics_port: int
    metrics_ip: str
    pprof: bool
    cpu_profile: Path | None
    mem_profile: Path | None
    debug: bool
    debug_port: int

    disk_probe: DiskProbeConfig
    security: SecurityConfig
    log: LogConfig
    config_dir: Path | None
    security_file: Path | None
    white_list_flag: tuple[str, ...]

    given_flags: tuple[tuple[str, str], ...]
    """The upstream `weed volume` flags that were set, by their Go names, in order: what exec and proxy pass on."""
    given_global_flags: tuple[tuple[str, str], ...]
    """The flags of the `weed` program itself that were set (config_dir, v, logdir, ...)."""
    warnings: tuple[str, ...] = ()
    """Sentences to be logged once logging works: what was read but means nothing, or not what it seems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterOptions:
    """The embedded master, of `quickstart` and of the `master` subcommand. See docs/cluster.md for what it can do.

    `directory` is None where it keeps its state in memory only.
    """

    ip: str
    bind_ip: str
    port: int
    port_grpc: int
    volume_size_limit_mb: int
    default_replication: str
    directory: Path | None
    log: LogConfig


@dataclass(frozen=True, slots=True)
class QuickstartConfig:
    """A native server and its own master in one process. `config.masters` names that master."""

    config: Config
    master: MasterOptions
