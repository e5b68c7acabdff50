"""A name is written once, above what it builds; an unknown one is answered with the nearest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.recipes.registry import Registry, suggest


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A folder of two pages that offer three shapes."""
    folder = tmp_path / "shapes_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from shared.recipes.registry import Registry\nshape = Registry('shape', 'shapes_of_a_test')\n"
    )
    (folder / "round.py").write_text(
        "from shapes_of_a_test import shape\n"
        "@shape('circle')\ndef circle(where, *, radius=1.0): return ('circle', where, radius)\n"
    )
    (folder / "edged.py").write_text(
        "from shapes_of_a_test import shape\n"
        "@shape('square')\ndef square(where): return ('square', where)\n"
        "@shape('star')\ndef star(where, *, points=5, tilt=0): return ('star', where, points, tilt)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("shapes_of_a_test")]:
        monkeypatch.delitem(sys.modules, name)
    import importlib

    return importlib.import_module("shapes_of_a_test").shape


def test_a_file_in_the_folder_is_on_offer_without_being_listed(shapes: Registry) -> None:
    assert shapes.names() == ["circle", "square", "star"]


def test_options_are_the_keyword_only_parameters(shapes: Registry) -> None:
    assert shapes.build("circle", "here", radius=2.0) == ("circle", "here", 2.0)
    assert list(shapes.options("star")) == ["points", "tilt"]
    assert list(shapes.options("square")) == []


def test_what_is_like_another_takes_its_options_too(shapes: Registry) -> None:
    @shapes("comet", like="star")
    def comet(where: str, *, tail: int = 3, tilt: int = 9, **options: int) -> tuple:
        """A comet: a star with a tail."""
        return where, tail, tilt, options

    assert {n: p.default for n, p in shapes.options("comet").items()} == {"points": 5, "tilt": 9, "tail": 3}
    assert shapes.build("comet", "here", points=4, tail=1) == ("here", 1, 9, {"points": 4})
    with pytest.raises(UsageError, match="did you mean 'points'"):
        shapes.build("comet", "here", pointz=4)


def test_unknown_name_is_answered_with_the_nearest(shapes: Registry) -> None:
    with pytest.raises(UsageError, match="no shape 'circl', did you mean 'circle'.; `list` shows all 3"):
        shapes.build("circl", "here")


def test_unknown_option_is_answered_with_the_nearest_and_with_all(shapes: Registry) -> None:
    with pytest.raises(
        UsageError, match="shape 'star' has no option 'point', did you mean 'points'.; it has points, tilt"
    ):
        shapes.build("star", "here", point=6)
    with pytest.raises(UsageError, match="it has none"):
        shapes.check("square", {"side": 2})


def test_two_of_one_name_are_refused(shapes: Registry) -> None:
    shapes.names()
    with pytest.raises(ValueError, match="two shapes are called 'circle'"):
        shapes("circle")(lambda where: where)


def test_names_beyond_the_folder_are_found_by_the_fallback(shapes: Registry) -> None:
    shapes.otherwise(lambda name: (lambda where: (name, where)) if name.startswith("any-") else None)
    assert shapes.build("any-thing", "here") == ("any-thing", "here")
    assert "any-thing" not in shapes.names()
    with pytest.raises(UsageError, match="no shape 'some-thing'"):
        shapes.build("some-thing", "here")


def test_suggestions_keep_quiet_about_far_words() -> None:
    assert suggest("fcoss", ["fcos", "detr"]) == ", did you mean 'fcos'?"
    assert suggest("zebra", ["fcos", "detr"]) == ""


def test_what_is_known_beside_a_name_is_told_without_building() -> None:
    things: Registry = Registry("thing", "json")
    things("lamp", watts=40)(lambda: pytest.fail("nothing is built"))
    assert things.facts("lamp") == {"watts": 40}
    with pytest.raises(UsageError, match="no thing 'lamb', did you mean 'lamp'"):
        things.facts("lamb")
