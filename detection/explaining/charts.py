"""An explanation of an AP as the charts of a report (`explained.json`; the kinds are those of `shared.runs.charts`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detection.explaining.explanation import RECALLS, Explanation

MOST_BARS = 40  # classes
MOST_CURVES = 8
MOST_IN_MATRIX = 20
MOST_PAIRS = 25
BACKGROUND, MISSED = "(background)", "(missed)"


def explained_json(told: Explanation, pictures: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What `explained.json` holds.

    Args:
        pictures: of the photographs with most mistakes.
    """
    score = f"{told.score:.2f}"
    sentence = (
        f"F1 over all classes is best, {told.f1:.3f}, for detections that score {score} or more: "
        f"{told.precision:.1%} of them are right, and {told.recall:.1%} of the objects are found (IoU 0.5)."
    )
    charts = [per_class(told), curves(told), confusion(told, score), sizes(told, score)]
    return {"sentence": sentence, "charts": [chart for chart in charts if chart], "pictures": [*pictures]}


def per_class(told: Explanation) -> dict[str, Any]:
    """AP of each class with objects, the best first; of the most frequent ones if they are too many."""
    present = [each for each in told.classes if each["objects"]]
    shown = sorted(present[:MOST_BARS], key=lambda each: -(each["ap"] or 0))
    left = len(present) - len(shown)
    return {
        "kind": "bars",
        "title": "AP by class",
        "note": f"objects in brackets{f'; the {MOST_BARS} most frequent of {len(present)} classes' if left else ''}",
        "labels": [each["name"] for each in shown],
        "values": [each["ap"] for each in shown],
        "counts": [each["objects"] for each in shown],
    }


def curves(told: Explanation) -> dict[str, Any]:
    """Precision against recall: the mean of the classes, and the most frequent ones."""
    names = [each["name"] for each in told.classes if each["name"] in told.curves][:MOST_CURVES]
    series = {"mean of classes": told.curves.get("", []), **{name: told.curves[name] for name in names}}
    if len(names) < 2:
        del series["mean of classes"]
    return {
        "kind": "lines",
        "title": "Precision against recall, IoU 0.5",
        "x": RECALLS.tolist(),
        "series": series,
        "xlabel": "recall",
        "ylabel": "precision",
    }


def confusion(told: Explanation, score: str) -> dict[str, Any]:
    """What objects were taken for: a table of the most frequent classes, or the most frequent confusions if they are
    many."""
    names = [each["name"] for each in told.classes if each["objects"]]
    if len(names) > MOST_IN_MATRIX:
        return confused_pairs(told, score)
    found = dict.fromkeys(name for _, name, _ in told.confusions if name is not None)
    names += [name for name in found if name not in names]
    counts = {(true, name): count for true, name, count in told.confusions}
    rows: list[str | None] = [*names, None]
    table = [[counts.get((true, name), 0) for name in rows] for true in rows]
    return {
        "kind": "matrix",
        "title": "What objects were taken for",
        "note": f"at score {score}; the last row is found where nothing is, the last column is missed",
        "rows": [*names, BACKGROUND],
        "columns": [*names, MISSED],
        "counts": table,
        "ylabel": "true class",
        "xlabel": "found as",
    }


def confused_pairs(told: Explanation, score: str) -> dict[str, Any]:
    """The most frequent confusions of two classes, as shares of the true one's objects."""
    objects = {each["name"]: each["objects"] for each in told.classes}
    wrong = [(t, f, n) for t, f, n in told.confusions if t is not None and f is not None and t != f][:MOST_PAIRS]
    if not wrong:
        return {}
    return {
        "kind": "bars",
        "title": "Most frequent confusions of classes",
        "note": f"at score {score}; share of the true class's objects, their number in brackets",
        "labels": [f"{true} as {found}" for true, found, _ in wrong],
        "values": [count / max(1, objects[true]) for true, _, count in wrong],
        "counts": [count for _, _, count in wrong],
    }


def sizes(told: Explanation, score: str) -> dict[str, Any]:
    """Objects by size, and the share that was found."""
    ends = [str(low) for low, _, _ in told.sizes[1:]] + [""]
    labels = [f"{low} to {high}" if high else f"{low}+" for (low, _, _), high in zip(told.sizes, ends, strict=True)]
    return {
        "kind": "bins",
        "title": "Sizes of objects, and how many were found",
        "note": f"square root of the area in pixels of the image; recall at score {score}, IoU 0.5",
        "labels": labels,
        "counts": [objects for _, objects, _ in told.sizes],
        "shares": [found / objects if objects else None for _, objects, found in told.sizes],
        "ylabel": "objects",
        "xlabel": "pixels",
        "sharelabel": "recall",
    }
