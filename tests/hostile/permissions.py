"""Root reads and writes whatever it likes: here it does not, so that permission bits count whoever runs the tests."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522  # of Linux's capability calls: two words of bits
_OVERRIDES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Bits(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def obeyed() -> Iterator[None]:
    """This thread, and those that it starts, keep to permission bits."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, bits = _Header(_VERSION, 0), (_Bits * 2)()
    assert libc.capget(ctypes.byref(header), bits) == 0
    before = bits[0].effective
    bits[0].effective = before & ~_OVERRIDES
    assert libc.capset(ctypes.byref(header), bits) == 0
    try:
        yield
    finally:
        bits[0].effective = before
        assert libc.capset(ctypes.byref(header), bits) == 0
