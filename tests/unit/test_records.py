"""`native_handlers.records.dataclass` gives what the standard decorator gives: for played classes by behaviour, and for
each class of the program by its parameters.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import inspect
import pickle
import re
import threading
from contextlib import suppress
from dataclasses import FrozenInstanceError, asdict, field, fields, is_dataclass, replace

import pytest
from support.source_tree import ROOT, sources, text_of
from support.waiting import LIMIT_S

from native_handlers.records import dataclass

OURS_AND_STANDARD = pytest.mark.parametrize("decorator", [dataclass, dataclasses.dataclass])


@dataclass(frozen=True, slots=True)
class Pickled:
    """At the top of a module, where pickle finds it."""

    name: str
    numbers: tuple[int, ...] = ()


def make(decorator, **options):
    @decorator(slots=True, **options)
    class Played:
        first: int
        second: list[int] = field(default_factory=list)
        hidden: str = field(default="h", repr=False, compare=False)
        late: int = field(init=False, default=7)
        last: str = "last"

        def __post_init__(self):
            assert self.first != 13, "unlucky"

    return Played


@OURS_AND_STANDARD
@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"eq": False}, {"frozen": True, "kw_only": True}])
class TestBehaviour:
    def test_arguments(self, decorator, options):
        made = make(decorator, **options)
        one = made(first=1, second=[2], hidden="x", last="y")
        assert [getattr(one, each.name) for each in fields(one)] == [1, [2], "x", 7, "y"]
        assert (made(first=1).second, made(first=1).late) == ([], 7)
        assert made(first=1).second is not made(first=1).second
        for wrong in ({}, {"first": 1, "late": 2}, {"first": 1, "other": 2}):
            with pytest.raises(TypeError):
                made(**wrong)
        if options.get("kw_only"):
            with pytest.raises(TypeError):
                made(1)
        else:
            assert made(1, [2]).second == [2]
        with pytest.raises(AssertionError, match="unlucky"):
            made(first=13)

    def test_text(self, decorator, options):
        one = make(decorator, **options)(first=1)
        assert repr(one).endswith("make.<locals>.Played(first=1, second=[], late=7, last='last')")
        one.second.append(one)
        assert "second=[...]" in repr(one)

    def test_comparison_and_hash(self, decorator, options):
        made, other = make(decorator, **options), make(decorator, **options)
        is_compared = options.get("eq", True)
        assert (made(first=1) == made(first=1, hidden="other")) == is_compared
        assert made(first=1) != made(first=2)
        assert made(first=1) != other(first=1)
        assert made(first=1) != 1
        if not is_compared:
            assert isinstance(hash(made(first=1)), int)
        elif options.get("frozen"):
            assert hash(made(first=1, second=())) == hash(made(first=1, second=(), hidden="other"))
            assert hash(made(first=1, second=())) != hash(made(first=2, second=()))
        else:
            assert made.__hash__ is None

    def test_frozen(self, decorator, options):
        one = make(decorator, **options)(first=1)
        if not options.get("frozen"):
            one.first = 2
            assert one.first == 2
            return
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'first'"):
            one.first = 2
        with pytest.raises(FrozenInstanceError, match="cannot delete field 'first'"):
            del one.first
        assert one.first == 1

    def test_the_standard_functions(self, decorator, options):
        made = make(decorator, **options)
        one = made(first=1)
        assert is_dataclass(made)
        assert replace(one, last="z").last == "z"
        assert asdict(one) == {"first": 1, "second": [], "hidden": "h", "late": 7, "last": "last"}
        twin = copy.deepcopy(one)
        assert (twin.first, twin.second, twin.late) == (1, [], 7)
        assert twin.second is not one.second


@OURS_AND_STANDARD
def test_methods_of_the_class_stay(decorator):
    @decorator(frozen=True, slots=True)
    class Own:
        value: int

        def __repr__(self):
            return "own text"

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 5

    assert (repr(Own(1)), Own(1) == Own(2), hash(Own(1))) == ("own text", True, 5)


def test_a_subclass_may_have_attributes_of_its_own():
    """The standard decorator of Python 3.11 raises TypeError here, if there are slots."""
    base = make(dataclass, frozen=True)

    class Fake(base):
        pass

    fake = Fake(first=1)
    fake.more = 2
    assert fake.more == 2
    del fake.more
    with pytest.raises(FrozenInstanceError):
        fake.first = 2


def test_a_frozen_object_can_be_pickled():
    one = Pickled("a", (1, 2))
    assert pickle.loads(pickle.dumps(one)) == one


def test_threads_that_make_the_first_objects_at_the_same_time_get_them():
    made, gate, found = make(dataclass, frozen=True), threading.Barrier(8), []

    def work(number):
        gate.wait(LIMIT_S)
        found.append(made(number).first)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(found) == list(range(8))


def records():
    """(module, class, options) of each decorated class of the program."""
    for path in sources():
        for node in ast.walk(ast.parse(text_of(path))):
            for one in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "dataclass":
                    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in one.keywords}
                    yield path, node.name, options


def standard(cls, options):
    """A class with the same fields, as the standard decorator makes it."""
    own = {one.name: one for one in fields(cls)}
    annotations = {name: one.type for name, one in own.items()}
    body = {"__annotations__": annotations, "__module__": cls.__module__, **copy.copy(own)}
    return dataclasses.dataclass(**options | {"slots": False})(type(cls.__name__, (), body))


@pytest.mark.slow
def test_each_class_of_the_program_is_as_the_standard_decorator_makes_it():
    """Slow: imports the whole program."""
    seen = 0
    for path, name, options in records():
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        cls = getattr(module, name, None)
        if cls is None:
            continue  # inside a function
        model = standard(cls, options)
        with suppress(TypeError, AttributeError):
            cls.__init__(object())  # compiles the method
        here, there = inspect.signature(cls.__init__), inspect.signature(model.__init__)
        assert [(one.name, one.kind) for one in here.parameters.values()] == [
            (one.name, one.kind) for one in there.parameters.values()
        ], name
        for ours, theirs in zip(here.parameters.values(), there.parameters.values(), strict=True):
            assert (ours.default is ours.empty) == (theirs.default is theirs.empty), (name, ours)
        if "__hash__" not in vars(model) or "__eq__" not in text_of(path):
            assert (cls.__hash__ is None) == (model.__hash__ is None), name
        seen += 1
    assert seen > 200


def test_no_module_takes_the_standard_decorator():
    """It costs each start and each worker a fifth of a millisecond for each method of each class."""
    takers = [
        path.name
        for path in sources()
        if path.name != "records.py"
        and re.search(r"^\s*from dataclasses import (?:\([^)]*|[^#\n]*)\bdataclass\b", text_of(path), re.MULTILINE)
    ]
    assert not takers
