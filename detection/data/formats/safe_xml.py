"""XML of other people, read without what XML can do beyond holding data: a document type or an entity is refused.

file -> expat, which calls `refuse` at <!DOCTYPE or <!ENTITY -> Element

Entities can name other files and addresses, or grow to any size; label files have none. The parser itself is asked, so
that no encoding hides them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from shared.errors import DataError

DEEPEST = 100  # elements within elements; label files have about six


def read_xml(path: Path, root: str) -> Element:
    """The root element of an XML file.

    Args:
        root: the name that it must have.

    Raises:
        DataError: the file cannot be read, is damaged, has a document type, or another root.
    """

    def refuse(*_: Any) -> Any:
        raise DataError(f"{path} declares a document type or an entity, which label files have not; remove it")

    tree, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise DataError(f"{path} has elements {depth} deep, which label files have not; give another file")
        tree.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        tree.end(name)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, tree.data
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error}); check the path") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"{path} is not readable XML ({error}); it may be damaged or truncated") from None
    element = tree.close()
    if element.tag != root:
        raise DataError(f"{path} is not what it is read as: it has <{element.tag}> where <{root}> belongs; remove it")
    return element


def text_of(element: Element, name: str) -> str | None:
    """The text of a child, without blanks around it; None without such a child."""
    child = element.find(name)
    return None if child is None else (child.text or "").strip()
