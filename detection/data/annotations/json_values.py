"""JSON files of other programs: plain or gzipped, with whole numbers and truth values in any spelling that is clear.

7, 7.0, "7", "-7"                         -> whole_number -> 7, -7       7.5, true, "seven", null -> None
true, 1, 1.0, "1", "true", "Yes"          -> truth_value  -> True        2, "", "maybe", NaN      -> None
false, 0, 0.0, "0", "false", "No"         -> truth_value  -> False
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

from shared.errors import DataError

GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file
EXACT = 2**53  # above it, a float no longer tells whole numbers apart
WHOLE = re.compile(r"\s*[+-]?[0-9]{1,30}\s*")
TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def whole_number(value: Any) -> int | None:
    """A whole number as int, however it is written; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT else None
    return int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else None


def category_id(entry: Any) -> int | None:
    """The id of a category of the JSON, of at most 53 bits, since detections hold it as float64; None without one."""
    value = whole_number(entry.get("id")) if isinstance(entry, dict) else None
    return value if value is not None and abs(value) < EXACT else None


def truth_value(value: Any) -> bool | None:
    """What a JSON value says as true or false; None if that is not clear."""
    if isinstance(value, str):
        return TRUTHS.get(value.strip().casefold())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def read_json_bytes(path: Path, subject: str, wanted: str) -> bytes:
    """The content of a JSON file, unpacked if it is gzipped, whatever its name.

    Args:
        subject, wanted: of the error message, "cannot read {subject} ...; give the path of {wanted}".

    Raises:
        DataError: it cannot be read or unpacked.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {subject} {path} ({error}); give the path of {wanted}") from None
    try:
        return unpacked(raw)
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked ({error}); it may be damaged or truncated") from None


def unpacked(raw: bytes) -> bytes:
    """The bytes, or what was gzipped in them. Raises OSError if that is damaged."""
    try:
        return gzip.decompress(raw) if raw.startswith(GZIP) else raw
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from None


def without_json(path: Path) -> Path:
    """The path without .json or .json.gz: `panoptic_val.json.gz` -> `panoptic_val`."""
    return path.with_suffix("").with_suffix("") if path.name.lower().endswith(".json.gz") else path.with_suffix("")
