"""The subcommands `routes` and `explain`: the routing table, and the fate of one request.

Nothing is started and nothing is sent. Both print decisions of the functions that a running server calls.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from native_handlers.http_model.message import Listener
from native_handlers.http_model.target import RequestTarget
from supervisor.config.config import Mode
from supervisor.config.flags import VOLUME_FLAGS
from supervisor.routing.decision import Decision, decide
from supervisor.routing.errors import TableError
from supervisor.routing.match import match_grpc, match_http
from supervisor.routing.registry import ROUTES, ROUTES_BY_NAME, VOLUME_SERVICE, AccessKind, Protocol, Route
from supervisor.routing.table import Table, load_table, table_forwarding_all, table_native

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2


def run_routes(argv: Sequence[str]) -> int:
    """`routes show [-json] [-routes FILE] [-mode M]` and `routes validate [FILE]`.

    Returns the exit status: 0; 1 for a table that is refused; 2 for a command that is not understood.
    """
    return _run(_routes_parser(), argv, _routes)


def run_explain(argv: Sequence[str]) -> int:
    """`explain METHOD PATH [-public]` or `explain grpc.Name`. Returns the exit status as `run_routes`."""
    return _run(_explain_parser(), argv, _explain)


def table_for(mode: Mode | None, file: Path | None, native_names: Collection[str]) -> Table:
    """The table with which a server with this -mode and -routes would start.

    Raises:
        TableError: as `load_table`.
    """
    match mode:
        case Mode.PROXY | Mode.EXEC:
            return table_forwarding_all()
        case Mode.NATIVE:
            return table_native(native_names)
        case Mode.MIXED | None:
            return load_table(file, native_names=native_names)


def explain_http(table: Table, listener: Listener, method: str, target: str) -> list[tuple[str, str]]:
    """The way that an HTTP request would take, as (label, text) lines. A query in `target` has no effect."""
    parsed = RequestTarget.parse(target.encode("utf-8", "surrogateescape").decode("latin-1"))
    route = match_http(listener, method, parsed.raw_path)
    volume_id = parsed.volume_id if route.access.is_volume_in_path else None
    if route.access.volume_id_in is None:
        volume = "none"
    else:
        volume = str(volume_id) if volume_id is not None else "no volume id in the path; the handler will say so"
    return _lines(decide(route, volume_id, table), table, volume)


def explain_grpc(table: Table, name: str) -> list[tuple[str, str]] | None:
    """The same for an RPC, named as `grpc.Name` or by its path. None where there is no such RPC."""
    route = match_grpc(name if name.startswith("/") else f"/{VOLUME_SERVICE}/{name.removeprefix('grpc.')}")
    if route is None:
        route = ROUTES_BY_NAME.get(name)
    if route is None or route.protocol is not Protocol.GRPC:
        return None
    field = route.access.volume_id_in
    return _lines(decide(route, None, table), table, f"the request's {field}" if field else "none")


def _lines(decision: Decision, table: Table, volume: str) -> list[tuple[str, str]]:
    route = decision.route
    return [
        ("route", f"{route.name}: {route.summary}"),
        ("matches", _matches(route)),
        ("access", str(route.access)),
        ("volume", volume),
        ("state", _state_text(route, table)),
        ("engine", "none" if decision.is_absent else decision.engine.value),
        ("why", decision.why),
    ]


def _matches(route: Route) -> str:
    return f"{route.answers} ({route.listener.value} listener)" if route.listener else route.answers


def _state_text(route: Route, table: Table) -> str:
    return "absent" if route.name in table.absent else table.state_of(route).value


def _routes(options: argparse.Namespace, native_names: Collection[str], out: TextIO) -> int:
    if options.action == "validate":
        table = load_table(options.file or options.routes, native_names=native_names)
        forwarded = sum(state == "forward" for state in _shown_states(table).values())
        print(f"{table.source}: valid; {forwarded} of {len(ROUTES)} routes are forwarded", file=out)
        for warning in table.warnings:
            print(f"{table.source}: warning: {warning}", file=out)
        return EXIT_OK
    table = table_for(options.mode, options.routes, native_names)
    if options.json:
        json.dump(_as_json(table), out, indent=2)
        print(file=out)
    else:
        _print_table(table, out)
    return EXIT_OK


def _shown_states(table: Table) -> dict[str, str]:
    return {route.name: _state_text(route, table) for route in ROUTES}


def _as_json(table: Table) -> dict[str, object]:
    states = _shown_states(table)
    return {
        "phase": table.phase,
        "source": str(table.source) if table.source else None,
        "routes": [
            {
                "name": route.name,
                "state": states[route.name],
                "access": route.access.kind.name.lower(),
                "volume_id_in": route.access.volume_id_in,
                "native_from_phase": route.phase,
                "answers": route.answers,
                "listener": route.listener.value if route.listener else None,
                "why": table.reasons[route.name],
            }
            for route in ROUTES
        ],
    }


def _print_table(table: Table, out: TextIO) -> None:
    states = _shown_states(table)
    rows = [
        (
            route.name,
            states[route.name],
            "" if route.access.kind is AccessKind.NOTHING else str(route.access),
            _matches(route),
        )
        for route in ROUTES
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        print("  ".join([*padded, row[-1]]), file=out)
    counts = {word: list(states.values()).count(word) for word in ("native", "forward", "absent")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    print(f"\nphase {table.phase} of {table.source or 'no file: the mode says it all'}: {told}", file=out)


def _explain(options: argparse.Namespace, native_names: Collection[str], out: TextIO) -> int:
    table = table_for(options.mode, options.routes, native_names)
    if options.path is None:
        lines = explain_grpc(table, options.method)
        if lines is None:
            print(f"explain: {options.method!r} is no RPC of a volume server; write grpc.Name, or METHOD PATH for an "
                  "HTTP request", file=sys.stderr)  # fmt: skip
            return EXIT_USAGE
    else:
        listener = Listener.PUBLIC if options.public else Listener.ADMIN
        lines = explain_http(table, listener, options.method, options.path)
    if options.mode is Mode.EXEC:
        lines.append(("note", "in exec mode this process is replaced by the backend"))
    for label, text in lines:
        print(f"{label:<8} {text}", file=out)
    return EXIT_OK


def _run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    command: Callable[[argparse.Namespace, Collection[str], TextIO], int],
) -> int:
    """Parses the arguments and runs the command. Errors of argparse and a refused table become an exit status."""
    try:
        options = parser.parse_args(list(argv))
        _complete_from_environment(options)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else EXIT_USAGE
    except argparse.ArgumentTypeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    # Loading every handler takes a moment, so usage errors and --help come before it.
    from supervisor.routing.native import native_names  # noqa: PLC0415

    try:
        return command(options, native_names(), sys.stdout)
    except TableError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED


def _complete_from_environment(options: argparse.Namespace) -> None:
    """Fills -mode and -routes from the environment variables that the server reads."""
    for name, parse in (("mode", _mode), ("routes", Path)):
        given = next((os.environ[key] for key in VOLUME_FLAGS[name].environment if os.environ.get(key)), None)
        if given is not None and getattr(options, name, None) is None:
            setattr(options, name, parse(given))


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode; expected one of {known}") from None


def _routes_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("weed-volume-py routes", description="The routing table: docs/routing.md.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|validate")
    show = actions.add_parser("show", help="print every route and what it does")
    _add_flag(show, "json", action="store_true", help="as JSON")
    _add_table_flags(show)
    validate = actions.add_parser("validate", help="check a table; without FILE the one a server would read")
    validate.add_argument("file", nargs="?", type=Path, metavar="FILE")
    _add_flag(validate, "routes", type=Path, metavar="FILE", help="the same as FILE")
    return parser


def _explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("weed-volume-py explain", description="Which engine would answer a request, why.")
    parser.add_argument("method", metavar="METHOD|grpc.Name", help="an HTTP method, or the name or path of an RPC")
    parser.add_argument("path", nargs="?", metavar="PATH", help="the request's path as sent, with its escapes")
    _add_flag(parser, "public", action="store_true", help="on the public listener rather than the admin one")
    _add_table_flags(parser)
    return parser


def _add_table_flags(parser: argparse.ArgumentParser) -> None:
    _add_flag(parser, "routes", type=Path, metavar="FILE", help="the routing table; unset: the one that is shipped")
    _add_flag(parser, "mode", type=_mode, metavar="M", help="exec, proxy, mixed or native; else what the table says")


def _add_flag(parser: argparse.ArgumentParser, name: str, **how: Any) -> None:  # noqa: ANN401  argparse's own keywords
    """Adds a flag that can be written with one dash or two, as the server's flags."""
    parser.add_argument(f"-{name}", f"--{name}", dest=name, **how)
