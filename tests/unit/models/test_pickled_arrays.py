"""Object files of arrays are read whatever wrote them; nothing that a file asks for is ever run."""

import io
import os
import pickle
import struct
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvd_r2n2.models import pickled_arrays
from hvd_r2n2.models.pickled_arrays import read_pickled_arrays

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5,
    np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    np.array([1.5, -0.25], dtype=">f4"),
    np.array([0.5], dtype=np.float16),
    np.frombuffer(bytes(range(256)), dtype=np.uint8).astype(np.float32),
]


def object_array(items: list[Any]) -> "np.ndarray[Any, Any]":
    objects = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        objects[index] = item
    return objects


def npy(pickled: bytes, shape: tuple[int, ...] = (1,), version: tuple[int, int] = (1, 0)) -> bytes:
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes(version) + length + header + b"\n" + pickled


def read(tmp_path: Path, content: bytes) -> list[np.ndarray[Any, Any]]:
    path = tmp_path / "weights.npy"
    path.write_bytes(content)
    return [entry.numbers() for entry in read_pickled_arrays(path)]


def assert_same(found: list[np.ndarray[Any, Any]], expected: list[np.ndarray[Any, Any]]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_what_numpy_saves_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, object_array(ARRAYS), allow_pickle=True)
    assert_same(read(tmp_path, buffer.getvalue()), ARRAYS)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_every_protocol_is_read(tmp_path: Path, protocol: int, version: tuple[int, int]) -> None:
    content = npy(pickle.dumps(object_array(ARRAYS), protocol), (len(ARRAYS),), version)
    assert_same(read(tmp_path, content), ARRAYS)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickled_list_and_the_old_name_of_numpys_core_are_read(tmp_path: Path, protocol: int) -> None:
    pickled = pickle.dumps(ARRAYS, protocol)
    if protocol < 4:  # from 4 on the length of a name is written beside it
        pickled = pickled.replace(b"numpy._core.", b"numpy.core.")
        assert b"numpy.core.multiarray" in pickled
    assert_same(read(tmp_path, npy(pickled, (len(ARRAYS),))), ARRAYS)


def python_2_array(data: bytes) -> bytes:
    """Write a float32 vector as Python 2 with protocol 2 does: bytes are strings there."""
    short = b"U" + bytes([len(data)]) + data
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    size = len(data) // 4
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"\x8a\x01" + bytes([size]) + b"\x85" + dtype + b"\x89" + short + b"tb"
    )  # fmt: skip


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    values = np.array([1.5, -3.25e-7, 255.0, -1e30], dtype="<f4")
    pickled = b"\x80\x02]" + python_2_array(values.tobytes()) + b"a."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the name numpy.core
        assert np.array_equal(pickle.loads(pickled, encoding="latin1")[0], values)  # a valid pickle
    assert_same(read(tmp_path, npy(pickled)), [values])


class Malicious:
    """Pickle as a call of whatever it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_shell_command_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "it-ran"
    items = [ARRAYS[0], Malicious(os.system, f"touch {proof}")]
    assert not proof.exists()
    with pytest.raises(ValueError, match=r"weights\.npy: it asks for '(posix|nt)\.system'"):
        read(tmp_path, npy(pickle.dumps(object_array(items), protocol), (2,)))
    assert not proof.exists()
    pickle.loads(pickle.dumps(items, protocol))  # the attack itself works
    assert proof.exists()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Malicious(eval, "1"), "builtins.eval|__builtin__.eval"),
        (Malicious(getattr, "a", "upper"), "getattr"),
        (Malicious(np.load, "/etc/passwd"), "numpy.load"),
        (Malicious(np.ones, 3), "ones"),
        (np.float32(3), "scalar"),
        (OrderedDict(a=1), "OrderedDict"),
        ({"a": ARRAYS[0]}, "dict where an array"),
        ([ARRAYS[0]], "list where an array"),
        (0.5, "float where an array"),
        ({1, 2}, "EMPTY_SET|set"),
        (np.ma.masked_array([1.0]), "_mareconstruct"),
        (np.array([(1.0,)], dtype=[("a", "f4")]), "dtype 'V4' but a float"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_but_arrays_of_numbers_is_refused(tmp_path: Path, thing: Any, message: str, protocol: int) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, npy(pickle.dumps([thing], protocol)))


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOAT = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNK\x00K\x00K\x00tb"


def one_array(shape: bytes, dtype: bytes, payload: bytes) -> bytes:
    return b"\x80\x03]" + NDARRAY + b"(K\x01" + shape + dtype + b"\x89" + payload + b"tba."


def test_the_hand_made_array_is_read(tmp_path: Path) -> None:
    content = npy(one_array(b"K\x01\x85", FLOAT, b"C\x04" + np.float32(7).tobytes()))
    assert_same(read(tmp_path, content), [np.array([7], np.float32)])


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (one_array(b"K\x02\x85", FLOAT, b"C\x04abcd"), "needs 8 bytes but there are 4"),
        (one_array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", FLOAT, b"C\x04abcd"), "bytes but there are 4"),
        (one_array(b"J\xff\xff\xff\xff\x85", FLOAT, b"C\x04abcd"), "its shape"),
        (one_array(b"\x88\x85", FLOAT, b"C\x04abcd"), "its shape"),
        (one_array(b"K\x01", FLOAT, b"C\x04abcd"), "its shape"),
        (one_array(b"(" + 50 * b"K\x01" + b"t", FLOAT, b"C\x04abcd"), "its shape"),
        (one_array(b"K\x01\x85", b"N", b"C\x04abcd"), "no dtype"),
        (one_array(b"K\x01\x85", FLOAT, b"K\x05"), "no bytes"),
        (one_array(b"K\x01\x85", FLOAT, b"]"), "no bytes"),
        (one_array(b"K\x01\x85", FLOAT.replace(b"f4", b"m8"), b"C\x04abcd"), "dtype 'm8'"),
        (one_array(b"K\x01\x85", FLOAT.replace(b"X\x01\x00\x00\x00<", b"K\x09"), b"C\x04abcd"), "dtype"),
        (b"\x80\x03]K\x01a.", "int where an array"),
        (b"\x80\x03]" + NDARRAY + b"a.", "no dtype"),
        (b"\x80\x03]" + NDARRAY + b"K\x01ba.", "malformed state"),
        (b"\x80\x03]cnumpy\nndarray\nK\x01ba.", "a name is given a state"),
        (b"\x80\x03]cnumpy\nndarray\n)Ra.", "called in a way"),
        (b"\x80\x03]c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Ra.", "written as text"),
        (b"\x80\x03N.", "not an object array"),
        (b"\x80\x03].", r"shape is \(1,\) but there are 0"),
        (b"", "malformed pickle|pickle exhausted"),
        (b"\x80\x03]", "exhausted before seeing STOP"),
        (b"\x80\x03]K\x01a..", "1 bytes follow"),
        (b"\x80\x03R.", "malformed pickle"),
        (b"\x80\x63N.", "unsupported pickle protocol"),
        (b"\xff\xfe\xfd", "opcode"),
        (b"\x80\x03]r\xff\xff\xff\xff.", "remembers an object under the number"),
        (b"\x80\x03]p999999999\n.", "remembers an object under the number"),
        (b"\x80\x04]\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab", "bytes8|expected"),
        (b"\x80\x03]T\xff\xff\xff\x7fab.", "string4|expected"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x00].", "malformed pickle|frame"),
        (b"\x80\x03" + 30_000 * b"N" + b".", "more than 20000 instructions"),
        (b"\x80\x03)" + 15_000 * b"\x85" + b".", "0 entries|1 entries|no array|where an array"),
        (b"\x80\x03](K\x01i__builtin__\neval\na.", "INST"),
        (b"\x80\x03]cos\nsystem\n)\x81a.", "NEWOBJ"),
        (b"\x80\x03]X\x01\x00\x00\x00aQa.", "BINPERSID"),
        (b"\x80\x03]\x82\x01a.", "EXT1"),
        (b"\x80\x05]\x97a.", "NEXT_BUFFER"),
        (b"\x80\x03]L" + 9000 * b"9" + b"L\na.", "malformed pickle|limit|digits"),
    ],
)
def test_a_malformed_pickle_is_a_value_error_that_names_the_file(tmp_path: Path, pickled: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, npy(pickled))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a NumPy .npy file"),
        (b"PK\x03\x04 a zip", "not a NumPy .npy file"),
        (pickle.dumps([1.0]), "not a NumPy .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not a NumPy .npy file"),
        (b"\x93NUMPY\x09\x00\x02\x00{}", "not a NumPy .npy file"),
        (b"\x93NUMPY\x03\x00\x02\x00\x00\x00{}", "version"),
        (b"\x93NUMPY\x01\x00\x06\x00[[[[[\n", "not a NumPy .npy file"),
        (npy(b"N.").replace(b"(1,)", b"1e99"), "not a NumPy .npy file"),
        (npy(pickle.dumps([ARRAYS[0]])).replace(b"|O", b"f4"), "an array of float32"),
        (npy(pickle.dumps([ARRAYS[0]]), shape=(2,)), r"shape is \(2,\) but there are 1"),
        (npy(pickle.dumps([ARRAYS[0]]), shape=(1, 1)), r"shape is \(1, 1\) but there are 1"),
    ],
)
def test_a_malformed_header_is_a_value_error_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"weights\.npy: .*{message}"):
        read(tmp_path, content)


def test_a_file_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_arrays, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read(tmp_path, npy(pickle.dumps([ARRAYS[0]])))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_every_truncation_and_many_corruptions_are_value_errors_or_arrays(tmp_path: Path) -> None:
    content = npy(pickle.dumps(object_array(ARRAYS[:2]), 2), (2,))
    rng = np.random.default_rng(0)
    variants = [content[:length] for length in range(0, len(content), 7)]
    for _ in range(600):
        corrupted = bytearray(content)
        for position in rng.integers(0, len(content), size=rng.integers(1, 4)):
            corrupted[position] = rng.integers(0, 256)
        variants.append(bytes(corrupted))
    refused = 0
    for variant in variants:
        try:
            for array in read(tmp_path, variant):
                assert isinstance(array, np.ndarray)
        except ValueError:
            refused += 1
    assert refused > len(variants) // 2
