"""Files written whole or not at all, what to say when the disk refuses, and digests of files.

written_aside(path)         a path NAME.partial to write; renamed if the block ends well, removed if it fails
write_aside(path, text)     a text, so written: a reader sees the old one or the new one
write_json(path, value)     the same, as indented JSON
naming(path)                errors of the block name this path, also those of writers that do not say theirs
file_digest(path)           sha256 of the bytes
cache_dir()                 the folder of files that can be recreated
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CACHE = "CHORDATE_CACHE"  # environment variable: folder of files that can be recreated, such as the demo data


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let OSErrors of the block name `path`, and turn safetensors' errors of the disk into OSErrors."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)$", str(error))  # safetensors is written in Rust
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield NAME.partial, with the suffix of `path`; it replaces `path` if the block ends well."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_aside(path: Path, text: str) -> None:
    with written_aside(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
