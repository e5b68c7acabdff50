"""Text from people's files: compared by `folded`, shown by `say`, so that it moves no cursor and starts no line.

printable(text)     control characters, line ends and reversed writing as escapes: 'cat\x1b[2J' -> 'cat\\x1b[2J'
folded(name)        a class name as it is compared with others
plain(name)         a class name by its letters and digits alone, for names of different data sets
say(*lines)         print lines, each made printable, in the encoding of the terminal
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# they turn the direction of the text after them; joiners of Indic and Persian writing, which are Cf too, stay
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
KINDS = frozenset(("Cc", "Cs", "Zl", "Zp"))  # controls, lone surrogates of undecodable names, line and paragraph ends


def printable(text: str) -> str:
    """The text on one line, with everything escaped that a terminal would obey instead of show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(escaped(c) if c in BIDI or unicodedata.category(c) in KINDS else c for c in text)


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def folded(name: str) -> str:
    """A class name without case and blanks: 'Cell phone' and 'cellphone' are equal, 'marker+' and 'marker-' are not."""
    return "".join(name.casefold().split()) or name


def plain(name: str) -> str:
    """A class name by its letters and digits: 'Traffic Light' and 'traffic_light' are equal; '+' stays as it is."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum()) or folded(name)


def say(*lines: object, stream: TextIO | None = None) -> None:
    """Print lines to stdout or a stream; a line end inside one is escaped. What the encoding lacks is escaped too."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        text = printable(str(line)).encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=stream, flush=True)
