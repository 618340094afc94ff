"""exec mode: the argument list with which this process becomes `weed volume`. It imports no slow module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.config import Config

_SECURITY_FILE_NAME = "security.toml"


def go_command(config: Config) -> list[str]:
    """The Go program's argument list: flags in Go's spelling, each with the value that has precedence.

    Raises:
        UsageError: -securityFile names a file that no flag of the Go program can name.
    """
    assert isinstance(config.backend, Path), "exec mode has a program"
    weed_flags = list(config.given_global_flags)
    if config.security_file is not None:
        weed_flags = [flag for flag in weed_flags if flag[0] != "config_dir"]
        weed_flags.append(("config_dir", str(_config_dir_for(config.security_file, config.config_dir))))
    return [str(config.backend), *_spelled(weed_flags), "volume", *_spelled(config.given_flags)]


def _spelled(flags: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    return [f"-{name}={text}" for name, text in flags]


def _config_dir_for(security_file: Path, config_dir: Path | None) -> Path:
    """The directory for the Go program, which takes a directory and reads security.toml in it."""
    directory = security_file.parent
    if security_file.name != _SECURITY_FILE_NAME:
        raise UsageError(
            f"-securityFile={security_file}: in exec mode the Go program looks for {_SECURITY_FILE_NAME} in a"
            f" directory; rename the file to {_SECURITY_FILE_NAME}, or use another mode"
        )
    if config_dir is not None and config_dir.resolve() != directory.resolve():
        raise UsageError(
            f"-securityFile={security_file} and -config_dir={config_dir}: the Go program knows one directory only;"
            " put both files there and give -config_dir alone"
        )
    return directory


def check_offset_width(config: Config, environ: Mapping[str, str]) -> None:
    """Compares -offset.bytes with the program's offset width. Does nothing where the flag is not set.

    Raises:
        UsageError: they differ, or the program does not print its version.
    """
    if config.offset_width_bytes is None:
        return
    from supervisor.backend.errors import BackendError  # noqa: PLC0415  (only with this flag)
    from supervisor.backend.version import ask_version, resolve_offset_width  # noqa: PLC0415

    assert isinstance(config.backend, Path), "exec mode has a program"
    directories = [directory.path for directory in config.directories]
    try:
        version = ask_version(config.backend, environ)
        resolve_offset_width(config.offset_width_bytes, config.backend, version, directories)
    except BackendError as error:
        raise UsageError(str(error)) from error
