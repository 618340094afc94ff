"""The child's security.toml and volume.toml, derived from ours and kept in a directory that only we can read.

What the child may not have: a white list (it sees us as the peer of every request, so the guard is ours) and server
certificates (it serves plaintext on loopback). What it must keep: signing keys, which it checks again, and client
certificates, with which it dials masters and peers.

weed reads one section, grpc.volume, for both directions: `cert` and `key` switch the server's TLS on, while a dial
prefers `client_cert` and `client_key` and needs nothing else but grpc.ca. So the derived file has only the latter pair.
Then the child dials our relay, its only master, with TLS too: the relay serves with `relay_tls`.
Source: weed/security/tls.go.
"""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from supervisor.backend.toml_text import toml_text
from supervisor.cli.config import TlsFiles

if TYPE_CHECKING:
    from types import TracebackType

    from supervisor.cli.config import SecurityConfig

_PREFIX = "weed-volume-py-child-"
_UNFINISHED_PREFIX = ".weed-volume-py-child-"
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class ChildFiles:
    """The text of both files. Both are always written: a missing one would be looked for elsewhere."""

    security_toml: str
    volume_toml: str


def derive_files(security: SecurityConfig) -> ChildFiles:
    """The child's files: what our files say, under what `derived_values` says."""
    derived = copy.deepcopy(dict(security.file_data))
    for key, value in derived_values(security).items():
        _set(derived, key.lower().split("."), value)
    volume = derived.pop("volume", {})
    return ChildFiles(toml_text(derived), toml_text({"volume": volume}))


def derived_values(security: SecurityConfig) -> dict[str, str | int | bool]:
    """The keys whose value is not what our files say, or that the environment could override. The same keys always."""
    client = _client_files(security.grpc)
    https = security.https_client
    return {
        "guard.white_list": "",
        "jwt.signing.key": security.write_key.key.decode(),
        "jwt.signing.expires_after_seconds": security.write_key.expires_after_s,
        "jwt.signing.read.key": security.read_key.key.decode(),
        "jwt.signing.read.expires_after_seconds": security.read_key.expires_after_s,
        "access.ui": security.ui_access,
        "grpc.ca": _text(security.grpc.ca),
        "grpc.allowed_wildcard_domain": "",
        "grpc.volume.cert": "",
        "grpc.volume.key": "",
        "grpc.volume.client_cert": _text(client.cert) if client else "",
        "grpc.volume.client_key": _text(client.key) if client else "",
        "grpc.volume.allowed_commonNames": "",
        "https.volume.cert": "",
        "https.volume.key": "",
        "https.volume.ca": "",
        "https.client.cert": _text(https.cert),
        "https.client.key": _text(https.key),
        "https.client.ca": _text(https.ca),
    }


DERIVED_KEYS = (
    "guard.white_list",
    "jwt.signing.key",
    "jwt.signing.expires_after_seconds",
    "jwt.signing.read.key",
    "jwt.signing.read.expires_after_seconds",
    "access.ui",
    "grpc.ca",
    "grpc.allowed_wildcard_domain",
    "grpc.volume.cert",
    "grpc.volume.key",
    "grpc.volume.client_cert",
    "grpc.volume.client_key",
    "grpc.volume.allowed_commonNames",
    "https.volume.cert",
    "https.volume.key",
    "https.volume.ca",
    "https.client.cert",
    "https.client.key",
    "https.client.ca",
)
"""What `derived_values` sets. The child's environment must not have their WEED_ variables, which would win."""


def child_dials_tls(security: SecurityConfig) -> bool:
    """Whether the child uses TLS when it dials masters (our relay) and peers by gRPC."""
    return _client_files(security.grpc) is not None


def relay_tls(security: SecurityConfig) -> TlsFiles | None:
    """The files with which the relay must serve so that the child accepts it; None where the child dials plaintext.

    The certificate is the server's own, which all clients of the cluster trust; where only a client pair is
    configured it is that, and works if its CA did not restrict it to clients.
    """
    client = _client_files(security.grpc)
    if client is None:
        return None
    if security.grpc.is_configured:
        return TlsFiles(cert=security.grpc.cert, key=security.grpc.key, ca=security.grpc.ca)
    return client


def _client_files(grpc: TlsFiles) -> TlsFiles | None:
    """What weed dials with: the client pair if whole, else the server's; only with a CA, and from one directory."""
    cert, key = grpc.client_cert, grpc.client_key
    if cert is None or key is None:
        cert, key = grpc.cert, grpc.key
    if cert is None or key is None or grpc.ca is None or cert.parent != key.parent:
        return None
    return TlsFiles(cert=cert, key=key, ca=grpc.ca)


class ChildConfigDirectory:
    """A private directory with the child's files (a context manager: gone at the end, with its content).

    A supervisor that is killed leaves its directory behind; the next one removes it, for nobody holds its lock. The
    directory has its final name only once it is locked.
    """

    def __init__(self, files: ChildFiles, parent: Path | None = None) -> None:
        """Raises OSError where `parent` (the temporary directory) cannot be written; nothing is left behind then."""
        parent = parent if parent is not None else Path(tempfile.gettempdir())
        remove_abandoned(parent)
        made = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=parent))
        try:
            self._lock = _lock(made)
            made = made.rename(made.with_name(made.name.removeprefix(".")))
            self.path = made
            self.write(files)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def write(self, files: ChildFiles) -> None:
        """Replaces both files, each atomically: a reader sees the old or the new text, never a part."""
        for name, text in (("security.toml", files.security_toml), ("volume.toml", files.volume_toml)):
            _replace(self.path / name, text)

    def close(self) -> None:
        """Removes the directory. Harmless when done twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes directories of supervisors that have gone without cleaning up; returns them."""
    removed = []
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid() or path.is_symlink():
                continue
            os.close(_lock(path))
        except OSError:
            continue  # somebody's, in use, or just removed by another
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def _lock(directory: Path) -> int:
    """Opens and locks a directory; the lock ends with the descriptor. Raises BlockingIOError when it is held."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.rename(path)


def _set(tree: dict[str, object], path: list[str], value: object) -> None:
    """Sets a nested value; whatever is no table on the way is replaced by one, as a section of that name would."""
    node = tree
    for part in path[:-1]:
        below = node.get(part)
        if not isinstance(below, dict):
            below = node[part] = {}
        node = below
    node[path[-1]] = value


def _text(path: Path | None) -> str:
    return "" if path is None else str(path)
