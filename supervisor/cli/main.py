"""The program `weed-volume-py`: finds the subcommand, loads its configuration, runs it.

This module imports only what every command needs: exec mode becomes the Go program before grpc or trio would be loaded.
Exit status: 0 done, 1 failed while working, 2 the command line or the environment cannot be used.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.assembly.collector import set_apart, without_collection
from supervisor.cli.exec_mode import check_offset_width, go_command
from supervisor.cli.load import load_config
from supervisor.cli.usage import COMMANDS, command_usage, volume_usage
from supervisor.config.config import Mode
from supervisor.config.errors import OutputFailed, UsageError
from supervisor.config.flags import MASTER_FLAGS, QUICKSTART_FLAGS, TOOL_FLAGS, VOLUME_FLAGS
from supervisor.config.go_flags import nearest, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.config.config import Config
    from supervisor.config.flags import Flag

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""The exit status that a shell gives: 128 + SIGINT."""
_PROGRAM = "weed-volume-py"
_VERSION_FLAGS = frozenset({"-version", "--version", "-V"})
_DEFAULT_COMMAND = "volume"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (this process's where `argv` is None) and returns the exit status."""
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
        return EXIT_INTERRUPTED  # nothing is served yet, so nothing has to be drained
    except BrokenPipeError:
        # The reader of the output (head, a pager) has gone.
        _drop_output()
        return EXIT_FAILED
    except OutputFailed as error:
        _drop_output()
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return EXIT_FAILED


def _drop_output() -> None:
    """The rest in the buffer must not be written again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def split_command(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """The subcommand and its arguments. Flags of the `weed` program may stand before the word.

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
        return _DEFAULT_COMMAND, list(tokens)  # a stray word after flags is reported with all other problems
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
    if config.workers:
        return _run_with_workers(config)
    return _load_app()(config)


def _run_with_workers(config: Config) -> int:
    """Starts the workers first: they load their modules while this process loads its own."""
    from supervisor.workers.spawn import EarlyWorkers, WorkerKind  # noqa: PLC0415  (only with -workers)

    kinds = {Mode.NATIVE: WorkerKind.NATIVE, Mode.PROXY: WorkerKind.FORWARDING}
    early = EarlyWorkers()
    try:
        early.spawn(config.workers, kinds.get(config.mode))
        return _load_app()(config, early)
    finally:
        early.end()


def _load_app() -> Callable[..., int]:
    """`supervisor.app.run`. Loading it takes most of a start."""
    # The objects of loaded modules stay, and searching them for cycles takes a tenth of the start.
    with without_collection():
        from supervisor.app import run  # noqa: PLC0415  (grpc and trio)

        set_apart()
    return run


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
    from supervisor.cli.explain import run_routes  # noqa: PLC0415

    return run_routes(argv)


def _explain(argv: list[str]) -> int:
    from supervisor.cli.explain import run_explain  # noqa: PLC0415

    return run_explain(argv)


def _tool(command: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        if _printed_help(command, TOOL_FLAGS[command], argv):
            return EXIT_OK
        from supervisor.cli.tools import run_tool  # noqa: PLC0415  (numpy)

        return run_tool(command, argv, _current_directory())

    return run


def _version(argv: list[str]) -> int:
    from supervisor.cli.version_command import run_version  # noqa: PLC0415

    return run_version(argv, os.environ, _current_directory())


def _help(argv: list[str]) -> int:
    command = argv[0] if argv else _DEFAULT_COMMAND
    tables = {"quickstart": QUICKSTART_FLAGS, "master": MASTER_FLAGS, **TOOL_FLAGS}
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
    **{command: _tool(command) for command in TOOL_FLAGS},
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
    """Replaces this process by the Go program. Returns only where that fails."""
    command = go_command(config)
    check_offset_width(config, os.environ)
    for warning in config.warnings:
        print(f"{_PROGRAM}: {warning}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores them, and execve would keep that
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
