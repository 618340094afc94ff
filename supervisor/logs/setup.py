"""Sets up logging for the process: everything goes to standard error, through one handler.

Source of the levels: weed/glog, -v. Here 0 shows what upstream's Info, Warning, Error and Fatal show; from 1 on the
debug lines of this program are shown too, and from 4 on those of the libraries.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from supervisor.logs.formats import GlogFormatter, JsonFormatter, backend_of, source_of
from supervisor.logs.repeats import LineKind, RepeatLimiter, Suppressed, shape_of

if TYPE_CHECKING:
    from supervisor.cli.config import LogConfig

OWN_LOGGERS = ("supervisor", "native_handlers")
LIBRARY_VERBOSITY = 4


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream, holding back repeats.

    What cannot be written is dropped: a reader of the log that went away must not take the server with it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._limiter = RepeatLimiter()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging with the handler's lock held, which also protects the limiter."""
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
        """Keeps quiet about a broken stream; anything else is a wrong logging call, a bug to be seen in tests."""
        if not self.stream.closed and not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Tells what is still held back. Runs at the end of the process."""
        self.acquire()
        try:
            for suppressed in self._limiter.take_all():
                super().emit(_summary(suppressed))
        finally:
            self.release()
        super().close()


def set_up_logging(config: LogConfig, stream: TextIO | None = None) -> LogHandler | None:
    """Sends all logging to `stream` (standard error) as `config` says; a second call replaces the first.

    Returns the handler, or None where the process has no standard error: then nothing is logged.
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
    """None for lines that are never held back: debug lines (they were asked for), the last words of a process, and
    lines of a backend's stack dump, which have no source in front.
    """
    if record.levelno < logging.INFO or record.levelno >= logging.CRITICAL:
        return None
    file, line, message = source_of(record)
    backend = backend_of(record)
    if backend is not None and not file:
        return None
    return LineKind(record.name, record.levelno, file, line, shape_of(message), backend)


def _summary(suppressed: Suppressed) -> logging.LogRecord:
    """A record that stands where the lines that it counts came from."""
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
        # A backend's line has its source in the text, where the formatters look for it.
        attributes |= {"backend": kind.backend, "msg": f"{kind.file}:{kind.line} {text}"}
    return logging.makeLogRecord(attributes)
