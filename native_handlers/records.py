"""`dataclass`: the standard library's, for classes whose methods are made when they are needed.

The standard decorator writes the text of five methods for each class and compiles it: 0.2 ms a method, two fifths of
the processor time of a start, and again in each worker. Most of these methods are never called. Here a class has its
`__init__` compiled when its first object is made, and shares the other methods with all classes.

The result is the standard decorator's in what this program uses: `fields`, `replace`, `asdict`, `__post_init__`,
defaults, comparison, hash, and FrozenInstanceError. `InitVar`, inheritance and ordering are not supported. A test
compares every class of this program with the standard decorator's.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass

__all__ = ["dataclass"]

_ABSENT = object()
_Class = type[Any]


def _lazy_dataclass(
    *, frozen: bool = False, slots: bool = False, kw_only: bool = False, eq: bool = True
) -> Callable[[_Class], _Class]:
    def decorate(cls: _Class) -> _Class:
        own = dict(vars(cls))
        # A class with __eq__ gets the __hash__ None from the language.
        has_hash = own.get("__hash__", _ABSENT) is not _ABSENT and not (own["__hash__"] is None and "__eq__" in own)
        made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
        wanted: dict[str, object] = {"__init__": _late_init(made, is_frozen=frozen), "__repr__": _repr}
        if eq:
            wanted["__eq__"] = _make_eq(made)
            if not has_hash:
                own.pop("__hash__", None)
                wanted["__hash__"] = _make_hash(made) if frozen else None
        if frozen:
            wanted |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
            wanted |= {"__getstate__": _get_state, "__setstate__": _set_state}
        for name, method in wanted.items():
            if name not in own:
                setattr(made, name, method)
        return made

    return decorate


if not TYPE_CHECKING:
    dataclass = _lazy_dataclass


# ---- __init__


def _late_init(cls: _Class, *, is_frozen: bool) -> Callable[..., None]:
    """An `__init__` that puts the compiled one in its place, and calls it. Any thread may come first."""

    def __init__(self: object, *args: object, **kwargs: object) -> None:  # noqa: N807
        compiled = cls.__init__ = _compile_init(cls, is_frozen=is_frozen)
        compiled(self, *args, **kwargs)

    return __init__


def _compile_init(cls: _Class, *, is_frozen: bool) -> Callable[..., None]:
    names: dict[str, object] = {"_set": object.__setattr__, "_ABSENT": _ABSENT}
    parameters = ["self"]
    keywords: list[str] = []
    body: list[str] = []
    for one in dataclasses.fields(cls):
        given, value = one.name, one.name
        if one.default_factory is not dataclasses.MISSING:
            names[f"_factory_{one.name}"] = one.default_factory
            given = f"{one.name}=_ABSENT"
            value = f"_factory_{one.name}()" + (f" if {one.name} is _ABSENT else {one.name}" if one.init else "")
        elif one.default is not dataclasses.MISSING:
            names[f"_default_{one.name}"] = one.default
            given = f"{one.name}=_default_{one.name}"
            value = one.name if one.init else f"_default_{one.name}"
        elif not one.init:
            continue  # __post_init__ sets the field
        if one.init:
            (keywords if one.kw_only else parameters).append(given)
        body.append(f"_set(self, {one.name!r}, {value})" if is_frozen else f"self.{one.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    head = ", ".join([*parameters, *(["*", *keywords] if keywords else [])])
    lines = "\n    ".join(body or ["pass"])
    found: dict[str, Any] = {}
    exec(f"def __init__({head}):\n    {lines}\n", names, found)
    init: Callable[..., None] = found["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


# ---- the other methods


@recursive_repr()
def _repr(self: Any) -> str:  # noqa: ANN401
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _make_eq(cls: _Class) -> Callable[[object, object], bool]:
    values = _values_of([one.name for one in dataclasses.fields(cls) if one.compare])

    def __eq__(self: object, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _make_hash(cls: _Class) -> Callable[[object], int]:
    hashed = [one for one in dataclasses.fields(cls) if (one.compare if one.hash is None else one.hash)]
    values = _values_of([one.name for one in hashed])

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _values_of(names: list[str]) -> Callable[[object], tuple[object, ...]]:
    """A function that gives the values of the attributes `names` of an object, as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda one: tuple(getattr(one, name) for name in names)


def _refuse_set(self: Any, name: str, value: object) -> None:  # noqa: ANN401
    _refuse(self, name, "assign to")
    object.__setattr__(self, name, value)


def _refuse_delete(self: Any, name: str) -> None:  # noqa: ANN401
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(self: Any, name: str, what: str) -> None:  # noqa: ANN401
    """A subclass that is no dataclass may have further attributes."""
    if "__dataclass_fields__" in vars(type(self)) or name in self.__dataclass_fields__:
        raise dataclasses.FrozenInstanceError(f"cannot {what} field {name!r}")


def _get_state(self: Any) -> list[object]:  # noqa: ANN401
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def _set_state(self: Any, state: list[object]) -> None:  # noqa: ANN401
    for one, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)
