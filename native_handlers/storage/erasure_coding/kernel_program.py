"""The text of the program that multiplies shards and sums them up, in LLVM's language, for the vectors a processor has.

A product with a fixed factor is found in one of two ways. Shuffles look bytes up in a table of 16: a product is the XOR
of two look-ups, one for the lower four bits of a byte and one for the upper. An affine transformation multiplies the
eight bits of a byte by a matrix of bits, and a product with a fixed factor is one of those.

Each function goes once over its inputs. A function that also computes checksums does both in the same pass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.galois import multiply, products

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = 2
"""The vectors that one round handles. A table is loaded once for all of them."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way of multiplying: the LLVM intrinsic, and how many bytes it handles.

    Args:
        features: what the processor must have, in LLVM's words.
        is_affine: whether the intrinsic is an affine transformation; else it is a shuffle.
    """

    intrinsic: str
    vector_bytes: int
    features: tuple[str, ...]
    is_affine: bool = False

    @property
    def step_bytes(self) -> int:
        """How many bytes of each input one round handles."""
        return self.vector_bytes * VECTORS

    @property
    def table_bytes(self) -> int:
        """How long the table of one factor is."""
        return 8 if self.is_affine else 32

    def table(self, factor: int) -> bytes:
        """The table with which the function multiplies by `factor`."""
        return _bit_matrix(factor) if self.is_affine else products(factor)[:16] + products(factor)[::16]


METHODS = (
    Method("llvm.x86.vgf2p8affineqb.512", 64, ("gfni", "avx512bw"), is_affine=True),
    Method("llvm.x86.vgf2p8affineqb.256", 32, ("gfni", "avx2"), is_affine=True),
    Method("llvm.x86.avx512.pshuf.b.512", 64, ("avx512bw",)),
    Method("llvm.x86.avx2.pshuf.b", 32, ("avx2",)),
    Method("llvm.x86.ssse3.pshuf.b.128", 16, ("ssse3",)),
    Method("llvm.aarch64.neon.tbl1.v16i8", 16, ("neon",)),
)
"""The best first."""


@dataclass(frozen=True, slots=True)
class ChecksumStep:
    """The instruction that moves a CRC-32C on by eight bytes: the LLVM intrinsic, and the type of the checksum."""

    intrinsic: str
    kind: str
    feature: str


CHECKSUM_STEPS = (
    ChecksumStep("llvm.x86.sse42.crc32.64.64", "i64", "crc32"),
    ChecksumStep("llvm.aarch64.crc32cx", "i32", "crc"),
)


@lru_cache(maxsize=256)
def _bit_matrix(factor: int) -> bytes:
    """Byte 7 - i says which bits of a byte make bit i of the product."""
    columns = [multiply(factor, 1 << bit) for bit in range(8)]
    rows = (sum((column >> row & 1) << bit for bit, column in enumerate(columns)) for row in range(8))
    return bytes(rows)[::-1]


def program(method: Method, step: ChecksumStep | None, row_counts: range) -> str:
    """The text of one function for each count of rows, ``rows<n>``, and of ``sums<n>`` where there is a `step`.

    A function is ``void(ptr in, ptr out, ptr tables, i64 count, i64 length, ptr sums)``. `in` and `out` are arrays of
    addresses, `tables` has for each input and each row the table of its factor, `length` is a multiple of
    `step_bytes`. `sums` is an array of 32 bits for each input and then each row: CRC-32C before the final inversion.
    """
    kind = f"<{method.vector_bytes} x i8>"
    extra = ", i8" if method.is_affine else ""
    lines = [f"declare {kind} @{method.intrinsic}({kind}, {kind}{extra})"]
    if step is not None:
        lines.append(f"declare {step.kind} @{step.intrinsic}({step.kind}, i64)")
    for rows in row_counts:
        lines += _Function(method, None, rows).lines(f"rows{rows}")
        if step is not None:
            lines += _Function(method, step, rows).lines(f"sums{rows}")
    return "\n".join(lines)


class _Function:
    """Writes the text of one function: the loop over the bytes, and within it the loop over the inputs."""

    def __init__(self, method: Method, step: ChecksumStep | None, rows: int) -> None:
        self._method, self._step, self._rows = method, step, rows
        self._kind = f"<{method.vector_bytes} x i8>"

    def lines(self, name: str) -> list[str]:
        kind, rows = self._kind, range(self._rows)
        sums = [(row, vector) for row in rows for vector in range(VECTORS)]
        return [
            f"define void @{name}(ptr %in, ptr %out, ptr %tables, i64 %count, i64 %length, ptr %sums) {{",
            "entry:",
            "  br label %bytes",
            "bytes:",
            "  %at = phi i64 [0, %entry], [%at.next, %store]",
            "  br label %inputs",
            "inputs:",
            "  %i = phi i64 [0, %bytes], [%i.next, %inputs]",
            *(f"  %sum.{r}.{v} = phi {kind} [{self._all(0)}, %bytes], [%new.{r}.{v}, %inputs]" for r, v in sums),
            "  %slot = getelementptr ptr, ptr %in, i64 %i",
            "  %data = load ptr, ptr %slot",
            "  %from = getelementptr i8, ptr %data, i64 %at",
            *(line for vector in range(VECTORS) for line in self._loaded(vector)),
            f"  %skip = mul i64 %i, {self._rows * self._method.table_bytes}",
            "  %table = getelementptr i8, ptr %tables, i64 %skip",
            *(line for row in rows for line in self._multiplied(row)),
            *self._checksum("in", "%from", "%i"),
            "  %i.next = add i64 %i, 1",
            "  %more.inputs = icmp ult i64 %i.next, %count",
            "  br i1 %more.inputs, label %inputs, label %store",
            "store:",
            *(line for row in rows for line in self._stored(row)),
            f"  %at.next = add i64 %at, {self._method.step_bytes}",
            "  %more.bytes = icmp ult i64 %at.next, %length",
            "  br i1 %more.bytes, label %bytes, label %done",
            "done:",
            "  ret void",
            "}",
        ]

    def _all(self, value: int) -> str:
        return "<" + ", ".join([f"i8 {value}"] * self._method.vector_bytes) + ">"

    def _loaded(self, vector: int) -> list[str]:
        kind, at = self._kind, vector * self._method.vector_bytes
        lines = [
            f"  %p.{vector} = getelementptr i8, ptr %from, i64 {at}",
            f"  %x.{vector} = load {kind}, ptr %p.{vector}, align 1",
        ]
        if not self._method.is_affine:
            lines += [
                f"  %low.{vector} = and {kind} %x.{vector}, {self._all(15)}",
                f"  %high.{vector} = lshr {kind} %x.{vector}, {self._all(4)}",
            ]
        return lines

    def _multiplied(self, row: int) -> list[str]:
        return self._transformed(row) if self._method.is_affine else self._looked_up(row)

    def _transformed(self, row: int) -> list[str]:
        kind, count = self._kind, self._method.vector_bytes // 8
        mask = f"<{count} x i32> zeroinitializer"
        lines = [
            f"  %q.{row} = getelementptr i8, ptr %table, i64 {row * 8}",
            f"  %n.{row} = load i64, ptr %q.{row}, align 1",
            f"  %one.{row} = insertelement <{count} x i64> poison, i64 %n.{row}, i64 0",
            f"  %all.{row} = shufflevector <{count} x i64> %one.{row}, <{count} x i64> poison, {mask}",
            f"  %t.{row} = bitcast <{count} x i64> %all.{row} to {kind}",
        ]
        for v in range(VECTORS):
            lines += [
                f"  %y.{row}.{v} = call {kind} @{self._method.intrinsic}({kind} %x.{v}, {kind} %t.{row}, i8 0)",
                f"  %new.{row}.{v} = xor {kind} %sum.{row}.{v}, %y.{row}.{v}",
            ]
        return lines

    def _looked_up(self, row: int) -> list[str]:
        kind, size = self._kind, self._method.vector_bytes
        mask = "<" + ", ".join(f"i32 {index % 16}" for index in range(size)) + ">"
        lines = []
        for half, at in (("l", row * 32), ("h", row * 32 + 16)):
            lines += [
                f"  %q.{row}.{half} = getelementptr i8, ptr %table, i64 {at}",
                f"  %n.{row}.{half} = load <16 x i8>, ptr %q.{row}.{half}, align 1",
                f"  %t.{row}.{half} = shufflevector <16 x i8> %n.{row}.{half}, <16 x i8> poison, <{size} x i32> {mask}",
            ]
        call = f"call {kind} @{self._method.intrinsic}"
        for v in range(VECTORS):
            lines += [
                f"  %l.{row}.{v} = {call}({kind} %t.{row}.l, {kind} %low.{v})",
                f"  %h.{row}.{v} = {call}({kind} %t.{row}.h, {kind} %high.{v})",
                f"  %both.{row}.{v} = xor {kind} %l.{row}.{v}, %h.{row}.{v}",
                f"  %new.{row}.{v} = xor {kind} %sum.{row}.{v}, %both.{row}.{v}",
            ]
        return lines

    def _stored(self, row: int) -> list[str]:
        lines = [
            f"  %o.{row} = getelementptr ptr, ptr %out, i64 {row}",
            f"  %d.{row} = load ptr, ptr %o.{row}",
            f"  %to.{row} = getelementptr i8, ptr %d.{row}, i64 %at",
        ]
        for v in range(VECTORS):
            lines += [
                f"  %s.{row}.{v} = getelementptr i8, ptr %to.{row}, i64 {v * self._method.vector_bytes}",
                f"  store {self._kind} %new.{row}.{v}, ptr %s.{row}.{v}, align 1",
            ]
        if self._step is not None:
            lines += [f"  %number.{row} = add i64 %count, {row}"]
            lines += self._checksum(f"out.{row}", f"%to.{row}", f"%number.{row}")
        return lines

    def _checksum(self, name: str, address: str, number: str) -> list[str]:
        """Moves the checksum with that number on by what one round handles."""
        step = self._step
        if step is None:
            return []
        extend, shorten = (
            (f"zext i32 %c.{name}.was to i64", "trunc i64 {} to i32")
            if step.kind == "i64"
            else (f"add i32 %c.{name}.was, 0", "add i32 {}, 0")
        )
        lines = [
            f"  %c.{name}.slot = getelementptr i32, ptr %sums, i64 {number}",
            f"  %c.{name}.was = load i32, ptr %c.{name}.slot",
            f"  %c.{name}.0 = {extend}",
        ]
        count = self._method.step_bytes // 8
        for word in range(count):
            lines += [
                f"  %c.{name}.p{word} = getelementptr i8, ptr {address}, i64 {word * 8}",
                f"  %c.{name}.w{word} = load i64, ptr %c.{name}.p{word}, align 1",
                f"  %c.{name}.{word + 1} = call {step.kind} @{step.intrinsic}"
                f"({step.kind} %c.{name}.{word}, i64 %c.{name}.w{word})",
            ]
        return [
            *lines,
            f"  %c.{name}.is = {shorten.format(f'%c.{name}.{count}')}",
            f"  store i32 %c.{name}.is, ptr %c.{name}.slot",
        ]


def best_of(has: Callable[[str], bool], wanted: Method | None = None) -> tuple[Method, ChecksumStep | None]:
    """The best way to multiply, and the checksum's instruction, for a processor that has what `has` says.

    Args:
        wanted: the only method that will do.

    Raises:
        LookupError: the processor has none.
    """
    methods = [one for one in METHODS if all(map(has, one.features)) and wanted in {None, one}]
    if not methods:
        raise LookupError("this processor has no byte shuffle that is known here")
    return methods[0], next((step for step in CHECKSUM_STEPS if has(step.feature)), None)
