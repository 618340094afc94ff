"""Turns an argument list into one checked `Config`. Reads files and asks the kernel, but starts nothing.

`load_config` collects all problems before it raises, so an operator can correct them together. The rules between flags
are upstream's (weed/command/volume.go). flags.py and values.py have the rules of single flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http_model.read_mode import ReadMode
from native_handlers.records import dataclass
from supervisor.cli.backend_flags import ask_backend_flags, pass_through
from supervisor.cli.engine_choice import EngineChoice, choose_engine, table_forwards_anything
from supervisor.cli.gather import CommandInput, gather
from supervisor.config.addresses import Addresses, read_addresses, read_masters
from supervisor.config.config import Config, LogConfig, Mode
from supervisor.config.directories import read_directories, read_idx_directory
from supervisor.config.errors import BadValue, UsageError
from supervisor.config.flags import VOLUME_FLAGS, Flag, Kind, Owner
from supervisor.config.go_values import parse_bool
from supervisor.config.home_paths import absolute_or_none
from supervisor.config.host_address import detect_host_address
from supervisor.config.security import disk_probe_from_tree, security_from_tree, split_list, tiers_from_tree
from supervisor.config.toml_config import ConfigSources, ConfigTree, load_config_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from supervisor.config.go_flags import Given
    from supervisor.config.values import FlagValues

_MIB = 1 << 20
_INDEX_KINDS = ("memory", "leveldb", "leveldbMedium", "leveldbLarge")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The functions by which loading asks the machine. Tests replace them."""

    detect_address: Callable[[], str] = detect_host_address
    table_forwards: Callable[[Path | None], bool] = table_forwards_anything
    ask_backend_flags: Callable[[Path], Mapping[str, bool]] | None = None


def load_config(
    argv: Sequence[str], environ: Mapping[str, str], cwd: Path, surroundings: Surroundings | None = None
) -> Config:
    """The configuration of `weed-volume-py [weed's flags] [volume] [flags]`. `argv` has no program name.

    Raises:
        UsageError: with all problems. Nothing was created or started.
    """
    parts = gather(argv, environ, cwd, VOLUME_FLAGS, {})
    return volume_config(parts, environ, cwd, surroundings or Surroundings())


def volume_config(parts: CommandInput, environ: Mapping[str, str], cwd: Path, surroundings: Surroundings) -> Config:
    """The configuration of `parts`. Raises UsageError with all problems, also those noted in `parts`."""
    values = parts.values
    choice = choose_engine(values, environ, cwd, surroundings.table_forwards)
    passed = _handle_unknown(parts, choice, environ, surroundings)
    addresses = read_addresses(values, surroundings.detect_address)
    config_dir = absolute_or_none(values.text("config_dir"), cwd)
    security_file = _security_file(values, cwd)
    tree = load_config_tree(ConfigSources(config_dir, security_file, environ, cwd))
    parts_of_config = _Loaded(choice, addresses, tree, config_dir, security_file, passed)
    config = _assemble(parts, parts_of_config, environ, cwd)
    _note_every_other_value(values)
    if values.problems:
        raise UsageError(*values.problems)
    return config


@dataclass(frozen=True, slots=True)
class _Loaded:
    choice: EngineChoice
    addresses: Addresses
    tree: ConfigTree
    config_dir: Path | None
    security_file: Path | None
    passed: list[tuple[str, str]]


def _assemble(parts: CommandInput, loaded: _Loaded, environ: Mapping[str, str], cwd: Path) -> Config:
    values, addresses, choice = parts.values, loaded.addresses, loaded.choice
    directories = read_directories(values, environ, cwd)
    white_list = split_list(values.text("whiteList"))
    security = security_from_tree(loaded.tree, white_list, cwd)
    probe = disk_probe_from_tree(loaded.tree, values.text("disk"), len(directories))
    return Config(
        mode=choice.mode,
        backend=choice.backend,
        routes_file=choice.routes_file,
        offset_width_bytes=values.integer("offset.bytes") or None,
        workers=_workers(values, choice),
        ip=addresses.ip,
        port=addresses.port,
        port_grpc=addresses.port_grpc,
        port_public=addresses.port_public,
        bind_ip=addresses.bind_ip,
        id=addresses.id,
        public_url=addresses.public_url,
        masters=read_masters(values),
        data_center=values.text("dataCenter"),
        rack=values.text("rack"),
        directories=directories,
        idx_directory=read_idx_directory(values, cwd),
        index=_index(parts),
        read_mode=ReadMode(values.text("readMode")),
        pre_stop_s=values.integer("preStopSeconds"),
        idle_timeout_s=values.integer("idleTimeout"),
        fix_jpg_orientation=values.boolean("images.fix.orientation"),
        file_size_limit_bytes=values.integer("fileSizeLimitMB") * _MIB,
        compaction_bytes_per_s=values.integer("compactionMBps") * _MIB,
        maintenance_bytes_per_s=values.integer("maintenanceMBps") * _MIB,
        concurrent_upload_limit_bytes=values.integer("concurrentUploadLimitMB") * _MIB,
        concurrent_download_limit_bytes=values.integer("concurrentDownloadLimitMB") * _MIB,
        inflight_upload_timeout_s=values.duration_s("inflightUploadDataTimeout"),
        inflight_download_timeout_s=values.duration_s("inflightDownloadDataTimeout"),
        allow_untrusted_remote_endpoints=values.boolean("volume.allowUntrustedRemoteEndpoints"),
        metrics_port=values.integer("metricsPort"),
        metrics_ip=addresses.metrics_ip,
        cpu_profile=_profile(values, "cpuprofile", cwd),
        mem_profile=_profile(values, "memprofile", cwd),
        debug=values.boolean("debug"),
        disk_probe=probe,
        tiers=tiers_from_tree(loaded.tree),
        security=security,
        log=_log_config(values, cwd),
        config_dir=loaded.config_dir,
        security_file=loaded.security_file,
        white_list_flag=white_list,
        given_flags=(*_go_flags(values, Owner.VOLUME), *loaded.passed),
        given_global_flags=_go_flags(values, Owner.WEED),
        warnings=(*parts.warnings, *loaded.tree.warnings),
    )


def _handle_unknown(
    parts: CommandInput, choice: EngineChoice, environ: Mapping[str, str], surroundings: Surroundings
) -> list[tuple[str, str]]:
    ask = surroundings.ask_backend_flags or (lambda program: ask_backend_flags(program, environ))
    passed, warnings, problems = pass_through(parts.unknown, choice, VOLUME_FLAGS, ask)
    parts.warnings.extend(warnings)
    parts.values.problems[:0] = problems
    return passed


def _security_file(values: FlagValues, cwd: Path) -> Path | None:
    path = absolute_or_none(values.text("securityFile"), cwd)
    if path is not None and not path.is_file():
        values.note("securityFile", f"{path} is not a file; expected a security.toml")
    return path


def _workers(values: FlagValues, choice: EngineChoice) -> int:
    count = values.integer("workers")
    if count and choice.mode is Mode.EXEC:
        values.note("workers", "in exec mode the Go program serves, and it has no workers")
    return count


def _index(parts: CommandInput) -> str:
    index = parts.values.text("index")
    if index in _INDEX_KINDS:
        return index
    parts.warnings.append(f"{parts.values.origin('index')}: unknown index kind; memory is used, as weed does")
    return "memory"


def _profile(values: FlagValues, name: str, cwd: Path) -> Path | None:
    """The path of a profile file; None with -pprof, which excludes profile files."""
    return None if values.boolean("pprof") else absolute_or_none(values.text(name), cwd)


def _log_config(values: FlagValues, cwd: Path) -> LogConfig:
    return LogConfig(
        verbosity=values.integer("v"),
        json_lines=values.boolean("log.json") or values.boolean("log_json"),
        directory=absolute_or_none(values.text("logdir"), cwd),
    )


def _go_flags(values: FlagValues, owner: Owner) -> tuple[tuple[str, str], ...]:
    """The flags that were set, in Go's spelling. -options is left out, because its values are included."""
    rows = ((VOLUME_FLAGS[given.name], given) for given in values.given if given.name in VOLUME_FLAGS)
    return tuple(
        (row.name, _go_text(row, given)) for row, given in rows if row.owner is owner and row.name != "options"
    )


def _go_text(row: Flag, given: Given) -> str:
    if row.kind is not Kind.BOOL:
        return given.text
    try:
        return "true" if parse_bool(given.text) else "false"
    except BadValue:
        return given.text  # its problem is noted elsewhere


def _note_every_other_value(values: FlagValues) -> None:
    """Reads the values that fill no field (flags that only a Go backend uses), so that their problems are noted."""
    for given in values.given:
        if given.name not in VOLUME_FLAGS:
            continue
        kind = VOLUME_FLAGS[given.name].kind
        if kind is Kind.BOOL:
            values.boolean(given.name)
        elif kind is Kind.INT:
            values.integer(given.name)
