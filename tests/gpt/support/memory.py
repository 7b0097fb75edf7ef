"""NumPy's memory: which arrays are allocated, and a MemoryError at the n-th large one, raised by NumPy itself.

One idea: NumPy asks a handler for the data of every array (NEP 49, PyDataMem_SetHandler of its C API). Ours counts, and
at the chosen call answers as malloc does when there is no memory; all else goes to NumPy's own.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from numpy._core import _multiarray_umath

Malloc = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)  # what it returns, then what it takes
Calloc = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
SET_HANDLER, GET_HANDLER = 304, 305  # places in NumPy's table of functions, which keeps them


class Allocator(ctypes.Structure):  # PyDataMemAllocator
    _fields_ = (
        ("context", ctypes.c_void_p), ("malloc", ctypes.CFUNCTYPE(*Malloc)), ("calloc", ctypes.CFUNCTYPE(*Calloc)),
        ("realloc", ctypes.c_void_p), ("free", ctypes.c_void_p),
    )  # fmt: skip


class Handler(ctypes.Structure):  # PyDataMem_Handler
    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", Allocator))


class Memory:
    """The handler: `counted` allocations of at least `large` bytes so far; the one with number `fail_at` fails."""

    def __init__(self) -> None:
        self.large, self.counted, self.fail_at, self.counting = 0, 0, 0, False
        pointer, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        table = ctypes.cast(pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
        self.set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])
        self.numpys = ctypes.PYFUNCTYPE(ctypes.py_object)(table[GET_HANDLER])()
        theirs = Handler.from_address(pointer(self.numpys, b"mem_handler")).allocator
        malloc = ctypes.cast(theirs.malloc, ctypes.PYFUNCTYPE(*Malloc))  # they want the GIL, so not CFUNCTYPE
        calloc = ctypes.cast(theirs.calloc, ctypes.PYFUNCTYPE(*Calloc))
        self.allocator = Allocator(
            theirs.context,
            ctypes.CFUNCTYPE(*Malloc)(lambda context, size: None if self.fails(size) else malloc(context, size)),
            ctypes.CFUNCTYPE(*Calloc)(
                lambda context, n, size: None if self.fails(n * size) else calloc(context, n, size)
            ),
            theirs.realloc,
            theirs.free,
        )
        self.handler = Handler(b"counting", 1, self.allocator)
        self.capsule = new(ctypes.addressof(self.handler), b"mem_handler", None)

    def fails(self, size: int) -> bool:
        if not self.counting or size < self.large:
            return False
        self.counted += 1
        return self.counted == self.fail_at

    @contextmanager
    def watched(self, large: int, fail_at: int = 0) -> Iterator[None]:
        """In the block NumPy asks this handler; it counts once `counting` is set."""
        self.large, self.counted, self.fail_at, self.counting = large, 0, fail_at, False
        self.set_handler(self.capsule)
        try:
            yield
        finally:
            self.set_handler(self.numpys)


MEMORY = Memory()  # for good: the arrays that it made are freed through it
