"""Loops over rows that numba compiles: they run as C would, and leave the interpreter lock to other threads meanwhile.

A kernel may be given addresses of arrays in place of arrays, since it cannot take a list of arrays of different
lengths. Whoever calls it keeps the arrays alive.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.extending import intrinsic

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """The function, compiled when it is first called, and kept on disk for the next process where that is possible."""
    try:
        return cast(Kernel, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # no folder for the cache, as in an image that is read-only and has no home
        return cast(Kernel, numba.njit(function, nogil=True))


def _pointer_to(kind: types.Type) -> Any:
    """A function of compiled code: address → pointer, which is indexed as an array is, unchecked."""

    @intrinsic
    def at(_typing: object, _address: types.Type) -> tuple[Any, Any]:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return at


int32_at = _pointer_to(types.int32)
int64_at = _pointer_to(types.int64)
float32_at = _pointer_to(types.float32)
uint8_at = _pointer_to(types.uint8)
