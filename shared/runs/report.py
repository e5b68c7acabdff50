"""An HTML report about one or several runs: a single file without scripts or external resources.

    run folder: metrics.jsonl  recipe.yaml  result.json  transfer.json  lineage.json  explained.json  pictures/
                      |             |            |             |             |              |             |
                   curves        details     headline    transfer table    drawing       charts        inlined

Files that a run did not write are skipped. With two runs the first sentence compares them. Text of the data (class
names, tags, paths) is escaped by the template.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import UsageError
from shared.files import write_aside
from shared.runs import charts, curves
from shared.runs.folders import Run, read_runs

log = logging.getLogger(__name__)

MOST_PICTURES = 12
FILES = ("recipe.yaml", "metrics.jsonl", "result.json", "transfer.json", "lineage.json", "pictures")  # any makes a run
MOST_BYTES = 200_000  # a larger picture is compressed again as JPEG


class Node(NamedTuple):
    """One set of weights in the lineage drawing; x and y in pixels."""

    x: int
    y: int
    lines: tuple[str, ...]
    title: str


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    pictures: Sequence[Path] = (),
    title: str = "chordate report",
    smooth: float | None = None,
    skip_first_above: float | None = None,
) -> Path:
    """Write the report about these run folders to `out`, atomically.

    Args:
        pictures: image files to show in addition to each run's `pictures` folder.
        smooth, skip_first_above: see `curves.draw_curves`.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    read = read_runs(runs)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = show_number
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    nodes, arrows = draw_lineage([node for run in read for node in run.lineage])
    page = template.render(
        title=title,
        style=page_style(),
        runs=read,
        verdict=verdict(read),
        panels=[(panel.title, Markup(panel.svg)) for panel in curves.draw_curves(read, smooth, skip_first_above)],
        gallery=gallery(read, pictures),
        explained=[explained(run, number) for number, run in enumerate(read) if run.explained],
        nodes=nodes,
        arrows=arrows,
        lineage_size=(max((n.x for n in nodes), default=0) + 220, max((n.y for n in nodes), default=0) + 90),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_aside(out, page)
    return out


def page_style() -> Any:
    """The style sheet of reports, to stand in a page."""
    from markupsafe import Markup

    return Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def check_runs(folders: Sequence[Path]) -> None:
    """Raise UsageError if a folder is no run, or no run has anything to show."""
    for folder in folders:
        if not any((folder / file).exists() for file in FILES):
            named = ", ".join(FILES[:3])
            raise UsageError(f"{folder} is not a run folder: it has no {named}; give one, such as runs/NAME")
    if not any(run.rows or run.result or run.transfer or run.pictures for run in read_runs(folders)):
        raise UsageError(
            f"{' and '.join(map(str, folders))} has no metrics, results or pictures yet, so there is nothing to "
            f"report; train it first, or continue it with --resume"
        )


# --- headline -----------------------------------------------------------------------------------


def verdict(runs: Sequence[Run]) -> str:
    """A sentence that compares two runs; empty for any other number of runs.

    It is about the run that started from a tag, or about the second if both or neither did.
    """
    if len(runs) != 2:
        return ""
    ours, other = (runs[0], runs[1]) if runs[0].transfer and not runs[1].transfer else (runs[1], runs[0])
    who = f"The run from tag '{ours.transfer.get('tag', '?')}'" if ours.transfer and not other.transfer else "The run"
    name = ours.headline() or ""
    value, against = ours.metrics().get(name), other.metrics().get(name)
    if value is None or against is None:
        return f"'{ours.name}' and '{other.name}' cannot be compared: they have no common metric."
    figures = f"{name} {show_number(value)} against {show_number(against)}"
    by = show_number(abs(value - against))
    if value > against:
        sentence = f"{who} ('{ours.name}') is ahead of '{other.name}' by {by}: {figures}."
    elif value == against:
        sentence = f"{who} ('{ours.name}') is not ahead of '{other.name}': both have {name} {show_number(value)}."
    else:
        sentence = f"{who} ('{ours.name}') is not ahead of '{other.name}', it is behind by {by}: {figures}."
    unfinished = [f"'{run.name}'" for run in runs if not run.result.get("finished")]
    return sentence + (f" Not finished: {' and '.join(unfinished)}." if unfinished else "")


def show_number(value: Any) -> str:
    """0.41237 -> 0.412, 23512130 -> 23,512,130, None -> n/a; other values unchanged."""
    if value is None:
        return "n/a"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if 0 < abs(value) < 0.1 and abs(value) >= 1e-3 else f"{value:.3g}"
    return str(value)


# --- why ----------------------------------------------------------------------------------------


class Why(NamedTuple):
    """What explains the result of a run."""

    run: Run
    tiles: list[tuple[str, float | None, Any]]  # metric, value, its interval or None
    sentence: str
    charts: list[charts.Drawn]
    mistakes: list[tuple[str, str, str]]  # picture as a data URI, its name, its caption


def explained(run: Run, number: int) -> Why:
    """The section that explains the result of the run with this number on the page."""
    told, shown = run.explained, []
    for picture in told.get("pictures") or []:
        try:
            uri = inline_picture(inside(run.folder, str(picture["file"])))
            shown.append((uri, str(picture["name"]), str(picture["caption"])))
        except (OSError, KeyError, TypeError) as error:
            log.warning("a picture of %s is not in the report: %s", run.name, error)
    intervals = (run.result.get("intervals") or {}).get("bounds") or {}
    tiles = [(name, value, intervals.get(name)) for name, value in run.metrics().items()]
    drawn = charts.draw_charts(told.get("charts") or [], f"why{number}")
    return Why(run, tiles, str(told.get("sentence", "")), drawn, shown)


def inside(folder: Path, name: str) -> Path:
    """A file of the folder. Raises OSError for a name that leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"{name} is not in {folder}")
    return path


# --- pictures -----------------------------------------------------------------------------------


def gallery(runs: Sequence[Run], more: Sequence[Path]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures with the same name from different runs, side by side -> [(name, [(run, data URI)])]."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    everything = [(run.name, path) for run in runs for path in run.pictures[:MOST_PICTURES]]
    for run, path in [*everything, *(("", path) for path in more)]:
        try:
            by_name.setdefault(path.stem, []).append((run, inline_picture(path)))
        except OSError as error:
            log.warning("%s is not in the report: %s", path, error)
    return [(name, pictures) for name, pictures in by_name.items() if pictures]


def inline_picture(path: Path) -> str:
    """The picture as a data URI; large files are scaled to about 1000 pixels."""
    content = path.read_bytes()
    kind = "png" if path.suffix.lower() == ".png" else "jpeg"
    if len(content) > MOST_BYTES:
        from PIL import Image

        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as picture:
            small = picture.convert("RGB")
            small.thumbnail((1000, 1000))
            small.save(buffer, "JPEG", quality=85)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# --- lineage ------------------------------------------------------------------------------------


def draw_lineage(cards: Sequence[dict[str, Any]]) -> tuple[list[Node], list[tuple[int, int, int, int]]]:
    """Cards -> boxes, parents left of their children, and arrows (x0, y0, x1, y1) between them."""
    known = {str(card["digest"]): card for card in cards}
    columns: dict[int, int] = {}
    places: dict[str, Node] = {}
    for digest, card in sorted(
        known.items(), key=lambda item: (generation(item[0], known), str(item[1].get("created")))
    ):
        column = generation(digest, known)
        row = columns[column] = columns.get(column, -1) + 1
        metric = next(iter((card.get("metrics") or {}).items()), None)
        lines = (
            shorten(str(card.get("arch", "?"))),
            shorten(" / ".join(dict.fromkeys(str(card[key]) for key in ("tag", "method") if card.get(key)))),
            shorten(digest[:10] + (f"  {metric[0]} {show_number(metric[1])}" if metric else "")),
        )
        title = ", ".join(f"{key} {card[key]}" for key in ("arch", "tag", "method", "data", "created") if card.get(key))
        places[digest] = Node(10 + column * 250, 10 + row * 95, lines, f"{title}, {digest}")
    arrows = [
        (places[parent].x + 200, places[parent].y + 36, places[digest].x - 4, places[digest].y + 36)
        for digest, card in known.items()
        for parent in map(str, card.get("parents") or [])
        if parent in places
    ]
    return list(places.values()), arrows


def generation(digest: str, known: dict[str, dict[str, Any]], seen: frozenset[str] = frozenset()) -> int:
    """Number of known ancestors in the longest chain. A cycle, which only an edited card can have, ends the count."""
    parents = [str(parent) for parent in known[digest].get("parents") or []]
    older = [parent for parent in parents if parent in known and parent not in seen and parent != digest]
    return 1 + max(generation(parent, known, seen | {digest}) for parent in older) if older else 0


def shorten(text: str, most: int = 27) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
