"""Sets up logging for the process: everything goes to standard error, through one handler.

Source of the levels: weed/glog (-v). Level 0 shows what upstream's Info, Warning, Error and Fatal show. From 1 on this
program's debug lines are shown too, and from 4 on those of the libraries.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from supervisor.config.config import Mode, NativeBackend
from supervisor.logs.formats import GlogFormatter, JsonFormatter, backend_of, source_of
from supervisor.logs.repeats import LineKind, RepeatLimiter, Suppressed, shape_of
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from supervisor.config.config import Config, LogConfig

OWN_LOGGERS = ("supervisor", "native_handlers")
LIBRARY_VERBOSITY = 4


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream, and suppresses repeats.

    A record that cannot be written is dropped: a log reader that has gone must not end the server.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._limiter = RepeatLimiter()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record. logging calls this with the handler's lock held, which also protects the limiter."""
        try:
            for suppressed in self._limiter.take_due(record.created):
                super().emit(_summary(suppressed))
            kind = _kind_of(record)
            is_written = kind is None or self._limiter.admit(kind, record.created)
        except Exception:  # noqa: BLE001  as logging's own handlers: a wrong logging call must not break its caller
            self.handleError(record)
            return
        if is_written:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is logging's
        """Ignores a broken stream. Any other error is a wrong logging call, and tests must see it."""
        if not self.stream.closed and not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Writes the counts of lines that are still suppressed. This runs at the end of the process."""
        self.acquire()
        try:
            for suppressed in self._limiter.take_all():
                super().emit(_summary(suppressed))
        finally:
            self.release()
        super().close()


def set_up_logging(config: LogConfig, stream: TextIO | None = None) -> LogHandler | None:
    """Sends all logging to `stream` (default: standard error) as `config` says. A second call replaces the first.

    Returns the handler; None where the process has no standard error. Then nothing is logged.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, LogHandler)]:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.DEBUG if config.verbosity >= LIBRARY_VERBOSITY else logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if config.verbosity > 0 else logging.INFO)
    logging.captureWarnings(True)
    target = stream if stream is not None else sys.stderr
    if target is None:
        return None
    handler = LogHandler(target)
    handler.setFormatter(JsonFormatter() if config.json_lines else GlogFormatter())
    root.addHandler(handler)
    return handler


def _kind_of(record: logging.LogRecord) -> LineKind | None:
    """The kind of a line; None for lines that are never suppressed.

    Those are debug lines (they were asked for), critical lines, and lines of a backend's stack dump, which name no
    source.
    """
    if record.levelno < logging.INFO or record.levelno >= logging.CRITICAL:
        return None
    file, line, message = source_of(record)
    backend = backend_of(record)
    if backend is not None and not file:
        return None
    return LineKind(record.name, record.levelno, file, line, shape_of(message), backend)


def _summary(suppressed: Suppressed) -> logging.LogRecord:
    """A record with the place and level of the lines that it counts."""
    kind = suppressed.kind
    text = f"{suppressed.count} more lines like: {kind.shape}"
    attributes: dict[str, object] = {
        "name": kind.logger,
        "levelno": kind.level,
        "levelname": logging.getLevelName(kind.level),
        "filename": kind.file,
        "lineno": kind.line,
        "msg": text,
        "created": suppressed.until_s,
    }
    if kind.backend is not None:
        # The formatters take the source of a backend's line from its text.
        attributes |= {"backend": kind.backend, "msg": f"{kind.file}:{kind.line} {text}"}
    return logging.makeLogRecord(attributes)


# ---- The one line that says what was started, where, and in which mode.


def start_line(config: Config, *, version: str, routing: str) -> str:
    """The first line for an operator. `routing` says which table decides, such as "phase 1 of FILE"."""
    parts = [
        f"weed-volume-py {version} in {config.mode.value} mode ({routing})",
        f"HTTP {join_host_port(config.bind_ip, config.port)}",
        f"gRPC {join_host_port(config.bind_ip, config.port_grpc)}",
    ]
    if config.port_public != config.port:
        parts.append(f"public HTTP {join_host_port(config.bind_ip, config.port_public)}")
    if config.metrics_port:
        parts.append(f"metrics {join_host_port(config.metrics_ip, config.metrics_port)}")
    parts.append(f"known to the cluster as {join_host_port(config.ip, config.port)}")
    parts.append(f"masters {', '.join(map(str, config.masters)) or 'none'}")
    parts.append(f"directories {', '.join(str(directory.path) for directory in config.directories)}")
    if config.mode is not Mode.NATIVE and config.backend is not None:
        is_own = config.backend is NativeBackend.NATIVE
        parts.append(f"backend {'this program' if is_own else config.backend}")
    return "; ".join(parts)
