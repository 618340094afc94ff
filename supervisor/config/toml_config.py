"""security.toml and volume.toml: where they are searched, how they are merged, how WEED_ variables override them.

Source: weed/util/config.go and the rules of its library. Keys are case-insensitive. The first file found per name
counts. The files are merged into one tree with the later file on top. A variable that is set and not empty overrides.
Only the TOML form is read here; the library would also read security.json, security.yaml and others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from native_handlers.records import dataclass
from supervisor.config.durations import parse_duration_ns, parse_duration_s
from supervisor.config.errors import BadConfigFile, BadValue
from supervisor.config.flags import weed_variable
from supervisor.config.go_values import parse_bool, parse_int

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Tree: TypeAlias = "dict[str, object]"

_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True)
class ConfigSources:
    """The settings that decide which files are read. `security_file` replaces the search for security.toml."""

    config_dir: Path | None
    security_file: Path | None
    environ: Mapping[str, str]
    cwd: Path


class ConfigTree:
    """The merged files, with the environment on top. A value of the wrong type gives a warning and the zero value.

    `warnings` grows while values are read. `data` has lower-case keys, and the files' values without the environment.
    """

    def __init__(self, data: Tree, environ: Mapping[str, str], loaded_from: Sequence[Path] = ()) -> None:
        self.data = data
        self.loaded_from = tuple(loaded_from)
        self.warnings: list[str] = []
        self._environ = environ

    def is_set(self, key: str) -> bool:
        return self._raw(key) is not None

    def text(self, key: str) -> str:
        raw = self._raw(key)
        if raw is None:
            return ""
        if isinstance(raw, bool):
            return "true" if raw else "false"
        if isinstance(raw, (str, int, float)):
            return str(raw)
        self._warn(key, f"is a {type(raw).__name__} where weed reads one text, so it counts as empty")
        return ""

    def names(self, key: str) -> list[str]:
        """The names in the table `key`, as the files spell them; none where `key` is no table."""
        node: object = self.data
        for part in key.lower().split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return list(node) if isinstance(node, dict) else []

    def boolean(self, key: str) -> bool:
        raw = self._raw(key)
        if isinstance(raw, (bool, int, float)):
            return bool(raw)
        text = self.text(key)
        try:
            return parse_bool(text) if text else False
        except BadValue as error:
            self._warn(key, f"{error}; false is used")
            return False

    def integer(self, key: str, default: int) -> int:
        raw = self._raw(key)
        if raw is None:
            return default
        if isinstance(raw, (bool, int, float)):
            return int(raw)
        try:
            return parse_int(self.text(key).lstrip("0") or "0")
        except BadValue as error:
            self._warn(key, f"{error}; 0 is used")
            return 0

    def number(self, key: str, default: float) -> float:
        raw = self._raw(key)
        if raw is None:
            return default
        try:
            return float(self.text(key))
        except ValueError:
            self._warn(key, f"{raw!r} is not a number; 0 is used")
            return 0.0

    def duration_s(self, key: str, default_s: float) -> float:
        """The value in seconds. As in Go, a number without a unit is in nanoseconds."""
        raw = self._raw(key)
        if raw is None:
            return default_s
        if isinstance(raw, (bool, int, float)):
            return int(raw) / _NANOSECONDS
        text = self.text(key)
        try:
            return (
                parse_duration_s(text) if text.strip("0123456789-") else parse_duration_ns(f"{text}ns") / _NANOSECONDS
            )
        except BadValue as error:
            self._warn(key, f"{error}; 0 is used")
            return 0.0

    def _raw(self, key: str) -> object | None:
        variable = self._environ.get(weed_variable(key))
        if variable:
            return variable
        node: object = self.data
        for part in key.lower().split("."):
            if not isinstance(node, dict) or part not in node:
                return None
            node = node[part]
        return node

    def _warn(self, key: str, what: str) -> None:
        sentence = f"configuration key {key}: {what}"
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def search_path(sources: ConfigSources) -> list[Path]:
    """The directories that are searched, in order."""
    directories = [] if sources.config_dir is None else [sources.cwd / sources.config_dir]
    directories.append(sources.cwd)
    home = sources.environ.get("HOME", "")
    if home:
        directories.append(Path(home) / ".seaweedfs")
    return [*directories, Path("/usr/local/etc/seaweedfs"), Path("/etc/seaweedfs")]


def load_config_tree(sources: ConfigSources, *, strict: bool = False) -> ConfigTree:
    """Reads security.toml, then volume.toml on top. A file that cannot be parsed is skipped whole, with a warning.

    Raises:
        BadConfigFile: with `strict`, instead of the warning. A reload keeps the old values then.
    """
    data: Tree = {}
    loaded, warnings = [], []
    for path in (_security_path(sources), _find("volume.toml", sources)):
        if path is None:
            continue
        try:
            _merge(data, _lower_keys(_read_toml(path)))
        except BadConfigFile as error:
            if strict:
                raise
            warnings.append(f"{error}. The file is skipped.")
        else:
            loaded.append(path)
    tree = ConfigTree(data, sources.environ, loaded)
    tree.warnings.extend(warnings)
    return tree


def _security_path(sources: ConfigSources) -> Path | None:
    if sources.security_file is not None:
        return sources.cwd / sources.security_file
    return _find("security.toml", sources)


def _find(name: str, sources: ConfigSources) -> Path | None:
    """The first file of that name. An unreadable file counts as found, and gets a warning later."""
    for directory in search_path(sources):
        path = directory / name
        try:
            if not path.is_dir() and path.stat():
                return path
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    return None


def _read_toml(path: Path) -> Tree:
    # Few servers have such a file, and the parser takes milliseconds of a start.
    import tomllib  # noqa: PLC0415

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadConfigFile(path, error) from error


def _lower_keys(node: Tree) -> Tree:
    """The tree with lower-case keys. Tables whose names differ only in case are merged."""
    lowered: Tree = {}
    for key, value in node.items():
        _merge(lowered, {key.lower(): _lower_keys(value) if isinstance(value, dict) else value})
    return lowered


def _merge(into: Tree, other: Tree) -> None:
    for key, value in other.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into[key] = value
