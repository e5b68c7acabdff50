"""Images at http and https addresses: downloaded to memory, within a time and a size.

https://example.org/street.jpg -> bytes
                               -> one sentence: not there, refused, a page instead of an image, too slow, too large
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from http.client import HTTPException
from pathlib import PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import Request, urlopen

from shared.errors import DataError

SCHEMES = ("http://", "https://")
SECONDS = 30.0  # for the whole of a download, and for each answer of the server
LARGEST = 200 << 20  # bytes of a download
PIECE = 1 << 16
PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def is_address(source: object) -> bool:
    return isinstance(source, str) and source.lower().startswith(SCHEMES)


def shown(address: str) -> str:
    """The address for messages and files, without a name and password in it."""
    parts = split(address)
    if parts is None:
        return re.sub("//[^/]*@", "//", address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def split(address: str) -> SplitResult | None:
    """The parts of an address; None if it has no such parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def credentials(address: str) -> str:
    """The name and password of an address in the form of HTTP's basic authentication; '' without."""
    parts = split(address)
    if parts is None or parts.username is None:
        return ""
    return b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()


def file_name(address: str) -> str:
    """A file name for what is there: the last part of the path, 'image' if there is none."""
    parts = split(address)
    name = "" if parts is None else PurePosixPath(unquote(parts.path).replace("\\", "/")).name
    return name if name not in ("", "..") else "image"


def downloaded(address: str, *, seconds: float = SECONDS, largest: int = LARGEST) -> bytes:
    """The bytes at an address; redirections are followed.

    Args:
        seconds: until the download is given up.
        largest: bytes, above which it is given up.

    Raises:
        DataError: in one sentence, whatever went wrong.
    """
    named, until = shown(address), time.monotonic() + seconds
    slow = f"{named} did not arrive within {seconds:g} seconds; try again, or download it and give the file"
    try:
        request = Request(named, headers={"User-Agent": "chordate", "Accept": "image/*"})
        if key := credentials(address):
            request.add_unredirected_header("Authorization", f"Basic {key}")  # for this server alone
        with urlopen(request, timeout=seconds) as answer:
            data = bytearray()
            while piece := answer.read1(PIECE):
                data += piece
                if len(data) > largest:
                    raise DataError(f"{named} is larger than {largest >> 20} MB; download it and give the file")
                if time.monotonic() > until:
                    raise DataError(slow)
            length, kind = answer.headers.get("Content-Length"), answer.headers.get_content_type()
    except HTTPError as error:
        raise DataError(f"{named} answers {error.code} {error.reason}; check the address") from None
    except TimeoutError:
        raise DataError(slow) from None
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise DataError(slow) from None
        raise DataError(f"{named} cannot be reached ({error.reason}); check the address and the connection") from None
    except (OSError, HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
        raise DataError(f"{named} cannot be read ({why}); check the address and the connection") from None
    if length is not None and length.isdigit() and len(data) < int(length):
        raise DataError(f"{named} ended after {len(data):,} of {length} bytes; try again")
    if kind == "text/html" or bytes(data[:64]).lstrip().lower().startswith(PAGE):
        raise DataError(f"{named} is a web page, not an image; give the address of the image itself")
    return bytes(data)
