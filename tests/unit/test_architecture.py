"""The shape of the code: which way imports point, what the pure layers may not touch, sizes, and what no file holds.

Each rule is a table here; a failure names the file and line. docs/architecture.md describes the layers in words.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("native_handlers", "supervisor")
MAX_MODULE_LINES = 400

HANDLERS = {"native_handlers.format", "native_handlers.storage", "native_handlers.http", "native_handlers.grpc"}
EVERYTHING_NATIVE = HANDLERS | {"native_handlers.pb", "native_handlers.version"}
FACTS = {"configuration", "supervisor.wire", "native_handlers.version"}
"""Layers that only hold data and pure functions, which every part of the supervisor may read."""

CONFIGURATION = {
    f"supervisor.cli.{name}"
    for name in ("config", "durations", "errors", "flag_types", "flags", "go_values", "toml_config", "toml_text")
}
"""The part of supervisor/cli that says what there is to configure and how it is written: a layer of its own, far below
the commands that share its folder."""

ELSEWHERE = {"supervisor.gateway.grpc_limits": "supervisor.net"}
"""Modules that belong to another layer than their folder's: what any gRPC server here is limited to."""

MAY_IMPORT: dict[str, set[str]] = {
    "native_handlers.version": set(),
    "native_handlers.pb": set(),
    "native_handlers.format": {"native_handlers.pb"},
    "native_handlers.storage": {"native_handlers.format", "native_handlers.pb"},
    "native_handlers.http": {"native_handlers.format", "native_handlers.storage", "native_handlers.version"},
    "native_handlers.grpc": EVERYTHING_NATIVE - {"native_handlers.http", "native_handlers.grpc"},
    "configuration": {"supervisor.wire"},
    "supervisor.wire": {"native_handlers.http", "native_handlers.format"},
    "supervisor.logs": FACTS,
    "supervisor.net": FACTS | {"native_handlers.http", "native_handlers.format"},
    "supervisor.routing": FACTS | {"native_handlers.http", "native_handlers.grpc"},
    "supervisor.backend": FACTS | {"supervisor.net", "supervisor.logs"},
    "supervisor.cluster": FACTS | {"supervisor.net"} | EVERYTHING_NATIVE,
    "supervisor.authority": FACTS | {"supervisor.routing", "supervisor.cluster"} | EVERYTHING_NATIVE,
    "supervisor.gateway": FACTS
    | {"supervisor.net", "supervisor.routing", "supervisor.cluster", "supervisor.authority"}
    | EVERYTHING_NATIVE,
    "supervisor.control": FACTS | {"supervisor.net", "supervisor.routing"} | EVERYTHING_NATIVE,
}
"""What a layer may import besides itself. The top layers may import everything and are imported by nobody below."""

TOP_LAYERS = {"supervisor.cli", "supervisor.assembly", "composition"}
"""The commands, and what puts everything together: assembly/ and the modules directly in supervisor/."""

PURE_BANS = {"trio", "socket", "ssl", "time", "random", "os", "threading", "subprocess", "logging"}
BANNED_MODULES: dict[str, set[str]] = {
    "native_handlers.format": PURE_BANS,
    "supervisor.wire": PURE_BANS,
    "native_handlers.storage": {"trio", "socket", "ssl"},
    **{package: {"asyncio"} for package in PACKAGES},
}
"""Foreign modules by the packages that may not import them; a rule holds for all that is below it too."""

LARGE_MODULES = {
    "native_handlers/storage/store.py": "the one face of the storage core: many short methods, each a delegation",
    "native_handlers/storage/volume.py": "the one face of a volume: contracts, facts, marks; its jobs live beside it",
}
"""Modules over MAX_MODULE_LINES, each with its reason. Generated code is not counted."""

LATE_DEADLINES = {
    "supervisor/backend/child.py": "the shield gets its deadline when a stop is asked for",
    "native_handlers/http/finish.py": "the shield gets its deadline when the caller is cancelled",
}
"""Files with a shield whose deadline is set after it was made."""

MACHINE_WORDS = tuple(
    "".join(parts)
    for parts in (
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("pypi.", "org/simple"),
        ("files.python", "hosted.org"),
        ("proxy.", "golang.org"),
        ("--index", "-url"),
    )
)
"""Cut in two so that this file does not hold them."""


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    layer: str
    target: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if not is_generated(path)]


def is_generated(path: Path) -> bool:
    return path.name.endswith("_pb2.py")


def layer_of(module: str) -> str:
    """The layer of a module, or of something in one."""
    for names, layer in ((CONFIGURATION, "configuration"), *(({name}, layer) for name, layer in ELSEWHERE.items())):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return layer
    folder = ".".join(module.split(".")[:2])
    return folder if folder in MAY_IMPORT or (ROOT / folder.replace(".", "/")).is_dir() else "composition"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports() -> list[Import]:
    """Every import, also those for type checkers and those inside functions."""
    found = []
    for path in sources():
        layer = layer_of(module_of(path))
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                # `from package import name` may name a module or something in it; both belong to the same layer.
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [Import(path, node.lineno, layer, target) for target in targets]
    return found


IMPORTS = imports()


def test_every_package_has_its_rule():
    layers = {layer_of(module_of(path)) for path in sources() if path.parent.name not in PACKAGES}
    assert layers <= {*MAY_IMPORT, *TOP_LAYERS}


def test_imports_point_one_way():
    wrong = [
        str(found)
        for found in IMPORTS
        if found.target.split(".")[0] in PACKAGES
        and found.layer not in TOP_LAYERS
        and layer_of(found.target) not in {found.layer, *MAY_IMPORT.get(found.layer, set())}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_have_no_cycle():
    """Otherwise "one way" would mean nothing: each layer must come after all that it may import."""
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {layer for layer, allowed in MAY_IMPORT.items() if layer not in done and allowed <= done}
        assert ready, f"these import one another: {sorted(set(MAY_IMPORT) - done)}"
        done |= ready


@pytest.mark.parametrize("package", BANNED_MODULES)
def test_banned_modules(package):
    wrong = [
        str(found)
        for found in IMPORTS
        if module_of(found.file).startswith(package) and found.target.split(".")[0] in BANNED_MODULES[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_package_files_have_no_logic():
    """They may hold a docstring, imports and __all__."""
    for path in sources():
        if path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_bytes()).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom), f"{path}:{node.lineno}"


def test_nothing_is_left_to_do_later():
    """What is not done is an issue, not a comment."""
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
    assert not [str(path) for path in [*sources(), *(ROOT / "tests").rglob("*.py")] if mark.search(path.read_text())]


def test_no_module_is_a_bag():
    assert not [str(path) for path in sources() if path.stem in {"util", "utils", "helpers", "misc", "common"}]


def test_large_modules_are_few_and_have_reasons():
    large = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_bytes().splitlines())) > MAX_MODULE_LINES
    }
    assert set(large) <= set(LARGE_MODULES), large
    for name, reason in LARGE_MODULES.items():
        assert reason
        assert (ROOT / name).is_file(), f"{name} is listed and gone"


def test_every_shield_has_a_deadline():
    """A cleanup that can wait for ever keeps the whole process from stopping."""
    timed = {"trio.move_on_after", "trio.move_on_at", "trio.fail_after", "trio.fail_at"}
    wrong = []
    for path in sources():
        if str(path.relative_to(ROOT)) in LATE_DEADLINES:
            assert re.search(r"\b(shield|scope)\.deadline = ", path.read_text())
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                names = {keyword.arg for keyword in node.keywords}
                if "shield" in names and ast.unparse(node.func) not in timed and "deadline" not in names:
                    wrong.append(f"{path}:{node.lineno}")
            elif isinstance(node, ast.Attribute) and node.attr == "shield" and isinstance(node.ctx, ast.Store):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong, wrong


def test_absence_is_never_guessed_on_disk():
    """`exists` and its like say False for EACCES and EIO too. What is then deleted or created may be someone's data."""
    guesses = {"exists", "is_file", "is_dir", "lexists", "isfile", "isdir"}
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources()
        if path.is_relative_to(ROOT / "native_handlers")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr in guesses
    ]
    assert not wrong, wrong


def test_names_of_test_files_are_unique():
    """pytest imports them by their bare names."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in counts.items() if count > 1]


def project_files() -> list[Path]:
    folders = [ROOT / name for name in (*PACKAGES, "proto", "tests", "docs", ".ci")]
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts and not path.name.startswith(".coverage")]


@pytest.mark.parametrize("word", MACHINE_WORDS)
def test_no_file_names_one_machine(word):
    """Paths of a particular machine and hosts of registries make a project work in one place only."""
    holders = [str(path.relative_to(ROOT)) for path in project_files() if word.encode() in path.read_bytes()]
    assert not holders


def test_a_node_without_a_store_of_its_own_starts_without_what_that_needs():
    """The composition root loads the storage core, and what only some nodes need, when a node needs it."""
    unwanted = ["numpy", "jwt", "cryptography", "hypercorn", "starlette", "native_handlers.storage.volume"]
    code = f"import sys, supervisor.app; print([name for name in {unwanted} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"
