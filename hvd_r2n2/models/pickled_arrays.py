"""Read a NumPy object file (.npy) of number arrays without running anything that it asks for.

A pickle is a program. Here its instructions are first looked through without being run, then run by an
unpickler that knows seven names, none of which leads to NumPy or to any other real callable: they make
inert records of what the file says. Arrays are built from the records at the end, once their type, shape
and size in bytes agree.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

MAX_FILE_BYTES = 1 << 30  # the released file has 144 MB; protocol 2 may double that
MAX_INSTRUCTIONS = 20_000  # the released file needs about 30 an array
MAX_DIMENSIONS = 8

# What array pickles of protocols 0 to 5, of Python 2 and 3, are made of; and plain values that may stand where an
# array should, so that the error can say where.
_INSTRUCTIONS = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT GLOBAL STACK_GLOBAL
    REDUCE BUILD NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS
    FLOAT BINFLOAT EMPTY_DICT DICT SETITEM SETITEMS
    """.split()  # noqa: SIM905
)
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_NAMES = {
    **{f"{package}.multiarray._reconstruct": "reconstruct" for package in ("numpy.core", "numpy._core")},
    **{f"{package}.numeric._frombuffer": "frombuffer" for package in ("numpy.core", "numpy._core")},
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}


class _DtypeRecord:
    """What a file says of a dtype: ``numpy.dtype(code, ...)`` and the byte order of its state."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: object) -> None:
        self.code = code
        self.byte_order: object = "="

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2):
            raise ValueError("a dtype has a malformed state")
        self.byte_order = state[1]

    def number_dtype(self) -> np.dtype[Any]:
        """Give the floating dtype, or raise a ValueError that names what is there."""
        code = self.code.decode("latin1") if isinstance(self.code, bytes) else self.code
        match = re.fullmatch(r"([<>=|]?)(f[248])", code) if isinstance(code, str) else None
        order = self.byte_order.decode("latin1") if isinstance(self.byte_order, bytes) else self.byte_order
        if match is None or order not in ("<", ">", "=", "|"):
            raise ValueError(f"dtype {_shown(code)} but a float of 2, 4 or 8 bytes is needed")
        return np.dtype((match[1] if match[1] in ("<", ">") else str(order).replace("|", "=")) + match[2])


class _TextRecord:
    """What a file says of bytes written as text (protocols 0 to 2): encoded only when an array is built."""

    __slots__ = ("text",)

    def __init__(self, text: object, encoding: object) -> None:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
            raise ValueError("bytes are written as text in a way that arrays are not")
        self.text = text

    def __setstate__(self, state: object) -> None:
        raise ValueError("bytes are given a state")


class _ArrayRecord:
    """What a file says of an array; nothing of it is believed yet."""

    __slots__ = ("dtype", "fortran_order", "payload", "shape")

    def __init__(self) -> None:
        self.shape: object = None
        self.dtype: object = None
        self.fortran_order: object = False
        self.payload: object = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("an array has a malformed state")
        _, self.shape, self.dtype, self.fortran_order, self.payload = state

    def numbers(self) -> np.ndarray[Any, Any]:
        """Build the array, or raise a ValueError that says what does not agree."""
        if not isinstance(self.dtype, _DtypeRecord):
            raise ValueError("no dtype is given")
        dtype = self.dtype.number_dtype()
        shape = _checked_shape(self.shape)
        payload = self.payload
        if isinstance(payload, _TextRecord):
            payload = payload.text
        if isinstance(payload, str):  # strings of Python 2 are read as latin1, one character a byte
            payload = payload.encode("latin1")
        if not isinstance(payload, bytes | bytearray):
            raise ValueError("no bytes of numbers are given")
        needed_bytes = math.prod(shape) * dtype.itemsize
        if len(payload) != needed_bytes:
            raise ValueError(f"shape {shape} of {dtype} needs {needed_bytes} bytes but there are {len(payload)}")
        order: Literal["F", "C"] = "F" if self.fortran_order in (True, "F") else "C"
        return np.frombuffer(payload, dtype).reshape(shape, order=order)


class _Name:
    """A name that a file asks for: calling it makes a record."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: object) -> None:
        raise ValueError("a name is given a state")

    def __call__(self, *arguments: object) -> object:
        if self.kind == "reconstruct" and len(arguments) == 3:
            return _ArrayRecord()
        if self.kind == "frombuffer" and len(arguments) == 4:
            array = _ArrayRecord()
            array.payload, array.dtype, array.shape, array.fortran_order = arguments
            return array
        if self.kind == "dtype" and arguments:
            return _DtypeRecord(arguments[0])
        if self.kind == "encode" and len(arguments) == 2:
            return _TextRecord(*arguments)
        raise ValueError(f"{self.kind} is called in a way that arrays are not")


class _RecordUnpickler(pickle.Unpickler):
    """Run a pickle whose names lead to records only."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in _NAMES:
            raise ValueError(f"it asks for {_shown(name)}, but a file of weights may hold arrays of numbers only")
        return _Name(_NAMES[name])


@dataclass(frozen=True)
class PickledArray:
    """One entry of the file, not yet built."""

    record: object

    def numbers(self) -> np.ndarray[Any, Any]:
        """Build the array of floats.

        Raises:
            ValueError: it is no array, not of floats, or its bytes do not fit its shape.
        """
        if not isinstance(self.record, _ArrayRecord):
            raise ValueError(f"{type(self.record).__name__.strip('_')} where an array of floats is needed")
        return self.record.numbers()


def read_pickled_arrays(path: str | Path) -> list[PickledArray]:
    """Read the entries of a one-dimensional NumPy object file, running nothing that the file names.

    Raises:
        ValueError: the file is no such file, is too large, or asks for anything but arrays of numbers.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes, which no file of these weights is")
        stream = io.BytesIO(content)
        shape = _object_header(stream)
        start = stream.tell()
        _check_instructions(stream, len(content))
        stream.seek(start)
        entries = _unpickle(stream)
        if len(shape) != 1 or len(entries) != shape[0]:
            raise ValueError(f"the header's shape is {shape} but there are {len(entries)} entries")
        return [PickledArray(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _object_header(stream: io.BytesIO) -> tuple[int, ...]:
    """Read the header and give its shape."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version} is not written for object arrays")
    except Exception as error:  # NumPy's parser meets arbitrary bytes: whatever it raises, this is no .npy file
        raise ValueError(f"not a NumPy .npy file ({_shown(error)})") from None
    if dtype != np.dtype(object):
        raise ValueError(f"an array of {dtype}, shape {shape}; an object array of weight arrays is needed")
    return shape


def _check_instructions(stream: io.BytesIO, num_bytes: int) -> None:
    """Look through the pickle without running it."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream), start=1):
            if opcode.name not in _INSTRUCTIONS:
                raise ValueError(f"its pickle holds {opcode.name}, which arrays of numbers do not need")
            if count > MAX_INSTRUCTIONS:
                raise ValueError(f"its pickle holds more than {MAX_INSTRUCTIONS} instructions")
            # The unpickler's memory for remembered objects grows with the largest index, not with their number.
            if opcode.name in _MEMO_WRITES and not 0 <= _integer(argument) <= MAX_INSTRUCTIONS:
                raise ValueError(f"its pickle remembers an object under the number {_shown(argument)}")
    except ValueError:
        raise
    except Exception as error:  # the parser meets arbitrary bytes
        raise ValueError(f"malformed pickle ({_shown(error)})") from None
    if stream.tell() != num_bytes:
        raise ValueError(f"{num_bytes - stream.tell()} bytes follow the end of its pickle")


def _unpickle(stream: io.BytesIO) -> list[object]:
    """Run the pickle and give the entries of the object array, or of the list, that it makes."""
    try:
        top = _RecordUnpickler(stream, encoding="latin1").load()
    except ValueError:
        raise
    except Exception as error:  # arbitrary bytes again: the kinds of failure have no common ancestor
        raise ValueError(f"malformed pickle ({_shown(error)})") from None
    if isinstance(top, _ArrayRecord):
        top = top.payload
    if not isinstance(top, list | tuple):
        raise ValueError("its pickle is not an object array or a list of arrays")
    return list(top)


def _checked_shape(shape: object) -> tuple[int, ...]:
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and 0 <= side < 2**40 for side in shape)
    ):
        raise ValueError("its shape is not that of an array of weights")
    return shape


def _integer(argument: object) -> int:
    return argument if isinstance(argument, int) else -1


def _shown(thing: object) -> str:
    """Give a short text without control characters of something that came from the file."""
    if not isinstance(thing, str | int | Exception):
        return type(thing).__name__.strip("_")
    text = str(thing)[:100]
    return ascii(text) if isinstance(thing, str) else ascii(text)[1:-1]
