"""The child's security.toml and volume.toml, derived from the server's own, in a directory that only its user can read.

The child gets no white list, because this process is the client of all its requests and checks the list itself. The
child gets no server certificates, because it serves plaintext on loopback. The child keeps the signing keys, which it
checks again, and the client certificates, with which it dials masters and volume servers.

weed reads one section, grpc.volume, for both directions: `cert` and `key` switch the server's TLS on. A dial prefers
`client_cert` and `client_key` and needs only grpc.ca besides. So the derived file has only the latter pair. Then the
child dials the relay, its only master, with TLS too: the relay serves with `relay_tls`.
Source: weed/security/tls.go.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import shutil
import tempfile
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from native_handlers.records import dataclass
from supervisor.config.config import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from supervisor.config.config import SecurityConfig

_PREFIX = "weed-volume-py-child-"
_UNFINISHED_PREFIX = ".weed-volume-py-child-"
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class ChildFiles:
    """The text of both files. Both are always written, because weed looks elsewhere for a missing one."""

    security_toml: str
    volume_toml: str


def derive_files(security: SecurityConfig) -> ChildFiles:
    """The child's files: the server's own, with the values of `derived_values` put over them."""
    derived = copy.deepcopy(dict(security.file_data))
    for key, value in derived_values(security).items():
        _set(derived, key.lower().split("."), value)
    volume = derived.pop("volume", {})
    return ChildFiles(toml_text(derived), toml_text({"volume": volume}))


def derived_values(security: SecurityConfig) -> dict[str, str | int | bool]:
    """The keys with other values than in the server's files, or that the environment could override.

    Always all keys.
    """
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
"""The keys of `derived_values`. The child's environment must not have their WEED_ variables, which would override."""


def relay_tls(security: SecurityConfig) -> TlsFiles | None:
    """The files with which the relay must serve so that the child accepts it; None where the child dials plaintext.

    The certificate is the server's own, which all clients of the cluster trust. Where only a client pair is configured,
    it is the client's; that works if the CA did not restrict it to clients.
    """
    client = _client_files(security.grpc)
    if client is None:
        return None
    if security.grpc.is_configured:
        return TlsFiles(cert=security.grpc.cert, key=security.grpc.key, ca=security.grpc.ca)
    return client


def _client_files(grpc: TlsFiles) -> TlsFiles | None:
    """The pair that weed dials with: the client pair if complete, else the server's.

    It needs a CA and one directory.
    """
    cert, key = grpc.client_cert, grpc.client_key
    if cert is None or key is None:
        cert, key = grpc.cert, grpc.key
    if cert is None or key is None or grpc.ca is None or cert.parent != key.parent:
        return None
    return TlsFiles(cert=cert, key=key, ca=grpc.ca)


class ChildConfigDirectory:
    """A private directory with the child's files. It is a context manager; the directory is removed at the end.

    A killed supervisor leaves its directory behind. The next one removes it, because no process holds its lock. The
    directory gets its final name only after it is locked.
    """

    def __init__(self, files: ChildFiles, parent: Path | None = None) -> None:
        """Raises OSError where `parent` (default: the temporary directory) cannot be written. Nothing is left then."""
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
        """Removes the directory. A second call does nothing."""
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
    """Removes the directories of supervisors that ended without cleaning up. Returns their paths."""
    removed = []
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid() or path.is_symlink():
                continue
            os.close(_lock(path))
        except OSError:
            continue  # another user's, in use, or just removed by another process
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def _lock(directory: Path) -> int:
    """Opens and locks a directory. The lock ends with the descriptor. Raises BlockingIOError when it is locked."""
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
    """Sets a nested value. A value on the way that is no table is replaced by a table."""
    node = tree
    for part in path[:-1]:
        below = node.get(part)
        if not isinstance(below, dict):
            below = node[part] = {}
        node = below
    node[path[-1]] = value


def _text(path: Path | None) -> str:
    return "" if path is None else str(path)


# ---- A tree of values as TOML text: one assignment per line with its whole key, so no table headers are needed.


def toml_text(tree: Mapping[str, object]) -> str:
    """Text that `tomllib.loads` parses to an equal tree. Tables without any value are lost.

    Raises:
        TypeError: a value that TOML does not have, such as None.
    """
    return "".join(f"{key} = {value}\n" for key, value in _assignments(tree, ""))


def _assignments(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        path = prefix + _quoted(key)
        if isinstance(value, dict):
            yield from _assignments(value, path + ".")
        else:
            yield path, _value(value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)} = {_value(item)}' for key, item in value.items())}}}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _quoted(text: str) -> str:
    """A basic string. JSON's escapes are also TOML's, except for DEL, which TOML needs escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
