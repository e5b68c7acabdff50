"""One HTML page of a comparison: a single file without scripts or external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.comparing.differences import Comparison, Difference
from detection.comparing.pictures import Picture
from shared.files import write_aside
from shared.runs.report import page_style

MOST_CLASSES = 40


def write_page(
    path: Path,
    told: Comparison,
    names: tuple[str, str],
    sentence: str,
    recipes: dict[str, Any],
    pictures: Sequence[Picture],
    seen: Mapping[str, Sequence[str]],
) -> None:
    """Write the page. Names of classes, runs and files are escaped by the template.

    Args:
        seen: sentences about what A and B saw in pretraining.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("compare.html.j2").read_text(encoding="utf-8"))
    reach = max((abs(edge) for one in told.classes for edge in edges(one)), default=0) or 1.0
    page = template.render(
        style=page_style(),
        told=told,
        names=names,
        sentence=sentence,
        recipes=recipes,
        pictures=pictures,
        seen=seen,
        classes=[(one, *bar(one, reach)) for one in told.classes[:MOST_CLASSES]],
        left_out=max(len(told.classes) - MOST_CLASSES, 0),
        reach=reach,
        known=lambda value: value == value,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, page)


def edges(one: Difference) -> list[float]:
    """The difference and its bounds, where they are known."""
    return [value for value in (one.difference, one.low, one.high) if value == value]


def bar(one: Difference, reach: float) -> tuple[float, float, float]:
    """Difference and bounds as places from 0 to 200 of a drawing whose middle is no difference."""
    low, high = (one.difference, one.difference) if one.low != one.low else (one.low, one.high)
    place, left, right = (round(100 + 100 * value / reach, 1) for value in (one.difference, low, high))
    return place, left, right
