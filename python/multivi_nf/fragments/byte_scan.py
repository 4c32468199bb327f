"""Eight bytes at a time: machine instructions that numba does not offer by itself, and what is built on them.

Reading text byte by byte costs a test and a branch a byte; a 64-bit word tells with a few operations where a field ends
and what number it holds. Words are little-endian: the first character is the lowest byte.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Arrays: TypeAlias = tuple[np.ndarray, ...]
Num: TypeAlias = Any
"""A number in compiled code: numba takes the type that it is given, and mixes them as C does."""

#: Bytes that must follow the text in a buffer, since 64 of them are looked at together.
PADDING = 64

ONES, TOPS, LOWS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
_TABS, _NEWLINES, _RETURNS = ONES * np.uint64(9), ONES * np.uint64(10), ONES * np.uint64(13)
_ZEROS, _ABOVE_NINE = ONES * np.uint64(48), ONES * np.uint64(0x76)
_PAIRS, _FOURS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_TENS, _HUNDREDS, _MYRIADS = np.uint64(2561), np.uint64(6553601), np.uint64(42949672960001)
_3, _8, _16, _32, _64 = (np.uint64(n) for n in (3, 8, 16, 32, 64))
_NONE, _ALL = np.uint64(0), ~np.uint64(0)


@intrinsic
def load_word(typing_context: Any, array: Any, index: Any) -> Any:
    """Read `array[index:index + 8]` of a uint8 array as one uint64, aligned or not."""
    signature = types.uint64(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = ir.IntType(64)
        pointer = builder.bitcast(builder.gep(values.data, [arguments[1]]), word.as_pointer())
        return builder.load(pointer, align=1, typ=word)

    return signature, codegen


@intrinsic
def load_byte(typing_context: Any, array: Any, index: Any) -> Any:
    """Read `array[index]` of a uint8 array, without numba's test for indices from the end."""
    signature = types.uint8(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load(builder.gep(values.data, [arguments[1]]), align=1, typ=ir.IntType(8))

    return signature, codegen


@intrinsic
def trailing_zeros(typing_context: Any, value: Any) -> Any:
    """Count the zero bits below the lowest set bit of a uint64 (64 for zero)."""
    signature = types.uint64(types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return signature, codegen


@intrinsic
def ones(typing_context: Any, value: Any) -> Any:
    """Count the bits of a uint64 that are set."""
    signature = types.uint64(types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return signature, codegen


@intrinsic
def delimiters(typing_context: Any, array: Any, index: Any) -> Any:
    """Mark in a uint64 which of `array[index:index + 64]` are a tab, newline or carriage return (lowest bit: first)."""
    signature = types.uint64(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8)
        block = ir.VectorType(byte, 64)
        pointer = builder.bitcast(builder.gep(values.data, [arguments[1]]), block.as_pointer())
        text = builder.load(pointer, align=1, typ=block)
        found = None
        for character in (9, 10, 13):
            same = builder.icmp_unsigned("==", text, ir.Constant(block, [byte(character)] * 64))
            found = same if found is None else builder.or_(found, same)
        return builder.bitcast(found, ir.IntType(64))

    return signature, codegen


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the memory of row `index` of an array before it is needed (no row need be there)."""
    signature = types.void(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(values.strides, 0)
        place = builder.add(builder.ptrtoint(values.data, stride.type), builder.mul(stride, arguments[1]))
        pointer = builder.inttoptr(place, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, codegen


@njit(cache=True, nogil=True, inline="always")
def field_end(word: Num) -> Num:
    """Mark the lowest byte that is a tab, newline or carriage return with 0x80 (higher bytes may be marked wrongly)."""
    tab, newline, carriage = word ^ _TABS, word ^ _NEWLINES, word ^ _RETURNS
    return (((tab - ONES) & ~tab) | ((newline - ONES) & ~newline) | ((carriage - ONES) & ~carriage)) & TOPS


@njit(cache=True, nogil=True, inline="always")
def eight_digits(digits: Num) -> Num:
    """Give the number of eight characters less `0` each, the first of them in the lowest byte."""
    digits = (digits * _TENS) >> _8
    digits = ((digits & _PAIRS) * _HUNDREDS) >> _16
    return np.int64(((digits & _FOURS) * _MYRIADS) >> _32)


@njit(cache=True, nogil=True, inline="always")
def short_number(word: Num, first: Num, n: Num) -> Num:
    """Read a number of `n` digits from its last eight bytes and its first byte; −1 unless it has one to nine digits.

    It takes no array: numba counts references to arrays that an inlined function takes, at a cost far above this one's.
    """
    digits = word ^ _ZEROS
    if n < 8:
        digits &= _ALL << (_64 - (np.uint64(max(n, 1)) << _3))
    head = np.int64(first) - 48 if n == 9 else np.int64(0)
    wrong = (((digits & LOWS) + _ABOVE_NINE) | digits) & TOPS != _NONE
    value = head * 100000000 + eight_digits(digits)
    return np.int64(-1) if wrong or n < 1 or n > 9 or head < 0 or head > 9 else value


@njit(cache=True, nogil=True, inline="always")
def number(text: np.ndarray, at: Num) -> tuple[Num, Num]:
    """Read digits at `at`: (value, index after them); −1 when there are none or more than ten, or above 2³¹ − 1."""
    digits = load_word(text, at) ^ _ZEROS
    marks = (((digits & LOWS) + _ABOVE_NINE) | digits) & TOPS
    n = trailing_zeros(marks) >> _3
    if n == np.uint64(0):
        return np.int64(-1), at
    digits <<= _64 - (n << _3) if n < _8 else np.uint64(0)
    value = eight_digits(digits)
    at += np.int64(n)
    if n == _8:
        last = at + 2
        while at <= last:
            digit = np.int64(load_byte(text, at)) - 48
            if digit < 0 or digit > 9:
                break
            value = value * 10 + digit
            at += 1
        if at > last or value > 2147483647:
            return np.int64(-1), at
    return value, at
