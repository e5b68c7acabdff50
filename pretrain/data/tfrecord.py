"""TFRecords of images, read without TensorFlow, with verified checksums.

    file    = records, one after another
    record  = length (8 bytes) | checksum of it (4) | payload | checksum of it (4)          all little-endian
    payload = a tf.train.Example: named lists of bytes, of whole numbers or of floats

The checksum is CRC-32C, rotated and offset ("masked") as in TensorFlow. Feature names are those of ImageNet:
`image/encoded`, `image/class/label` (counted from 1) and, if there, `image/class/synset`, `image/filename`.

CRC-32C is computed by tables for many bytes at once: it is linear, so the checksum of a block is the xor of the
contributions of its bytes at their positions, and the checksums of 64 blocks combine in the same way.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from re import fullmatch
from typing import Any, NamedTuple

import numpy as np

from shared.errors import DataError

POLYNOMIAL = 0x82F63B78  # of CRC-32C, lowest bit first
BLOCK = 256  # bytes per table lookup; so many tables fit in the CPU cache
FEW = 64  # number of bytes up to which a plain loop is faster
MAX_CLASSES = 10**6
HEADER, FOOTER = 12, 4  # bytes of a record around its payload
OF_MANY = r"(.+)-(\d{5,})-of-(\d{5,})(\.tfrecords?)?"  # train-00017-of-01024
IMAGE, LABEL = "image/encoded", "image/class/label"
NOTES = {"image/class/synset": "synset", "image/filename": "filename", "image/class/text": "text"}


def is_record(name: str) -> bool:
    """True if a file name is that of a TFRecord."""
    return name.endswith((".tfrecord", ".tfrecords")) or fullmatch(OF_MANY, name) is not None


class Photograph(NamedTuple):
    """One record: an image file, its label, and its other features by name."""

    data: bytes
    label: int
    notes: dict[str, str]


def record_places(path: Path) -> list[tuple[int, int]]:
    """(offset, payload length) of the records of a file, found by following the lengths.

    Raises:
        DataError: a wrong checksum of a length, a truncated file, or not a TFRecord.
    """
    places, at = [], 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(2) == b"\x1f\x8b":
            raise damaged(path, 0, "it is compressed; decompress it first")
        while at < size:
            length = _length(os.pread(file.fileno(), HEADER, at), path, at)
            if at + HEADER + length + FOOTER > size:
                raise damaged(path, size, f"it ends inside the record that begins at {at}")
            places.append((at, length))
            at += HEADER + length + FOOTER
    return places


def read_record(descriptor: int, path: Path, at: int, length: int) -> memoryview:
    """Payload of the record at byte `at`, with verified checksums. Raises DataError with file and byte offset."""
    data = os.pread(descriptor, HEADER + length + FOOTER, at)
    if _length(data[:HEADER], path, at) != length or len(data) < HEADER + length + FOOTER:
        raise damaged(path, at, "the record was changed while it was read")
    payload = memoryview(data)[HEADER : HEADER + length]
    if masked(crc32c(payload)) != int.from_bytes(data[HEADER + length :], "little"):
        raise damaged(path, at + HEADER, "the checksum of a record is wrong")
    return payload


def photograph(payload: bytes | memoryview, path: Path, at: int) -> Photograph:
    """The payload of the record at byte `at` of a file -> its image and class. Raises DataError."""
    try:
        fields = example(payload)
    except (ValueError, IndexError, struct.error):
        raise damaged(path, at + HEADER, "the record is not a tf.train.Example") from None
    where = f"the record at byte {at} of {path}"
    for name, kind in ((IMAGE, bytes), (LABEL, int)):
        if len(fields.get(name, ())) != 1 or not isinstance(fields[name][0], kind):
            found = ", ".join(sorted(fields)) or "nothing"
            raise DataError(
                f"{where} must have exactly one '{name}' (it has {found}); pack reads records with ImageNet's "
                f"feature names"
            )
    label = fields[LABEL][0]
    if not 1 <= label <= MAX_CLASSES:
        raise DataError(f"{where} has class {label}; classes of such records count from 1, renumber them")
    notes = {
        short: fields[name][0].decode(errors="replace")
        for name, short in NOTES.items()
        if fields.get(name) and isinstance(fields[name][0], bytes)
    }
    return Photograph(fields[IMAGE][0], label - 1, notes)


def _length(header: bytes, path: Path, at: int) -> int:
    if len(header) < HEADER:
        raise damaged(path, at + len(header), f"it ends inside the record that begins at {at}")
    if masked(crc32c(header[:8])) != int.from_bytes(header[8:], "little"):
        raise damaged(path, at, "the checksum of a record's length is wrong")
    return int.from_bytes(header[:8], "little")


def damaged(path: Path, at: int, what: str) -> DataError:
    return DataError(f"TFRecord {path} is damaged at byte {at}: {what}; download or create it again")


# -- tf.train.Example -------------------------------------------------------------------------------------------------


def example(payload: bytes | memoryview) -> dict[str, list[Any]]:
    """A tf.train.Example -> lists of bytes, int or float by name. Raises ValueError, IndexError or struct.error."""
    found: dict[str, list[Any]] = {}
    for features in _messages(memoryview(payload), 1):
        for entry in _messages(features, 1):
            parts = dict(_fields(entry))  # a key and a value; the last of repeated ones is used
            found[_message(parts.get(1, b"")).tobytes().decode()] = _values(_message(parts.get(2, b"")))
    return found


def _values(feature: memoryview) -> list[Any]:
    """One Feature: field 1 is a list of bytes, 2 of floats, 3 of whole numbers, packed or one by one."""
    values: list[Any] = []
    for kind, content in _fields(feature):
        if kind not in (1, 2, 3):
            continue
        for number, value in _fields(_message(content)):
            if number != 1:
                continue
            if kind == 1:
                values.append(_message(value).tobytes())
            elif kind == 2:
                values += [
                    v for (v,) in struct.iter_unpack("<f", value if isinstance(value, bytes) else _message(value))
                ]
            elif kind == 3:
                numbers = [value] if isinstance(value, int) else _varints(_message(value))
                values += [v - (v >> 63 << 64) for v in numbers]
    return values


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    return (_message(value) for n, value in _fields(data) if n == number)


def _message(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return memoryview(value)


def _fields(data: memoryview) -> Iterator[tuple[int, int | bytes | memoryview]]:
    """The fields of one protobuf message: their numbers, and an int, the bytes of a fixed-size number, or a span."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            if at + size > len(data):
                raise ValueError("a field reaches beyond its message")
            value = data[at : at + size]
            value, at = value if kind == 2 else value.tobytes(), at + size
        else:
            raise ValueError(f"no such kind of field: {kind}")
        yield tag >> 3, value


def _varints(data: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and the byte after it."""
    number = shift = 0
    while True:
        byte = data[at]
        number, at, shift = number | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return number & (1 << 64) - 1, at
        if shift >= 70:
            raise ValueError("a number of more than 64 bits")


# -- CRC-32C ----------------------------------------------------------------------------------------------------------


def masked(crc: int) -> int:
    """A checksum in TFRecord's masked form."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli)."""
    size = len(data)
    if size <= FEW:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = crc >> 8 ^ FEW_TABLE[(crc ^ byte) & 0xFF]
        return crc ^ 0xFFFFFFFF
    start = -size % BLOCK  # leading zeros do not change a checksum with initial value 0 ...
    padded = np.zeros(start + size, np.uint8)
    padded[start:] = np.frombuffer(data, np.uint8)
    # ... and the initial value of all ones is the same as inverting the first four bytes
    padded[start : start + 4] ^= 0xFF
    crcs, level = contributed(padded, _table(0)), 1
    while len(crcs) > 1:
        blocks = np.concatenate((np.zeros(-len(crcs) % (BLOCK // 4), "<u4"), crcs.astype("<u4")))
        crcs, level = contributed(blocks.view(np.uint8), _table(level)), level + 1
    return int(crcs[0]) ^ 0xFFFFFFFF


def contributed(data: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(N x 256,) bytes, (256, 256) contributions by place and byte -> (N,) checksums."""
    places = data.reshape(-1, BLOCK) + PLACES
    return np.bitwise_xor.reduce(table.ravel().take(places, mode="clip"), axis=1)  # all within: no checks


@lru_cache(maxsize=8)
def _table(level: int) -> np.ndarray:
    """(256, 256) uint32: what a byte in each place of a block adds to its checksum.

    The blocks of level 0 are bytes; those of level k are the checksums, four bytes each, of 64 blocks of level k - 1.
    """
    table = np.empty((BLOCK, 256), np.uint32)
    rows = np.array([[_crc_of_byte(v) for v in range(256)]], np.uint32) if level == 0 else _identity()
    step = _zeros(1 if level == 0 else BLOCK * 64 ** (level - 1))
    for end in range(BLOCK, 0, -len(rows)):
        table[end - len(rows) : end] = rows
        rows = _applied(step, rows)
    return table


def _identity() -> np.ndarray:
    return np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)


def _zeros(count: int) -> np.ndarray:
    """(4, 256) uint32: what `count` zero bytes make of a checksum, by each of its four bytes; a power of two."""
    step = _identity()
    step = step >> 8 ^ np.array([_crc_of_byte(v) for v in range(256)], np.uint32)[step & 0xFF]
    while count > 1:
        step, count = _applied(step, step), count // 2
    return step


def _applied(step: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    a, b, c, d = (step[k][crcs >> 8 * k & 0xFF] for k in range(4))
    return a ^ b ^ c ^ d


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ POLYNOMIAL * (value & 1)
    return value


FEW_TABLE = [_crc_of_byte(value) for value in range(256)]
PLACES = np.arange(BLOCK) * 256
