"""The child's command line: the operator's flags, with everything replaced that this process owns.

Listeners, identity, masters, white list and the wait before a stop belong to this process. The child listens on
loopback and takes this process's relay for its master. Limits, directories and all other flags are passed on.

The child binds to the *name* localhost: weed makes a literal bind IP the source address of every outgoing connection
(weed/util/outbound_dial.go), so 127.0.0.1 would cut the child off from volume servers on other hosts. A name leaves the
choice to the kernel, and the child still listens on 127.0.0.1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.backend.child_config import DERIVED_KEYS
from supervisor.backend.ports import LOOPBACK
from supervisor.config.config import NativeBackend
from supervisor.config.flags import VOLUME_FLAGS, weed_variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.backend.ports import BackendPorts
    from supervisor.config.config import Config
    from supervisor.wire.server_address import ServerAddress

BIND_NAME = "localhost"
IDLE_MARGIN_S = 60
"""The child keeps idle connections this much longer than this process, so it never closes one that is about to be
used."""

_OURS = frozenset(
    {"port", "port.grpc", "port.public", "ip", "ip.bind", "publicUrl", "id", "master", "mserver", "preStopSeconds"}
    | {"idleTimeout", "whiteList", "metricsPort", "metricsIp", "debug", "debug.port", "options", "dir", "dir.idx"}
    | {"cpuprofile", "memprofile"}
)
"""`weed volume` flags whose given values are not passed to the child."""
_OUR_LOGGING = frozenset({"config_dir", "logdir", "logtostderr", "alsologtostderr", "stderrthreshold", "log_json"})
LOCK_OWNER_VARIABLE = "VOLUME_SERVER_PY_LOCK_OWNER"
"""Names, for a native child, the process that holds the locks of its directories: the process that started the
child."""
FRONT_VARIABLE = "VOLUME_SERVER_PY_FRONT"
"""Names, for a native child, the front process before it: the process that started the child."""
_OUR_VARIABLES = frozenset(
    {"VOLUME_SERVER_PY_MODE", "VOLUME_SERVER_PY_ROUTES", "VOLUME_SERVER_RUST_MODE", "WEED_BINARY"}
    | {LOCK_OWNER_VARIABLE, FRONT_VARIABLE}
    | {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


def is_named_in(environ: Mapping[str, str], variable: str, process_id: int) -> bool:
    """Whether `variable`, which is meant for a native child, names the process `process_id`."""
    return environ.get(variable) == str(process_id)


def child_command(config: Config, ports: BackendPorts, relay_address: ServerAddress, config_dir: Path) -> list[str]:
    """The argument list that starts the child. The first entry is the program.

    `relay_address` is where the relay listens. `config_dir` holds the derived configuration (child_config.py).
    `config.backend` must not be None.
    """
    program, *prefix = _program(config)
    weed_flags = [f"-{name}={text}" for name, text in _weed_flags(config, config_dir)]
    flags = [f"-{name}={text}" for name, text in _volume_flags(config, ports, relay_address)]
    return [program, *prefix, *weed_flags, "volume", *flags]


def child_environment(environ: Mapping[str, str], backend: Path | NativeBackend) -> dict[str, str]:
    """`environ` without variables that would override derived flags and files, or that are only for this process."""
    removed = _OUR_VARIABLES | {variable for row in VOLUME_FLAGS.values() for variable in row.environment}
    removed |= {weed_variable(key) for key in DERIVED_KEYS}
    kept = {name: text for name, text in environ.items() if name not in removed}
    if backend is NativeBackend.NATIVE:
        root = str(Path(__file__).resolve().parents[2])
        kept["PYTHONPATH"] = f"{root}:{kept['PYTHONPATH']}" if kept.get("PYTHONPATH") else root
    return kept


def _program(config: Config) -> list[str]:
    if config.backend is NativeBackend.NATIVE:
        # -P: a directory `supervisor` in the working directory must not be imported.
        return [sys.executable, "-P", "-m", "supervisor.cli.main", "-mode=native", *_native_only(config)]
    assert config.backend is not None, "no backend was configured"
    return [str(config.backend)]


def _native_only(config: Config) -> list[str]:
    return [f"-offset.bytes={config.offset_width_bytes}"] if config.offset_width_bytes else []


def _weed_flags(config: Config, config_dir: Path) -> Iterator[tuple[str, str]]:
    """The global flags.

    The child logs to files only with -logdir; it always logs to stderr, which this process reads.
    """
    yield "config_dir", str(config_dir)
    if config.log.directory is None:
        yield "logtostderr", "true"
    else:
        yield "logdir", str(config.log.directory)
        yield "alsologtostderr", "true"
    yield from ((name, text) for name, text in config.given_global_flags if name not in _OUR_LOGGING)


def _volume_flags(config: Config, ports: BackendPorts, relay_address: ServerAddress) -> Iterator[tuple[str, str]]:
    has_public_port = config.port_public != config.port
    yield "ip", LOOPBACK
    yield "ip.bind", BIND_NAME
    # The child puts its id into error texts. The relay replaces the id in everything that goes to the master.
    yield "id", config.id
    yield "port", str(ports.http)
    yield "port.grpc", str(ports.grpc)
    yield "port.public", str(ports.public if has_public_port else ports.http)
    yield "publicUrl", f"{LOOPBACK}:{ports.public if has_public_port else ports.http}"
    yield "master", f"{relay_address.http}.{relay_address.grpc_port}"
    yield "preStopSeconds", "0"
    yield "idleTimeout", str(config.idle_timeout_s + IDLE_MARGIN_S)
    yield "dir", ",".join(str(directory.path) for directory in config.directories)
    if config.idx_directory is not None:
        yield "dir.idx", str(config.idx_directory)
    # Always set: the master may name a push gateway later, and then the child's metrics are pushed with this process's.
    yield "metricsPort", str(ports.metrics)
    yield "metricsIp", BIND_NAME
    for name, path in (("cpuprofile", config.cpu_profile), ("memprofile", config.mem_profile)):
        if path is not None:
            yield name, str(path)
    yield from ((name, text) for name, text in config.given_flags if name not in _OURS)
