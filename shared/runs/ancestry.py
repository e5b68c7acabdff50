"""`lineage` and `verify`, of both programs: where weights come from, and whether their files are as they were written.

    lineage TAG|RUN    the export and its ancestors: method, data, metrics, license, source; as text, and drawn
    verify TAG|RUN     the digest of every card, of all weights and of the digests of images -> what was altered, exit 4

Imports no torch at the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import WeightsError, plural
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.text import say

if TYPE_CHECKING:
    from shared.weights.card import Exported

BOX, GAP, LINE = (280, 122), (50, 22), 19  # pixels of a box, between boxes, and of a line of text


def commands(program: str) -> dict[str, Command]:
    """The two commands, for the COMMANDS of a program."""
    return {
        "lineage": Command(
            "where weights come from: ancestors, data, licenses", partial(lineage, program), partial(flags, program)
        ),
        "verify": Command(
            "whether the files of weights and of their ancestors are as they were written",
            partial(verify, program),
            partial(flags, program, drawn=False),
        ),
    }


def flags(program: str, *, drawn: bool = True) -> Parser:
    what = "Show where weights come from." if drawn else "Recompute the digests of weights and of their ancestors."
    parser = Parser(prog=f"{program} {'lineage' if drawn else 'verify'}", description=what)
    parser.add_argument("weights", help="a tag, tag@digest, arch/tag, an export folder or a run folder")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    if drawn:
        parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw it, to this file")
    return parser


def lineage(program: str, argv: list[str]) -> int:
    args = flags(program).parse_exactly(argv)
    from shared.files import write_aside
    from shared.weights.store import Store

    nodes = Store(args.weights_dir).lineage(find(args.weights, args.weights_dir))
    say(*as_text(nodes))
    if args.svg is not None:
        write_aside(args.svg, as_svg(nodes))
        say(f"drawn to {args.svg}")
    return 0


def verify(program: str, argv: list[str]) -> int:
    args = flags(program, drawn=False).parse_exactly(argv)
    from shared.weights.store import Store

    exported, store = find(args.weights, args.weights_dir), Store(args.weights_dir)
    altered: list[str] = []
    for node in store.lineage(exported):
        place = exported.path if node["digest"] == exported.digest else store.place_of(node)
        name = f"{node['arch']} {node['tag']}@{node['digest'][:6]}"
        if not place.is_dir():
            say(f"{name}: not in {store.root}, so not verified")
            continue
        wrong = list(wrong_in(place, node["digest"]))
        say(f"{name}: {'; '.join(wrong) or 'as it was written'} ({place})")
        altered += wrong
    if altered:
        raise WeightsError(f"{plural(len(altered), 'file')} altered: {altered[0]}; copy or export these weights again")
    return 0


def find(reference: str, root: Path) -> Exported:
    """The export of a tag, arch/tag, export folder or run folder. Raises WeightsError."""
    from shared.weights.moved import at_path
    from shared.weights.store import Store

    named = at_path(Path(reference), root)
    if named is not None:
        return named
    arch, _, tag = reference.rpartition("/")
    return Store(root).find(arch or None, tag)


def wrong_in(place: Path, digest: str) -> Iterator[str]:
    """What is not as it was written in the folder of an export, as sentences."""
    from shared.files import file_digest
    from shared.weights.card import digest_of, read_card

    if (place / "card.json").is_file() and digest_of(place / "card.json") != digest:
        yield f"{place / 'card.json'} was changed, so what it says of the other files is not believed"
        return
    try:
        card = read_card(place, digest)
    except WeightsError as error:
        yield str(error).partition(";")[0]
        return
    expected = {"model.safetensors": card.sha256, **{entry["file"]: entry["sha256"] for entry in card.seen}}
    for name, sha256 in expected.items():
        path = place / name
        if not path.is_file():
            yield f"{path} is missing"
        elif file_digest(path) != sha256:
            yield f"{path} was changed: its sha256 is not that on the card"


# --- as text and as a drawing ------------------------------------------------------------------


def as_text(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """The export, and its ancestors below it, further to the right the older."""
    known = {node["digest"]: node for node in nodes}
    lines: list[str] = []

    def add(digest: str, depth: int, above: frozenset[str]) -> None:
        node, margin = known[digest], "    " * depth
        title, *facts = facts_of(node)
        lines.append(f"{margin}{'from ' if depth else ''}{title}")
        lines.extend(f"{margin}  {fact}" for fact in facts)
        for parent in node["parents"]:
            if parent in known and parent not in above:  # only an edited card has a circle
                add(parent, depth + 1, above | {parent})

    add(nodes[0]["digest"], 0, frozenset({nodes[0]["digest"]}))
    return lines


def facts_of(node: dict[str, Any]) -> list[str]:
    """A title, and what is known, a line each."""
    from shared.logs.metrics import show_metric

    title = f"{node['arch']} {node['tag']}@{node['digest'][:6]}"
    data = node["data"]
    if isinstance(data, str):  # not in this store
        return [title, data]
    if data:
        data = f"{data.get('path', '?')}, {plural(int(data.get('samples', 0)), 'image')}"
    source = node.get("source") or {}
    came = ", ".join(str(source[key]) for key in ("published", "told", "file") if source.get(key))
    metrics = [f"{name} {show_metric(value)}" for name, value in list(node["metrics"].items())[:2] if value is not None]
    facts = {
        "method": node["method"],
        "data": data or None,
        "source": came or None,
        "metrics": ", ".join(metrics) or None,
        "license": node.get("licence") or "not given",
    }
    return [title, *(f"{name:<8} {value}" for name, value in facts.items() if value)]


def as_svg(nodes: Sequence[dict[str, Any]]) -> str:
    """A drawing for any browser: ancestors left of what was made from them, arrows between."""
    from shared.runs.report import generation

    known = {node["digest"]: node for node in nodes}
    places: dict[str, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    for digest in reversed(known):
        column = generation(digest, known)
        rows[column] = rows.get(column, -1) + 1
        places[digest] = (GAP[0] + column * (BOX[0] + GAP[0]), GAP[1] + rows[column] * (BOX[1] + GAP[1]))
    width = max(x for x, _ in places.values()) + BOX[0] + GAP[0]
    height = max(y for _, y in places.values()) + BOX[1] + GAP[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222"><title>Lineage of the weights</title>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for digest, node in known.items():
        x, y = places[digest]
        for parent in node["parents"]:
            if parent in places:
                x0, y0 = places[parent][0] + BOX[0], places[parent][1] + BOX[1] // 2
                bend = f"M{x0} {y0} C{x0 + 25} {y0} {x - 30} {y + BOX[1] // 2} {x - 6} {y + BOX[1] // 2}"
                parts.append(f'<path d="{bend}" fill="none" stroke="#777" stroke-width="1.5"/>')
                tip = f"M{x - 8} {y + BOX[1] // 2 - 4} l8 4 l-8 4 z"
                parts.append(f'<path d="{tip}" fill="#777"/>')
        size = f'x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="8"'
        parts.append(f'<g><title>{escape(digest)}</title><rect {size} fill="#f4f4f4" stroke="#bbb"/>')
        for number, line in enumerate(facts_of(node)):
            weight = ' font-weight="600"' if number == 0 else ""
            parts.append(f'<text x="{x + 12}" y="{y + 22 + LINE * number}"{weight}>{escape(shortened(line))}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def shortened(text: str, most: int = 42) -> str:
    """A text that fits into a box; of a long one, its end, where paths differ."""
    return text if len(text) <= most else f"{text[:9]}...{text[12 - most :]}"
