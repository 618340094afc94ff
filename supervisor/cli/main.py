"""The program `weed-volume-py`: finds the subcommand, loads its configuration, hands over.

Only what every command needs is imported here: exec mode becomes the Go program before grpc or trio would be loaded.
Exit status: 0 done, 1 failed while working, 2 the command line or the environment cannot be used.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.cli.config import Mode
from supervisor.cli.errors import UsageError
from supervisor.cli.exec_mode import check_offset_width, go_command
from supervisor.cli.flags import CHECK_FLAGS, MASTER_FLAGS, QUICKSTART_FLAGS, VOLUME_FLAGS
from supervisor.cli.go_flags import nearest, scan
from supervisor.cli.load import load_config
from supervisor.cli.usage import COMMANDS, command_usage, volume_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.cli.config import Config
    from supervisor.cli.flags import Flag

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""As a shell says it: 128 + SIGINT."""
_PROGRAM = "weed-volume-py"
_VERSION_FLAGS = frozenset({"-version", "--version", "-V"})
_DEFAULT_COMMAND = "volume"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (of this process where `argv` is None) and returns the exit status."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        command, rest = split_command(tokens)
        status = _RUNNERS[command](rest)
        sys.stdout.flush()
        return status
    except UsageError as error:
        for problem in error.problems:
            print(f"{_PROGRAM}: {problem}", file=sys.stderr)
        print(f"{_PROGRAM}: nothing was started; {_PROGRAM} -h explains every flag", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # nothing was served yet, so there was nothing to drain
    except BrokenPipeError:
        # The reader of our output (head, a pager) has gone; what is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def split_command(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """The subcommand and its arguments; flags of the `weed` program may stand before the word.

    Raises:
        UsageError: the first word is no command.
    """
    if tokens and tokens[0] in _VERSION_FLAGS:
        return "version", list(tokens[1:])
    words = scan(tokens, VOLUME_FLAGS).words
    if not words or words[0] == _DEFAULT_COMMAND:
        return _DEFAULT_COMMAND, list(tokens)
    word = words[0]
    leading = list(tokens[: len(tokens) - len(words)])
    if word in _RUNNERS:
        return word, [*leading, *words[1:]]
    if leading:
        return _DEFAULT_COMMAND, list(tokens)  # a stray word behind flags is reported with all other problems
    meant = nearest(word, COMMANDS)
    hint = f"did you mean {meant}?" if meant else f"expected one of {', '.join(COMMANDS)}, or flags"
    raise UsageError(f"{word!r} is no command; {hint}")


def _volume(argv: list[str]) -> int:
    if scan(argv, VOLUME_FLAGS).wants_help or _helps_after_word(argv):
        print(volume_usage(VOLUME_FLAGS), end="")
        return EXIT_OK
    config = load_config(argv, os.environ, _current_directory())
    if config.mode is Mode.EXEC:
        return _become_backend(config)
    from supervisor.app import run  # noqa: PLC0415  (grpc and trio)

    return run(config)


def _quickstart(argv: list[str]) -> int:
    if _printed_help("quickstart", QUICKSTART_FLAGS, argv):
        return EXIT_OK
    from supervisor.cli.load_small import load_quickstart  # noqa: PLC0415
    from supervisor.quickstart import run_quickstart  # noqa: PLC0415

    return run_quickstart(load_quickstart(argv, os.environ, _current_directory()))


def _master(argv: list[str]) -> int:
    if _printed_help("master", MASTER_FLAGS, argv):
        return EXIT_OK
    from supervisor.cli.load_small import load_master  # noqa: PLC0415
    from supervisor.quickstart import run_master  # noqa: PLC0415

    return run_master(load_master(argv, os.environ, _current_directory()))


def _routes(argv: list[str]) -> int:
    from supervisor.routing.explain import run_routes  # noqa: PLC0415

    return run_routes(argv)


def _explain(argv: list[str]) -> int:
    from supervisor.routing.explain import run_explain  # noqa: PLC0415

    return run_explain(argv)


def _check(argv: list[str]) -> int:
    if _printed_help("check", CHECK_FLAGS, argv):
        return EXIT_OK
    from supervisor.cli.check_command import run_check  # noqa: PLC0415  (numpy)

    return run_check(argv, _current_directory())


def _version(argv: list[str]) -> int:
    from supervisor.cli.version_command import run_version  # noqa: PLC0415

    return run_version(argv, os.environ, _current_directory())


def _help(argv: list[str]) -> int:
    command = argv[0] if argv else _DEFAULT_COMMAND
    tables = {"quickstart": QUICKSTART_FLAGS, "master": MASTER_FLAGS, "check": CHECK_FLAGS}
    if command in tables:
        print(command_usage(command, tables[command]), end="")
    elif command in {"routes", "explain"}:
        return _RUNNERS[command](["-h"])
    else:
        print(volume_usage(VOLUME_FLAGS), end="")
    return EXIT_OK


_RUNNERS: dict[str, Callable[[list[str]], int]] = {
    "volume": _volume,
    "quickstart": _quickstart,
    "master": _master,
    "routes": _routes,
    "explain": _explain,
    "check": _check,
    "version": _version,
    "help": _help,
}


def _printed_help(command: str, table: dict[str, Flag], argv: list[str]) -> bool:
    if not scan(argv, table).wants_help:
        return False
    print(command_usage(command, table), end="")
    return True


def _helps_after_word(argv: list[str]) -> bool:
    words = scan(argv, VOLUME_FLAGS).words
    return bool(words) and scan(words[1:], VOLUME_FLAGS).wants_help


def _become_backend(config: Config) -> int:
    """Replaces this process by the Go program; returns only where that fails."""
    command = go_command(config)
    check_offset_width(config, os.environ)
    for warning in config.warnings:
        print(f"{_PROGRAM}: {warning}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores them, and that would outlive the exec
    try:
        os.execve(command[0], command, os.environ)
    except OSError as error:
        print(f"{_PROGRAM}: {command[0]} cannot be executed: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED


def _current_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current directory cannot be used: {error.strerror}; change to another") from error


if __name__ == "__main__":
    sys.exit(main())
