"""What the kernels that are vector code have in common.

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

#: Outputs of a vector.
VECTOR = 16
#: Values of a mask.
MASK = 64
#: Pixels, of all steps, whose currents exist at a time.
_PIXELS = 512


def block_vectors(out: int) -> tuple[int, ...]:
    """Return a tuple of as many elements as vectors of outputs are summed at a time, for `out`
    outputs, a multiple of 16. numba compiles a kernel for each length of tuple."""
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


def element_pointer(
    context: Any, builder: Any, kind: Any, array: Any, element: Any, pointee: Any
) -> Any:
    """Return a pointer to an element of an array of that type, for an intrinsic."""
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [element]), pointee.as_pointer())


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
        pointer = element_pointer(context, builder, values, args[0], args[1], vector)
        zeros = ir.Constant(vector, [0.0] * MASK)
        are_set = builder.fcmp_unordered("!=", builder.load(pointer, align=4), zeros)
        return builder.bitcast(are_set, ir.IntType(MASK))

    return types.uint64(values, types.int64), generate
