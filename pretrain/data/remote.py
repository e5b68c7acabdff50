"""Shards elsewhere: which addresses there are, and the bytes of each, read once from the start.

    https://                          curl, started by webdataset
    s3:// gs:// az:// hf:// hdfs://   fsspec, with the package of the scheme; logins are those of its own settings

    s3://bucket/shards -> its tars        s3://bucket/train-*.tar -> those that are there        .../a.tar -> itself

Nothing in an address is executed, and no other scheme is opened. fsspec comes with torch; imports it only when needed.
"""

from __future__ import annotations

from glob import has_magic
from re import match
from typing import Any

from shared.errors import DataError

PACKAGES = {  # schemes that fsspec opens, with what pip installs for them
    **dict.fromkeys(("s3", "s3a"), "chordate[remote]"),
    **dict.fromkeys(("gs", "gcs"), "chordate[remote]"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "hf": "huggingface_hub",
    "hdfs": "pyarrow",
    "webhdfs": "requests",
    "oss": "ossfs",
    "memory": "fsspec",  # of this process, for tests
}
BLOCK = 8 << 20  # bytes of a request
MARK = "uploading"  # in a folder at an address, as long as `pretrain upload` is not done


def scheme_of(address: str) -> str | None:
    """'S3://bucket/a' -> 's3'; None for a path."""
    found = match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return found[1].lower() if found else None


def is_remote(shard: Any) -> bool:
    """Whether this is an address that can be streamed."""
    return by_curl(str(shard)) or scheme_of(str(shard)) in PACKAGES


def by_curl(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def tars_at(address: str) -> list[str]:
    """The shards at an address: the tars of a folder, those that a glob finds, or the address itself.

    Raises:
        DataError: there is none, it cannot be reached, or the package of its scheme is missing.
    """
    if by_curl(address) or (address.endswith(".tar") and not has_magic(address)):
        return [address]
    system, path = opened_system(address)
    pattern = path if has_magic(path) else f"{path.rstrip('/')}/*.tar"
    try:
        marked = system.exists(f"{pattern.rpartition('/')[0]}/{MARK}")
        found = system.glob(pattern)
    except Exception as error:
        raise unreadable(address, error) from None
    if marked:
        raise DataError(
            f"{address} is still being uploaded, or that was stopped; run `pretrain upload` to its end first"
        )
    if not found:
        raise DataError(f"there are no .tar shards at {address}; check the address")
    scheme = address.partition("://")[0]
    return [f"{scheme}://{str(place).lstrip('/')}" for place in sorted(found)]


def text_at(address: str) -> bytes | None:
    """The content of a small file; None if there is none. Raises DataError if it cannot be reached."""
    system, path = opened_system(address)
    try:
        return system.cat_file(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise unreadable(address, error) from None


def opened_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    import fsspec

    scheme = scheme_of(address) or ""
    try:
        return fsspec.core.url_to_fs(scheme + address[len(scheme) :])
    except ImportError:
        raise DataError(f"{scheme}:// needs a package; pip install '{PACKAGES[scheme]}'") from None
    except Exception as error:
        raise unreadable(address, error) from None


def unreadable(address: str, error: Exception) -> DataError:
    why = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return DataError(f"{address} cannot be read ({why[:200]}); check the address, the login and the network")


class Streamed:
    """The bytes of one remote file from its start. Whatever its file system raises is a DataError with the address."""

    def __init__(self, address: str) -> None:
        system, path = opened_system(address)
        self.address, self.status = address, 0
        try:
            self.file = system.open(path, "rb", block_size=BLOCK, cache_type="readahead")
        except FileNotFoundError:
            raise DataError(f"there is no shard {address}; check the address") from None
        except Exception as error:
            raise unreadable(address, error) from None

    def read(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except Exception as error:
            raise unreadable(self.address, error) from None

    def close(self) -> None:
        self.file.close()
