"""The shape of the code: directions of imports, modules banned in pure layers, sizes, and texts that no file may hold.

Each rule is a table here; a failure names the file and line. docs/architecture.md describes the layers in words.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.source_tree import PACKAGES, ROOT, facts_of, sources, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MODULE_LINES = 600
MIN_SHARED_MODULE_LINES = 60

LANGUAGE = {"native_handlers.arrays", "native_handlers.records"}
"""The modules right in `native_handlers`. They stand for libraries, and every module may import them."""


def native(*rooms: str) -> set[str]:
    return {f"native_handlers/{room}" for room in rooms}


def storage(*rooms: str) -> set[str]:
    return {f"native_handlers/storage/{room}" for room in rooms}


def supervisor(*rooms: str) -> set[str]:
    return {f"supervisor/{room}" for room in rooms}


MAY_IMPORT: dict[str, set[str]] = {
    "native_handlers/runtime": set(),
    "native_handlers/pb": set(),
    "native_handlers/format": native("pb"),
    "native_handlers/http_model": native("format"),
    "native_handlers/content": native("runtime", "format", "http_model"),
    "native_handlers/storage/model": native("format"),
    "native_handlers/storage/system": set(),
    "native_handlers/storage/index": native("format"),
    "native_handlers/storage/disk": storage("model", "system"),
    "native_handlers/storage/remote": native("format") | storage("model", "system"),
    "native_handlers/storage/volume": native("format") | storage("model", "system", "index", "disk", "remote"),
    "native_handlers/storage/shared": native("format") | storage("model", "system", "index", "volume"),
    "native_handlers/storage/directory": native("format") | storage("model", "system", "disk", "remote", "volume"),
    "native_handlers/storage/transfer": native("format") | storage("model", "system", "disk", "volume", "directory"),
    "native_handlers/storage/erasure_coding": native("format", "pb")
    | storage("model", "system", "disk", "volume", "directory"),
    "native_handlers/storage": native("format", "pb")
    | storage("model", "system", "index", "disk", "remote", "volume", "directory", "transfer", "erasure_coding"),
    "native_handlers/http": native("runtime", "format", "http_model", "content", "storage")
    | storage("model", "system", "volume", "erasure_coding"),
    "native_handlers/remote": native("pb"),
    "native_handlers/query": set(),
    "native_handlers/grpc": native("runtime", "pb", "format", "storage", "remote", "query")
    | storage("model", "system", "disk", "remote", "volume", "directory", "transfer", "erasure_coding"),
    "supervisor/wire": native("http_model", "content"),
    "supervisor/config": native("format", "http_model") | supervisor("wire"),
    "supervisor/logs": supervisor("wire", "config"),
    "supervisor/net": native("runtime", "http_model") | supervisor("wire", "config"),
    "supervisor/routing": native("http_model", "http", "grpc") | supervisor("config"),
    "supervisor/backend": supervisor("wire", "config", "net"),
    "supervisor/cluster": native("runtime", "pb", "format", "storage", "http")
    | storage("model", "erasure_coding")
    | supervisor("wire", "config", "net"),
    "supervisor/authority": native("runtime", "pb", "format", "storage")
    | storage("model", "volume", "erasure_coding")
    | supervisor("routing", "cluster"),
    "supervisor/gateway": native("runtime", "pb", "format", "http_model", "storage", "http", "grpc")
    | storage("model", "transfer", "erasure_coding")
    | supervisor("wire", "config", "net", "routing", "cluster", "authority"),
    "supervisor/embedded_master": native("pb", "format", "http_model", "grpc")
    | supervisor("wire", "config", "net", "cluster", "gateway"),
    "supervisor/fast_path": native("runtime", "format", "http_model", "content", "http")
    | storage("system", "volume")
    | supervisor("wire", "net", "routing", "authority", "gateway"),
    "supervisor/control": native("runtime", "http_model", "storage") | storage("model") | supervisor("net", "routing"),
    "supervisor/workers": native("runtime", "http_model", "http") | supervisor("config", "net", "routing", "backend"),
}
"""The folders that the modules of a folder import, besides their own. A folder that no module uses is not listed."""

TOP = ("supervisor/assembly", "supervisor", "supervisor/cli")
"""The modules that put everything together, from below: each may import everything above in this file, and the earlier
ones here."""
BELOW_TOP = tuple(MAY_IMPORT)
MAY_IMPORT |= {folder: {*BELOW_TOP, *TOP[:number]} for number, folder in enumerate(TOP)}

ONE_IMPORTER = {
    "native_handlers/http/handlers.py": "route -> handler; the registry of routes may not be imported from there",
    "native_handlers/http/settled.py": "a wait of its own; `context` says what handlers get and has no such rule",
    "supervisor/assembly/open_engines.py": "loads `both_engines` late; in `engines` this would be a circle",
    "supervisor/assembly/worker.py": "a program",
    "supervisor/assembly/worker_run.py": "`worker`, the program, loads it after the signals are ignored",
    "supervisor/backend/channel.py": "gRPC threads use it; `handle` belongs to the event loop and imports no grpc",
    "supervisor/cli/version_command.py": "a command",
    "supervisor/gateway/grpc_reflection.py": "a service of its own",
    "supervisor/net/file_pieces.py": "reading for a socket, apart from the transport that sends",
    "native_handlers/grpc/state_keeper.py": "implements a protocol of `node`, which imports no room of the store",
}
"""Modules under 60 lines that one other module imports, with the reason for which they are apart. A handler, which the
table of its protocol imports, needs none."""

PURE_BANS = {"trio", "socket", "ssl", "time", "random", "os", "threading", "subprocess", "logging"}
BANNED_MODULES: dict[str, set[str]] = {
    "native_handlers.format": PURE_BANS,
    "native_handlers.http_model": PURE_BANS,
    "native_handlers.query": PURE_BANS,
    "supervisor.wire": PURE_BANS,
    "native_handlers.storage": {"trio", "socket", "ssl"},
    **{package: {"asyncio"} for package in PACKAGES},
}
"""Foreign modules by the packages that may not import them; a rule holds for all that is below it too."""

LATE_DEADLINES = {
    "supervisor/backend/child.py": "the shield gets its deadline when a stop is asked for",
    "native_handlers/http/finish.py": "the shield gets its deadline when the caller is cancelled",
}
"""Files with a shield whose deadline is set after it was made."""

UNCLEAR_WORDS = {
    "peer": "say client, volume server, caller, or connection for either end",
    "peers": "say clients or volume servers",
    "quick": "say fast path",
    "patience": "say deadline or limit",
    "patient": "say that a wait has no limit",
    "odd": "say declined, or what differs",
    "door": "say port",
    "doors": "say ports",
}
"""Words that no class, function, variable or module has, with the words to use."""

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


@cache
def layer_of(module: str) -> str:
    """The folder of a module, or of a name in a module."""
    folder = ROOT.joinpath(*module.split("."))
    while not folder.is_dir():
        folder = folder.parent
    return str(folder.relative_to(ROOT))


@cache
def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports() -> list[Import]:
    """Every import. `name` of `from package import name` may be a module or a name in `package`; both belong to the
    same layer.
    """
    found = []
    for path in sources():
        layer = layer_of(module_of(path))
        for line, target in facts_of(path).imports:
            assert not target.startswith("."), f"{path}:{line}: a relative import"
            found.append(Import(path, line, layer, target))
    return found


def nodes_of(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(text_of(path)))


def test_every_folder_has_its_rule():
    assert {layer_of(module_of(path)) for path in sources() if path.parent.name not in PACKAGES} <= {*MAY_IMPORT}


def test_no_other_module_is_right_in_native_handlers():
    here = {module_of(path) for path in sources() if path.parent == ROOT / "native_handlers"}
    assert here == {"native_handlers", *LANGUAGE}


def test_imports_point_one_way():
    wrong = [
        str(found)
        for found in imports()
        if found.target.split(".")[0] in PACKAGES
        and not LANGUAGE & {found.target, found.target.rpartition(".")[0]}
        and layer_of(found.target) not in {found.layer, *MAY_IMPORT.get(found.layer, set())}
    ]
    assert not wrong, "\n".join(wrong)


def test_a_room_is_allowed_no_room_that_it_does_not_use():
    """A rule that allows more than is used hides the next import that points the wrong way."""
    used: dict[str, set[str]] = {room: set() for room in BELOW_TOP}
    for found in imports():
        if found.layer in used:
            used[found.layer].add(layer_of(found.target))
    assert not {room: unused for room in BELOW_TOP if (unused := MAY_IMPORT[room] - used[room])}


def test_the_page_lists_each_room_below_those_that_it_imports():
    """The list of rooms in `docs/architecture.md`: each entry imports only entries above it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    lines = page[page.index("## The rooms") :].split("```")[1].splitlines()
    names = [line.split()[0] for line in lines if line]
    rooms = [str(Path(name).parent) if name.endswith(".py") else name for name in names]
    assert set(rooms) == {*MAY_IMPORT, "native_handlers"}
    modules = {name.removesuffix(".py").replace("/", ".") for name in names if name.endswith(".py")}
    assert {name for name in modules if name.startswith("native_handlers.")} == LANGUAGE
    for number, room in enumerate(rooms):
        assert MAY_IMPORT.get(room, set()) <= set(rooms[: number + 1]), f"{room} stands above a room that it imports"


def test_the_rules_have_no_cycle():
    """Imports point one way only if each folder comes after all folders that it may import."""
    find_no_cycle(MAY_IMPORT)


def test_modules_do_not_import_one_another():
    """Code that two modules need from each other belongs in one module or a third, also for type checkers."""
    find_no_cycle(importers_to_imported())


def find_no_cycle(allowed_by_name: dict[str, set[str]]) -> None:
    done: set[str] = set()
    while len(done) < len(allowed_by_name):
        ready = {name for name, allowed in allowed_by_name.items() if name not in done and allowed <= done}
        assert ready, f"among these some import one another: {sorted(set(allowed_by_name) - done)}"
        done |= ready


@cache
def importers_to_imported() -> dict[str, set[str]]:
    """The modules of this project that each module imports."""
    names = {module_of(path) for path in sources() if path.name != "__init__.py"}
    found: dict[str, set[str]] = {name: set() for name in names}
    for one in imports():
        for target in (one.target, one.target.rpartition(".")[0]):
            if target in names and module_of(one.file) in names:
                found[module_of(one.file)].add(target)
    return found


def test_no_small_module_is_a_part_of_another():
    importers: dict[str, set[str]] = {}
    for importer, imported in importers_to_imported().items():
        for name in imported:
            importers.setdefault(name, set()).add(importer)
    small = {
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name != "__init__.py"
        and len(path.read_bytes().splitlines()) < MIN_SHARED_MODULE_LINES
        and len(by := importers.get(module_of(path), set())) < 2
        and not {name.rpartition(".")[2] for name in by} & {"handlers"}
    }
    assert small == set(ONE_IMPORTER)


@pytest.mark.parametrize("package", BANNED_MODULES)
def test_banned_modules(package):
    wrong = [
        str(found)
        for found in imports()
        if module_of(found.file).startswith(package) and found.target.split(".")[0] in BANNED_MODULES[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_package_files_have_no_logic():
    """An `__init__.py` may hold a docstring, imports and __all__."""
    for path in sources():
        if path.name != "__init__.py":
            continue
        for node in ast.parse(text_of(path)).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom), f"{path}:{node.lineno}"


def test_nothing_is_left_to_do_later():
    """Open work is noted in issues, not in comments."""
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
    assert not [str(path) for path in [*sources(), *(ROOT / "tests").rglob("*.py")] if mark.search(path.read_text())]


def test_no_module_is_a_bag():
    assert not [str(path) for path in sources() if path.stem in {"util", "utils", "helpers", "misc", "common"}]


def test_no_module_is_too_long_to_be_one_job():
    large = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_bytes().splitlines())) > MAX_MODULE_LINES
    }
    assert not large


def test_a_class_name_stands_for_one_class():
    """A reader who meets a name again may take it for the class that the reader knows."""
    places: dict[str, list[str]] = {}
    for path in sources():
        if path.is_relative_to(ROOT / "native_handlers" / "pb"):
            continue
        for line, name in facts_of(path).classes:
            places.setdefault(name, []).append(f"{path.relative_to(ROOT)}:{line}")
    assert "HttpContext" in places
    assert not {name: found for name, found in places.items() if len(found) > 1}


@pytest.mark.parametrize("word", UNCLEAR_WORDS)
def test_no_name_has_a_word_of_several_meanings(word):
    found = []
    for path in sources():
        found += [str(path)] if word in path.stem.split("_") else []
        for line, name in facts_of(path).names:
            if word in name.lower() and word in re.sub(r"([A-Z])", r"_\1", name).lower().split("_"):
                found.append(f"{path}:{line} {name}")
    assert not found, f"{UNCLEAR_WORDS[word]}: {found}"


def test_every_shield_has_a_deadline():
    """A cleanup without a deadline can keep the process from stopping."""
    timed = {"trio.move_on_after", "trio.move_on_at", "trio.fail_after", "trio.fail_at"}
    wrong = []
    for path in sources():
        if str(path.relative_to(ROOT)) in LATE_DEADLINES:
            assert re.search(r"\b(shield|scope)\.deadline = ", text_of(path))
            continue
        for node in nodes_of(path) if "shield" in text_of(path) else ():
            if isinstance(node, ast.Call):
                names = {keyword.arg for keyword in node.keywords}
                if "shield" in names and ast.unparse(node.func) not in timed and "deadline" not in names:
                    wrong.append(f"{path}:{node.lineno}")
            elif isinstance(node, ast.Attribute) and node.attr == "shield" and isinstance(node.ctx, ast.Store):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong, wrong


def test_absence_is_never_guessed_on_disk():
    """`exists` and similar functions return False for EACCES and EIO too. Acting on that could destroy data."""
    guesses = {"exists", "is_file", "is_dir", "lexists", "isfile", "isdir"}
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources()
        if path.is_relative_to(ROOT / "native_handlers") and any(name in text_of(path) for name in guesses)
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr in guesses
    ]
    assert not wrong, wrong


@pytest.mark.slow
def test_only_a_volumes_state_changes_its_fields():
    """The state of an open volume is read without locks: methods of the class change dependent fields together.
    Slow: parses the storage core.
    """
    state = "native_handlers/storage/volume/state.py"
    (fields,) = (
        {line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)}
        for node in ast.parse((ROOT / state).read_bytes()).body
        if isinstance(node, ast.ClassDef) and node.name == "VolumeState"
    )
    assert "dat_end_bytes" in fields
    wrong = [
        f"{path}:{node.lineno} changes {ast.unparse(node)}"
        for path in sources()
        if path.is_relative_to(ROOT / "native_handlers" / "storage") and path != ROOT / state
        if set(re.findall(r"\.\s*(\w+)", text_of(path))) & fields
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in fields
        if ast.unparse(node.value) != "self"
    ]
    assert not wrong, "\n".join(wrong)


def test_names_of_test_files_are_unique():
    """pytest imports test files by their names without folders."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in counts.items() if count > 1]


def project_files() -> list[Path]:
    folders = [ROOT / name for name in (*PACKAGES, "proto", "tests", "docs", ".ci")]
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a file in a work tree
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts and not path.name.startswith(".coverage")]


@pytest.mark.parametrize("word", MACHINE_WORDS)
def test_no_file_names_one_machine(word):
    """A path of one machine, or the host of a registry, would make the project work in one place only."""
    holders = [str(path.relative_to(ROOT)) for path in project_files() if word.encode() in path.read_bytes()]
    assert not holders


@pytest.mark.slow
def test_a_node_without_a_store_of_its_own_starts_without_what_that_needs():
    """The composition root loads the storage core, and modules that only some nodes need, when a node needs them. Slow:
    starts a program.
    """
    unwanted = ["numpy", "jwt", "cryptography", "native_handlers.storage.volume.volume"]
    code = f"import sys, supervisor.app; print([name for name in {unwanted} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_pure_rooms_load_no_trio():
    """Nor does a module that they import. Slow: starts a program."""
    rooms = [room for room, banned in BANNED_MODULES.items() if banned is PURE_BANS]
    modules = [name for path in sources() if (name := module_of(path)).startswith(tuple(f"{room}." for room in rooms))]
    assert len(modules) > 40
    code = f"import sys, {', '.join(modules)}; print('trio' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "False"


@pytest.mark.slow
def test_a_native_server_starts_without_what_only_some_work_needs():
    """Images, tiers, coding and large volumes load what they need at first use; libraries for texts that are written
    here, nothing. Slow: starts a program.
    """
    unwanted = ["PIL", "boto3", "botocore", "llvmlite", "yaml", "urllib.request", "http.server", "importlib.metadata"]
    unwanted += ["h2", "tqdm", "urllib3", "requests", "google.auth", "native_handlers.content.images", "numpy"]
    unwanted += ["email", "tomllib", "difflib"]
    code = (
        "import sys, supervisor.app\n"
        "from supervisor.assembly.store import load_storage_core\n"
        "load_storage_core()\n"
        "assert 'native_handlers.storage.store' in sys.modules\n"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forwarding_worker", "native_worker"])
def test_an_http_worker_loads_only_what_it_needs(kind):
    """A worker has no gRPC, no store and no pictures, and none of their libraries. What reads volumes is loaded with
    the first one. Slow: starts a program.
    """
    unwanted = ["grpc", "numpy", "PIL", "jwt", "cryptography", "yaml", "boto3", "llvmlite"]
    unwanted += ["native_handlers.storage.store", "supervisor.cluster", "asyncio"]
    unwanted += ["native_handlers.storage.volume.volume", "google.protobuf"]
    modules = f"supervisor.assembly.worker, supervisor.assembly.worker_run, supervisor.assembly.{kind}"
    code = f"import sys, {modules}; print([name for name in {unwanted} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


@pytest.mark.slow
def test_opening_a_store_loads_no_further_module(tmp_path):
    """Modules of a start are loaded while the master is asked, and not while volumes wait to be opened. Slow: starts a
    program.
    """
    code = (
        "import sys, pathlib, supervisor.app\n"
        "from supervisor.assembly import store\n"
        "store.load_storage_core()\n"
        "from native_handlers.storage.directory.location import LocationConfig\n"
        "from native_handlers.storage.store import StoreConfig\n"
        "before = set(sys.modules)\n"
        f"path = pathlib.Path({str(tmp_path)!r})\n"
        "store.open_without_collection(StoreConfig((LocationConfig(path, path, 2),))).close()\n"
        "print(sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


def test_each_folder_of_unit_tests_is_a_room():
    rooms = {path.name for package in PACKAGES for path in (ROOT / package).iterdir() if path.is_dir()}
    folders = {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/test_*.py")}
    assert folders - rooms == {"http_native", "grpc_native", "grpc_gateway"}, "beside native_handlers/http and grpc"
