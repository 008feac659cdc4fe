"""Vector instructions for the kernels, and how much a kernel computes at a time.

numba compiles their inner loops from LLVM instructions on vectors, for any CPU. Its own loops over
arrays would check at each call whether the arrays overlap, which takes longer than to add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba.extending
from llvmlite import ir
from numba import types

from model.fused.cpu.numba_kernels import jit

#: float32 of a vector: 64 bytes, a cache line and a register of AVX-512.
VECTOR = 16
#: Values whose zeros one mask shows, a bit for each.
MASK = 64
#: Rows are computed together until they have more than this many pixels, of all steps.
_PIXELS = 512


def block_vectors(out: int) -> tuple[int, ...]:
    """Return how many vectors of outputs are summed at a time, as the length of a tuple: numba
    compiles a kernel for each type of argument, and the length is part of a tuple's type. `out` is
    a multiple of 16."""
    vectors = out // VECTOR
    return (0,) * next(n for n in (4, 2, 1) if vectors % n == 0)


@jit
def rows_at_a_time(steps: int, width: int, height: int) -> int:
    """Return the number of rows of pixels whose currents exist at a time."""
    return min(height, 1 + _PIXELS // (steps * width))


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for kernels: `function` takes numba's typing context and the types of the
    arguments, and returns its signature and what generates its instructions."""
    return cast(Callable[..., Any], numba.extending.intrinsic(function))


def pointers(
    context: Any, builder: Any, signature: Any, args: Any
) -> Callable[[int, Any, Any], Any]:
    """Return, for an intrinsic, what makes pointers: of the index of an argument that is an array,
    an element's index, and the type that is pointed to."""

    def pointer(argument: int, element: Any, pointee: Any) -> Any:
        array = context.make_array(signature.args[argument])
        data = array(context, builder, value=args[argument]).data
        return builder.bitcast(builder.gep(data, [element]), pointee.as_pointer())

    return pointer


@intrinsic
def lowest_bit(typing: Any, mask: Any) -> Any:
    """Return the number of the lowest bit that is set, of a mask that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def mask_of_values(typing: Any, values: Any, at: Any) -> Any:
    """Return a mask of which of the 64 float32 values[at:] are not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), MASK)
        first = pointers(context, builder, signature, args)(0, args[1], vector)
        zeros = ir.Constant(vector, [0.0] * MASK)
        are_set = builder.fcmp_unordered("!=", builder.load(first, align=4), zeros)
        return builder.bitcast(are_set, ir.IntType(MASK))

    return types.uint64(values, types.int64), generate
