"""Eight bytes at a time: the two machine instructions that numba does not offer by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

#: Bytes that must follow the text in a buffer, since a word read at its last byte reaches this far.
PADDING = 8


@intrinsic
def load_word(typing_context, array, index):
    """Read `array[index:index + 8]` of a uint8 array as one little-endian uint64, aligned or not."""
    signature = types.uint64(array, types.intp)

    def codegen(context, builder, signature, arguments):
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = ir.IntType(64)
        pointer = builder.bitcast(builder.gep(values.data, [arguments[1]]), word.as_pointer())
        return builder.load(pointer, align=1, typ=word)

    return signature, codegen


@intrinsic
def trailing_zeros(typing_context, value):
    """Count the zero bits below the lowest set bit of a uint64 (64 for zero)."""
    signature = types.uint64(types.uint64)

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return signature, codegen
