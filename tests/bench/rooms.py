"""The modules and lines of each folder of the source, as in docs/measurements.md: `python -m tests.bench.rooms`.

Generated modules and the files of packages (`__init__.py`) are left out.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("native_handlers", "supervisor")
SMALL_LINES = 60


def lines_by_folder():
    """The lines of each module, by the folder's path."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py" and "_pb2" not in path.name:
                found[str(path.parent.relative_to(ROOT))].append(len(path.read_text("utf-8").splitlines()))
    return dict(sorted(found.items()))


def print_rooms():
    """One row for each folder, and the figures of all of them."""
    folders = lines_by_folder()
    for folder, lines in folders.items():
        print(f"| `{folder}` | {len(lines)} | {sum(lines):,} |")
    modules = [one for lines in folders.values() for one in lines]
    small = sum(one < SMALL_LINES for one in modules)
    print(f"{len(modules)} modules, median {median(modules):g} lines, {small} under {SMALL_LINES}")


if __name__ == "__main__":
    print_rooms()
