"""Multiplies shards by factors of GF(2^8) and sums them up: the work of coding, as fast as the processor can.

The program (`kernel_program`) is made at first use with llvmlite, for the vectors that this processor has. Without
llvmlite, or on a processor without such vectors, numpy looks each byte up in a table of 256 entries: some thirty times
slower, with the same result.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.crc import crc32c, crc32c_extend
from native_handlers.storage.erasure_coding.galois import products
from native_handlers.storage.erasure_coding.kernel_program import best_of, program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llvmlite.binding import ExecutionEngine
    from numpy.typing import NDArray

    from native_handlers.storage.erasure_coding.galois import Matrix
    from native_handlers.storage.erasure_coding.kernel_program import ChecksumStep, Method

    Bytes = NDArray[np.uint8]

_log = logging.getLogger(__name__)
NO_KERNEL_VARIABLE = "VOLUME_SERVER_PY_NO_KERNEL"
"""If this variable is set to anything, numpy does the work."""
_ROWS_AT_ONCE = 4
"""As many sums as fit the registers beside what is being multiplied."""
_ALL_ONES = 0xFFFFFFFF
"""The initial value of a checksum. It also inverts the final value."""
_compiling = threading.Lock()


def multiply(matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> None:
    """Writes to each of `outputs` the sum of `inputs`, where each input is multiplied by its factor in the row of
    `matrix` for that output.

    All are contiguous and of one length. Other threads run meanwhile.
    """
    assert len(matrix) == len(outputs)
    kernel = compiled()
    (multiply_with_numpy if kernel is None else kernel)(matrix, inputs, outputs)


def multiply_and_sum(matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> list[int]:
    """As `multiply`. Returns the CRC-32C of each of `inputs`, and then of each of `outputs`."""
    kernel = compiled()
    if kernel is not None and kernel.sums:
        return kernel.multiply_and_sum(matrix, inputs, outputs)
    multiply(matrix, inputs, outputs)
    return [crc32c(array.data) for array in (*inputs, *outputs)]


def multiply_with_numpy(matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> None:
    """`multiply` with what every processor has."""
    for row, output in zip(matrix, outputs, strict=True):
        output[:] = 0
        for factor, data in zip(row, inputs, strict=True):
            if factor == 1:
                np.bitwise_xor(output, data, out=output)
            elif factor:
                np.bitwise_xor(output, np.take(_table(factor), data), out=output)


@lru_cache(maxsize=256)
def _table(factor: int) -> Bytes:
    return np.frombuffer(products(factor), np.uint8)


# ---- The compiled way.


@lru_cache(maxsize=1)
def _compiled() -> Kernel | None:
    try:
        return compile_kernel()
    except Exception as error:  # noqa: BLE001  whatever a compiler may raise: there is another way
        _log.warning("erasure coding is done with numpy, which is slow: %s", error)
        return None


def compiled() -> Kernel | None:
    """The program for this processor, made at first use; None where there is none, or is to be none."""
    if os.environ.get(NO_KERNEL_VARIABLE):
        return None
    with _compiling:
        return _compiled()


def compile_kernel(method: Method | None = None) -> Kernel:
    """The program that uses `method`, or the best that this processor has.

    Raises:
        ImportError: there is no llvmlite.
        LookupError: the processor cannot do that.
        RuntimeError: LLVM refuses.
    """
    from llvmlite import binding as llvm  # noqa: PLC0415  optional, and takes a while

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    chosen, step = best_of(lambda name: bool(features.get(name)), method)
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3)
    module = llvm.parse_assembly(program(chosen, step, _ROW_COUNTS))
    module.triple = target.triple
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return Kernel(chosen, step, engine)


_ROW_COUNTS = range(1, _ROWS_AT_ONCE + 1)
_SIGNATURE = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


class Kernel:
    """The compiled program. Safe from any thread; lets go of the interpreter while it runs.

    `sums` says whether it can sum checksums up.
    """

    def __init__(self, method: Method, step: ChecksumStep | None, engine: ExecutionEngine) -> None:
        self.method = method
        self.sums = step is not None
        self._engine = engine  # owns the program's memory
        kind = ctypes.CFUNCTYPE(None, *_SIGNATURE)
        self._functions = {
            (rows, with_sums): kind(engine.get_function_address(f"{'sums' if with_sums else 'rows'}{rows}"))
            for rows in _ROW_COUNTS
            for with_sums in {False, self.sums}
        }

    def __call__(self, matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> None:
        """As `multiply`."""
        self._run(matrix, inputs, outputs, with_sums=False)

    def multiply_and_sum(self, matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> list[int]:
        """As the function of that name. Only where `sums` says so; there is at least one output."""
        whole, sums = self._run(matrix, inputs, outputs, with_sums=True)
        checksums = [int(one) ^ _ALL_ONES for one in sums]
        if whole == len(inputs[0]):
            return checksums
        arrays = (*inputs, *outputs)
        return [crc32c_extend(one, array[whole:].data) for one, array in zip(checksums, arrays, strict=True)]

    def _run(
        self, matrix: Matrix, inputs: Sequence[Bytes], outputs: Sequence[Bytes], *, with_sums: bool
    ) -> tuple[int, list[int]]:
        """Returns how many bytes of each array the program processed, and their checksums. numpy processes the rest."""
        length = len(inputs[0])
        whole = length // self.method.step_bytes * self.method.step_bytes
        of_inputs, of_outputs = [_ALL_ONES] * len(inputs), []
        sources = _addresses(inputs)
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            rows = matrix[start : start + _ROWS_AT_ONCE]
            targets = _addresses(outputs[start : start + len(rows)])
            sums = (ctypes.c_uint32 * (len(inputs) + len(rows)))(*[_ALL_ONES] * (len(inputs) + len(rows)))
            if whole:
                function = self._functions[len(rows), with_sums]
                function(sources, targets, _tables(self.method, rows), len(inputs), whole, sums)
            of_inputs = sums[: len(inputs)]
            of_outputs += sums[len(inputs) :]
        if whole < length:
            multiply_with_numpy(matrix, [data[whole:] for data in inputs], [data[whole:] for data in outputs])
        return whole, [*of_inputs, *of_outputs]


def _addresses(arrays: Sequence[Bytes]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@lru_cache(maxsize=64)
def _tables(method: Method, rows: Matrix) -> bytes:
    """For each input, and for each row, the table of its factor."""
    return b"".join(method.table(factor) for column in zip(*rows, strict=True) for factor in column)
