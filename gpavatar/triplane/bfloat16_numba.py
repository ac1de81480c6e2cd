"""Numbers of 16 bits in compiled kernels: an array of uint16 holds bfloat16, which numba does not know.

`widened(x)` is a float32; `narrowed(x, like)` is x in the type of `like`, rounded to the nearest (ties to even). Both
leave float32 as it is, so that one kernel serves both precisions.
"""

from __future__ import annotations

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_HALF, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()


@intrinsic
@no_type_check
def widened(_context, value):
    """See the head of this file."""
    narrow = value == types.uint16

    def generate(_context, builder, _signature, arguments):
        if not narrow:
            return arguments[0]
        shifted = builder.shl(builder.zext(arguments[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(shifted, _FLOAT)

    return types.float32(value), generate


@intrinsic
@no_type_check
def narrowed(_context, value, like):
    """See the head of this file."""
    narrow = like == types.uint16

    def generate(_context, builder, _signature, arguments):
        if not narrow:
            return arguments[0]
        bits = builder.bitcast(arguments[0], _WORD)
        last = builder.and_(builder.lshr(bits, ir.Constant(_WORD, 16)), ir.Constant(_WORD, 1))
        rounded = builder.add(bits, builder.add(last, ir.Constant(_WORD, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(_WORD, 16)), _HALF)

    return like(value, like), generate
