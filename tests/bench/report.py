"""The table of the lines: printed, and as JSON. The form of the JSON is described in docs/performance.md."""

import json
import statistics

from bench.lines import GO

SCHEMA = 1
BUSY_LIMIT = 0.9
"""A generator that used so much of a processor may have been the limit itself."""
HEADS = (
    "line",
    "server",
    "unit",
    "median",
    "spread",
    "of",
    "ratio",
    "spread",
    "aim",
    "reached",
    "processors",
    "load from",
)


def print_head():
    """The head of the table, in Markdown."""
    _print_row(HEADS)
    _print_row(["---", "---", "---", "---:", "---", "---", "---:", "---", "---", "---", "---:", "---"])


def print_result(result):
    """The rows of one line: one for each server, and one more for its ratio to Go where Go is not the baseline."""
    for server in result.measured():
        _print_row(_cells(result, server, result.line.baseline))
        if GO not in {result.line.baseline, server} and GO in result.figures:
            _print_row(["", "", "", "", "", *_ratio_cells(result, server, GO), "", "", "", ""])
    if not result.figures:
        why = "; ".join(dict.fromkeys(result.left_out.values()))
        _print_row([result.line.name, "", "", f"not measured: {why}", *[""] * 8])


def _cells(result, server, baseline):
    seen = result.spread(server)
    cells = [result.line.name, server, result.line.unit, figure_text(seen.median)]
    cells.append(f"{figure_text(seen.low)} to {figure_text(seen.high)}")
    aim = result.line.aims.get(server)
    aim_text = "" if aim is None else f"{aim.value:g}" + ("" if aim.is_ratio else f" {result.line.unit}")
    reached = {None: "", True: "yes", False: "no"}[result.is_met(server)]
    cells += [*_ratio_cells(result, server, baseline), aim_text, reached]
    busy = result.server_busy.get(server)
    return [*cells, f"{statistics.median(busy):.2f}" if busy else "", _generator(result, server)]


def _ratio_cells(result, server, baseline):
    ratios = result.ratios(server, baseline)
    if server == baseline or ratios is None:
        return ["", "", ""]
    return [baseline, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def _generator(result, server):
    busy = max(result.generator_busy.get(server, [0.0]))
    return result.generator + (f" (used {busy:.0%} of a processor: it may be the limit)" if busy > BUSY_LIMIT else "")


def figure_text(figure):
    """Three digits that count, at least."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _print_row(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def as_json(results, machine, programs, options, date):
    """The text of the JSON file.

    Args:
        machine: facts about the machine, by name.
        programs: name -> `found.Program`.
        options: what the bench was asked, by name.
        date: when it began, in ISO 8601.
    """
    document = {
        "schema": SCHEMA,
        "date": date,
        "machine": machine,
        "programs": {name: one.as_json() for name, one in programs.items()},
        "options": options,
        "lines": [_line_json(result) for result in results],
    }
    return json.dumps(document, indent=2) + "\n"


def _line_json(result):
    line = result.line
    return {
        "key": line.key,
        "group": line.group,
        "name": line.name,
        "unit": line.unit,
        "better": line.better,
        "baseline": line.baseline,
        "aims": {name: {"value": aim.value, "is_ratio": aim.is_ratio} for name, aim in line.aims.items()},
        "why_no_aim": line.why_no_aim,
        "generator": result.generator,
        "left_out": result.left_out,
        "servers": {
            server: {
                "figures": result.figures[server],
                "ratios": result.ratios(server),
                "generator_busy": result.generator_busy.get(server),
                "server_busy": result.server_busy.get(server),
                "is_met": result.is_met(server),
            }
            for server in result.measured()
        },
    }
