"""The one typed, frozen configuration object from which everything below the command line is built.

`supervisor.cli.load` makes it from flags, environment and TOML files; no other code reads those. Units are in the
names. The flag tables have the defaults, so every field here is required, except where absence is a value.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from native_handlers.http_model.read_mode import ReadMode
    from supervisor.wire.server_address import ServerAddress


class Mode(Enum):
    """The treatment of requests by this process as a whole. See docs/modes.md."""

    EXEC = "exec"
    PROXY = "proxy"
    MIXED = "mixed"
    NATIVE = "native"


class NativeBackend(Enum):
    """The backend that is this program itself, run as the child in native mode."""

    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class MinFreeSpace:
    """A reserve of free space. Exactly one of the two numbers is set. Source: weed/util/minfreespace.go."""

    percent: float | None = None
    size_bytes: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """One -dir with its values of -max, -disk, -tags and -minFreeSpace. With `max_volumes` 0 free space sets the limit.

    `disk_type` is in the form of the wire: "" for hdd.
    """

    path: Path
    max_volumes: int
    disk_type: str
    tags: tuple[str, ...]
    min_free_space: MinFreeSpace


@dataclass(frozen=True, slots=True)
class DiskProbeConfig:
    """volume.disk.io.*: the active disk probe. Source: weed/stats, weed/command/volume.go."""

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
class TierConfig:
    """One remote tier of volume.toml: [storage.backend.<kind>.<id>]. The repr omits the properties: they hold keys."""

    kind: str
    id: str
    properties: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class JwtKey:
    """A signing key. An empty `key` means that no token is needed."""

    key: bytes = field(repr=False)
    expires_after_s: int


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths as configured; an empty path is None. No file is opened here."""

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
    """https.client.*: how this server connects to other volume servers over HTTP."""

    enabled: bool = False
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """The values of security.toml and the WEED_ environment. SIGHUP reads them again, as a whole.

    `white_list` has the flag's entries, followed by those of guard.white_list.
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
    """The merged files as they were read, with keys in lower case. backend/child_config.py derives the child's
    files."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences for the log about the files. At the start they are in `Config.warnings`, after a reload here."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`verbosity` is upstream's -v level (0 = info). `json_lines` is -log.json."""

    verbosity: int
    json_lines: bool
    directory: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that one server needs to know, checked. docs/configuration.md describes each flag."""

    mode: Mode
    backend: Path | NativeBackend | None
    """The Go program, this program itself, or None where none was found (then nothing can be forwarded)."""
    routes_file: Path | None
    offset_width_bytes: int | None
    """4 or 5 as the flag says; None where the backend, a .vif or the default decides."""
    workers: int
    """How many processes serve HTTP beside this one; 0 where this one serves it."""

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
    concurrent_upload_limit_bytes: int
    concurrent_download_limit_bytes: int
    inflight_upload_timeout_s: float
    inflight_download_timeout_s: float
    allow_untrusted_remote_endpoints: bool

    metrics_port: int
    metrics_ip: str
    cpu_profile: Path | None
    mem_profile: Path | None
    debug: bool

    disk_probe: DiskProbeConfig
    tiers: tuple[TierConfig, ...]
    security: SecurityConfig
    log: LogConfig
    config_dir: Path | None
    security_file: Path | None
    white_list_flag: tuple[str, ...]

    given_flags: tuple[tuple[str, str], ...]
    """The upstream `weed volume` flags that were set, by their Go names, in order. exec and proxy pass them on."""
    given_global_flags: tuple[tuple[str, str], ...]
    """The flags of the `weed` program itself that were set (config_dir, v, logdir, ...)."""
    warnings: tuple[str, ...] = ()
    """Sentences for the log, for values that have no effect or another effect than it seems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterOptions:
    """The embedded master, of `quickstart` and of the `master` subcommand. docs/cluster.md says what it can do.

    With `directory` None its state is in a temporary directory, which is removed at the end.
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
    """A server and its own master in one process. `config.masters` names that master."""

    config: Config
    master: MasterOptions
