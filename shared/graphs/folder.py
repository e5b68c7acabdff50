"""The folder of an exported network: written aside, it appears whole, and nothing of a person's is overwritten."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import UsageError
from shared.files import file_digest, naming


def check_empty(out: Path) -> None:
    """Raise UsageError if there is a file of that name, or a folder that holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty, and exports are never overwritten; give another --output")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write; it becomes `out`, which is new or empty, if the block ends well."""
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        with naming(out):
            partial.mkdir(parents=True)
        yield partial
        check_empty(out)
        if out.is_dir():
            out.rmdir()  # it is empty
        with naming(out):
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file of a folder, by name: a model's weights may lie beside it."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def spread(files: list[Path], most: int) -> list[Path]:
    """At most so many of the files, in equal steps."""
    count = min(most, len(files))
    return [files[i * len(files) // count] for i in range(count)]
