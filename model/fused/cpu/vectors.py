"""What the kernels that are vector code have in common.

numba compiles their inner loops from LLVM instructions on vectors, for any CPU. Its own loops over
arrays would check at each call whether the arrays overlap, which takes longer than to add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba.extending

from model.fused.cpu.numba_kernels import jit

#: Outputs of a vector.
VECTOR = 16
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
