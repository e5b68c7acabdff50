"""Files written whole or not at all, and digests of files.

write_aside(path, text)     NAME.partial, then renamed: a reader sees the old text or the new one
write_json(path, value)     the same, as indented JSON
file_digest(path)           sha256 of the bytes
cache_dir()                 the folder of files that can be recreated
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

CACHE = "CHORDATE_CACHE"  # environment variable: folder of files that can be recreated, such as the demo data


def write_aside(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, what: Any) -> None:
    write_aside(path, json.dumps(what, indent=2, default=os.fspath) + "\n")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames inside it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_dir() -> Path:
    """The folder for files that can be recreated."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "chordate").expanduser()
