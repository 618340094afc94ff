"""The settings of a worker, as objects and as JSON: all of them at the start, and later those that have changed.

Keys of security.toml are among them. The channel is a socket pair without a name, so no other process reads them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import Listener
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.records import dataclass
from supervisor.config.config import HttpsClientConfig, JwtKey, LogConfig, SecurityConfig, TlsFiles
from supervisor.net.tls import TlsSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.workers.messages import Fields, JsonObject


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The part of the security configuration that the guard of a worker needs. SIGHUP replaces it as a whole."""

    white_list: tuple[str, ...]
    write_key: bytes = field(default=b"", repr=False)
    read_key: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, security: SecurityConfig) -> AccessRules:
        return cls(security.white_list, security.write_key.key, security.read_key.key)

    @property
    def security(self) -> SecurityConfig:
        """A security configuration with these rules, and nothing else."""
        return SecurityConfig(
            write_key=JwtKey(self.write_key, 0),
            read_key=JwtKey(self.read_key, 0),
            ui_access=False,
            white_list=self.white_list,
            grpc=TlsFiles(),
            https=TlsFiles(),
            https_client=HttpsClientConfig(),
        )

    def as_data(self) -> JsonObject:
        return {
            "white_list": self.white_list,
            "write_key": b64encode(self.write_key).decode(),
            "read_key": b64encode(self.read_key).decode(),
        }

    @classmethod
    def from_data(cls, data: Fields) -> AccessRules:
        """Raises BadControlMessage, as each `from_data` of this module."""
        return cls(data.texts("white_list"), b64decode(data.text("write_key")), b64decode(data.text("read_key")))


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """The ports on loopback where the backend serves HTTP now."""

    admin_port: int
    public_port: int

    def as_data(self) -> JsonObject:
        return {"admin_port": self.admin_port, "public_port": self.public_port}

    @classmethod
    def from_data(cls, data: Fields) -> BackendAddress:
        return cls(data.integer("admin_port"), data.integer("public_port"))


@dataclass(frozen=True, slots=True)
class InheritedListener:
    """A listening socket of the server, of which a worker has a descriptor."""

    descriptor: int
    kind: Listener
    tls: TlsSettings | None = None

    def as_data(self) -> JsonObject:
        tls = None if self.tls is None else _tls_data(self.tls)
        return {"descriptor": self.descriptor, "kind": self.kind.value, "tls": tls}

    @classmethod
    def from_data(cls, data: Fields) -> InheritedListener:
        tls = None if data.is_none("tls") else _tls_from_data(data.object("tls"))
        return cls(data.integer("descriptor"), Listener(data.text("kind")), tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All that a worker needs to serve. Descriptors have the parent's numbers until `with_descriptors`.

    Attributes:
        number: which worker it is, from 0.
        count: how many workers there are.
        board_descriptor: see `ConnectionBoard`.
        seats: how many clients may be connected to this worker.
        links: how many connections it may have to the backend, and to other volume servers.
        source_host: the local address of its connections to other volume servers.
        backend: where everything is forwarded to; None where the parent has the volumes.
        parent_descriptor: the parent's private socket, where the parent has the volumes; see `native_worker`.
        max_download_bytes: the most bytes of downloads in flight in all processes of the server together; 0: no bound.
        max_upload_bytes: as `max_download_bytes`, of uploads.
        max_volumes: how many volumes a worker may have open.
        is_stopping: whether the server was asked to stop.
    """

    number: int
    count: int
    listeners: tuple[InheritedListener, ...]
    board_descriptor: int
    log: LogConfig
    http: HttpSettings
    idle_timeout_s: float
    drain_s: float
    seats: int
    links: int
    source_host: str
    https_client: HttpsClientConfig
    access: AccessRules
    is_stopping: bool
    backend: BackendAddress | None = None
    parent_descriptor: int | None = None
    max_download_bytes: int = 0
    max_upload_bytes: int = 0
    max_volumes: int = 0

    def with_descriptors(self, here: Mapping[int, int]) -> WorkerSettings:
        """The settings with the worker's own numbers of descriptors.

        Args:
            here: the parent's number of each descriptor -> the worker's. Raises KeyError where one is missing.
        """
        return replace(
            self,
            listeners=tuple(replace(one, descriptor=here[one.descriptor]) for one in self.listeners),
            board_descriptor=here[self.board_descriptor],
            parent_descriptor=None if self.parent_descriptor is None else here[self.parent_descriptor],
        )

    def as_data(self) -> JsonObject:
        return {
            "number": self.number,
            "count": self.count,
            "listeners": [listener.as_data() for listener in self.listeners],
            "board_descriptor": self.board_descriptor,
            "log": _log_data(self.log),
            "http": _http_data(self.http),
            "idle_timeout_s": self.idle_timeout_s,
            "drain_s": self.drain_s,
            "seats": self.seats,
            "links": self.links,
            "source_host": self.source_host,
            "https_client": _https_client_data(self.https_client),
            "access": self.access.as_data(),
            "is_stopping": self.is_stopping,
            "backend": None if self.backend is None else self.backend.as_data(),
            "parent_descriptor": self.parent_descriptor,
            "max_download_bytes": self.max_download_bytes,
            "max_upload_bytes": self.max_upload_bytes,
            "max_volumes": self.max_volumes,
        }

    @classmethod
    def from_data(cls, data: Fields) -> WorkerSettings:
        return cls(
            number=data.integer("number"),
            count=data.integer("count"),
            listeners=tuple(InheritedListener.from_data(one) for one in data.objects("listeners")),
            board_descriptor=data.integer("board_descriptor"),
            log=_log_from_data(data.object("log")),
            http=_http_from_data(data.object("http")),
            idle_timeout_s=data.number("idle_timeout_s"),
            drain_s=data.number("drain_s"),
            seats=data.integer("seats"),
            links=data.integer("links"),
            source_host=data.text("source_host"),
            https_client=_https_client_from_data(data.object("https_client")),
            access=AccessRules.from_data(data.object("access")),
            is_stopping=data.boolean("is_stopping"),
            backend=None if data.is_none("backend") else BackendAddress.from_data(data.object("backend")),
            parent_descriptor=None if data.is_none("parent_descriptor") else data.integer("parent_descriptor"),
            max_download_bytes=data.integer("max_download_bytes"),
            max_upload_bytes=data.integer("max_upload_bytes"),
            max_volumes=data.integer("max_volumes"),
        )


def _path_text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(data: Fields, name: str) -> Path | None:
    text = data.text_or_none(name)
    return None if text is None else Path(text)


def _tls_data(tls: TlsSettings) -> JsonObject:
    return {
        "cert": str(tls.cert),
        "key": str(tls.key),
        "ca": _path_text(tls.ca),
        "min_version": tls.min_version,
        "max_version": tls.max_version,
        "cipher_suites": tls.cipher_suites,
        "alpn": tls.alpn,
    }


def _tls_from_data(data: Fields) -> TlsSettings:
    return TlsSettings(
        cert=Path(data.text("cert")),
        key=Path(data.text("key")),
        ca=_path(data, "ca"),
        min_version=data.text("min_version"),
        max_version=data.text("max_version"),
        cipher_suites=data.text("cipher_suites"),
        alpn=data.texts("alpn"),
    )


def _log_data(log: LogConfig) -> JsonObject:
    return {"verbosity": log.verbosity, "json_lines": log.json_lines, "directory": _path_text(log.directory)}


def _log_from_data(data: Fields) -> LogConfig:
    return LogConfig(data.integer("verbosity"), data.boolean("json_lines"), _path(data, "directory"))


def _http_data(http: HttpSettings) -> JsonObject:
    return {
        "version": http.version,
        "self_url": http.self_url,
        "file_size_limit_bytes": http.file_size_limit_bytes,
        "commit": http.commit,
        "read_mode": http.read_mode.value,
        "fix_jpg_orientation": http.fix_jpg_orientation,
        "has_ui": http.has_ui,
        "volume_server_scheme": http.volume_server_scheme,
    }


def _http_from_data(data: Fields) -> HttpSettings:
    return HttpSettings(
        version=data.text("version"),
        self_url=data.text("self_url"),
        file_size_limit_bytes=data.integer("file_size_limit_bytes"),
        commit=data.text("commit"),
        read_mode=ReadMode(data.text("read_mode")),
        fix_jpg_orientation=data.boolean("fix_jpg_orientation"),
        has_ui=data.boolean("has_ui"),
        volume_server_scheme=data.text("volume_server_scheme"),
    )


def _https_client_data(client: HttpsClientConfig) -> JsonObject:
    return {
        "enabled": client.enabled,
        "cert": _path_text(client.cert),
        "key": _path_text(client.key),
        "ca": _path_text(client.ca),
        "insecure_skip_verify": client.insecure_skip_verify,
    }


def _https_client_from_data(data: Fields) -> HttpsClientConfig:
    return HttpsClientConfig(
        data.boolean("enabled"),
        _path(data, "cert"),
        _path(data, "key"),
        _path(data, "ca"),
        data.boolean("insecure_skip_verify"),
    )
