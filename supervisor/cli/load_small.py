"""The configurations of `quickstart` and `master`, the two commands with the embedded master."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.cli.gather import gather
from supervisor.cli.load import Surroundings, volume_config
from supervisor.config.addresses import read_grpc_port
from supervisor.config.config import LogConfig, MasterOptions, Mode, QuickstartConfig
from supervisor.config.directories import directory_texts
from supervisor.config.errors import UsageError
from supervisor.config.flags import MASTER_FLAGS, QUICKSTART_FLAGS
from supervisor.config.go_flags import unknown_flag_message
from supervisor.config.home_paths import absolute, absolute_or_none
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import FlagValues

_REPLICATION = re.compile("[0-2]{3}")
_QUICKSTART_DEFAULTS = {"dir": "data", "ip": "127.0.0.1", "mode": "native", "preStopSeconds": "0", "max": "0"}


def load_quickstart(
    argv: Sequence[str], environ: Mapping[str, str], cwd: Path, surroundings: Surroundings | None = None
) -> QuickstartConfig:
    """`weed-volume-py quickstart`: the flags of `volume` with other defaults, and the flags of its master.

    Creates missing data directories, and nothing else.

    Raises:
        UsageError: with all problems.
    """
    parts = gather(argv, environ, cwd, QUICKSTART_FLAGS, _QUICKSTART_DEFAULTS)
    values = parts.values
    ip = values.text("ip") or "127.0.0.1"
    port, port_grpc = values.integer("master.port"), read_grpc_port(values, "master.port", "master.port.grpc")
    for name in ("master", "mserver"):
        if values.origin(name).startswith(f"-{name}="):
            values.note(name, "quickstart starts a master of its own; use the volume command to join another")
    values.force("mserver", join_host_port(ip, port) + f".{port_grpc}")
    _check_replication(values, "master.defaultReplication")
    _make_directories(values, environ, cwd)
    config = volume_config(parts, environ, cwd, surroundings or Surroundings())
    if config.mode is Mode.EXEC:
        raise UsageError(
            f"{values.origin('mode')}: quickstart cannot become another program; use native, mixed or proxy"
        )
    master = MasterOptions(
        ip=config.ip,
        bind_ip=config.bind_ip,
        port=port,
        port_grpc=port_grpc,
        volume_size_limit_mb=values.integer("master.volumeSizeLimitMB"),
        default_replication=values.text("master.defaultReplication"),
        directory=None,
        log=config.log,
    )
    return QuickstartConfig(config, master)


def load_master(argv: Sequence[str], environ: Mapping[str, str], cwd: Path) -> MasterOptions:
    """`weed-volume-py master`. Raises UsageError with all problems."""
    parts = gather(argv, environ, cwd, MASTER_FLAGS, {})
    values = parts.values
    values.problems.extend(unknown_flag_message(flag.name, MASTER_FLAGS) for flag in parts.unknown)
    options = MasterOptions(
        ip=values.text("ip"),
        bind_ip=values.text("ip.bind") or values.text("ip"),
        port=values.integer("port"),
        port_grpc=read_grpc_port(values, "port", "port.grpc"),
        volume_size_limit_mb=values.integer("volumeSizeLimitMB"),
        default_replication=values.text("defaultReplication"),
        directory=absolute_or_none(values.text("mdir"), cwd),
        log=LogConfig(values.integer("v"), values.boolean("log.json"), None),
    )
    _check_replication(values, "defaultReplication")
    if values.problems:
        raise UsageError(*values.problems)
    return options


def _check_replication(values: FlagValues, name: str) -> None:
    if not _REPLICATION.fullmatch(values.text(name)):
        values.note(name, f"{values.text(name)!r} is no replication; expected three digits from 0 to 2, such as 001")


def _make_directories(values: FlagValues, environ: Mapping[str, str], cwd: Path) -> None:
    """Creates missing data directories. An empty entry is skipped here and refused later."""
    for text in filter(None, directory_texts(values, environ)):
        path = absolute(text, cwd)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            values.note("dir", f"{path} cannot be created: {error.strerror or error}")
