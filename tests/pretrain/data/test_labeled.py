"""Two labeled sets can be compared or are refused, and a choice of them is the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.labeled import Chosen, choose, open_labeled
from pretrain.packing.pack import pack
from shared.errors import BadSample, DataError
from shared.feeding.feed import in_order


def folder(root: Path, **classes: int) -> Path:
    """Class folders of so many images each."""
    for n, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (40 * n, 10 * i, 99)).save(root / name / f"{i}.png")
    return root


def keep(image: Any, rng: Any) -> Any:
    return image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed(place: Path, tmp_path: Path, **options: Any) -> str:
    out = tmp_path / f"shards-{place.name}"
    pack(place, out, **options)
    return str(out)


# --- two sets ---------------------------------------------------------------------------------


def test_shards_and_folders_may_be_mixed_and_classes_keep_their_names(tmp_path: Path) -> None:
    shards = packed(folder(tmp_path / "one", ant=3, bee=3, cat=3), tmp_path)
    some = str(folder(tmp_path / "two", cat=2, bee=1))
    sets = open_labeled(shards, some, keep)
    assert sets.num_classes == 3
    assert sorted(sets.asked.labels.tolist()) == [1, 2, 2]  # bee, cat, cat as the shards count them
    assert [label for _, label in (sets.asked.load(n, None) for n in range(3))] == sets.asked.labels.tolist()
    back = open_labeled(str(tmp_path / "one"), shards, keep)
    assert len(back.known) == len(back.asked) == 9


def test_what_is_set_aside_is_asked_about(tmp_path: Path) -> None:
    place = folder(tmp_path / "in" / "train", a=4, b=4).parent
    folder(place / "val", a=1, b=2)
    for path in (str(place), packed(place, tmp_path)):
        sets = open_labeled(path, None, keep)
        assert (len(sets.known), len(sets.asked)) == (8, 3)
        again = open_labeled(path, path, keep)
        assert len(again.asked) == 3


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_without_images_to_ask_about_it_says_how_to_name_some(kind: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a=4, b=4)
    path = str(place) if kind == "folder" else packed(place, tmp_path)
    with pytest.raises(DataError, match="--val-path"):
        open_labeled(path, None, keep)


@pytest.mark.parametrize(
    ("known", "asked"), [({"a": 2, "b": 2}, {"a": 1, "c": 1}), ({"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 1})]
)
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_classes_that_only_validation_has_are_refused_by_name(
    known: dict, asked: dict, kind: str, tmp_path: Path
) -> None:
    first, second = folder(tmp_path / "first", **known), folder(tmp_path / "second", **asked)
    val = str(second) if kind == "folder" else packed(second, tmp_path)
    with pytest.raises(DataError, match=r"give two data sets with the same classes"):
        open_labeled(packed(first, tmp_path), val, keep)


def test_shards_without_class_names_are_compared_by_number(tmp_path: Path) -> None:
    first, second = (
        packed(folder(tmp_path / "x", a=2, b=2), tmp_path),
        packed(folder(tmp_path / "y", a=1, b=1), tmp_path),
    )
    third = packed(folder(tmp_path / "z", a=1, b=1, c=1), tmp_path)
    for place in (first, second, third):
        (Path(place) / "classes.txt").unlink()
    assert open_labeled(first, second, keep).num_classes == 2
    with pytest.raises(DataError, match="classes that the training images lack: 2;"):
        open_labeled(first, third, keep)


def test_names_and_bare_numbers_are_not_compared(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "x", a=2, b=2), folder(tmp_path / "y", b=2, c=2)
    bare = packed(second, tmp_path)
    (Path(bare) / "classes.txt").unlink()
    for known, asked in ((str(first), bare), (bare, str(first))):
        with pytest.raises(DataError, match=r"put a classes\.txt next to"):
            open_labeled(known, asked, keep)


def test_shards_without_labels_are_refused(tmp_path: Path) -> None:
    import tarfile

    place = folder(tmp_path / "in", a=2)
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as tar:
            tar.add(place / "a" / "0.png", "0.png")
    with pytest.raises(DataError, match="has no classes"):
        open_labeled(f"{tmp_path}", None, keep)


def test_far_away_shards_are_refused() -> None:
    with pytest.raises(DataError, match="copy the shards to a local folder"):
        open_labeled("https://example.org/train-000000.tar", None, keep)


# --- a choice ---------------------------------------------------------------------------------


class Numbers:
    """A data set whose samples are their own numbers."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.sizes, self.labels, self.fingerprint, self.bad = [count], np.arange(count) % 7, "numbers", bad

    def load(self, index: int, rng: Any) -> tuple[Any, int]:
        if index in self.bad:
            raise BadSample(str(index), "bad")
        return torch.tensor(index), int(self.labels[index])

    def collate(self, samples: list) -> Any:
        return torch.stack([a for a, _ in samples]), torch.tensor([b for _, b in samples])


def loaded(samples: Any) -> list[int]:
    return torch.cat([numbers for numbers, _ in in_order(samples, 8)]).tolist()


def test_a_choice_is_of_the_size_asked_for_by_chance_and_the_same_every_time() -> None:
    some = choose(Numbers(1000), 70)
    assert loaded(some) == loaded(choose(Numbers(1000), 70)) == some.indices.tolist()
    assert len(set(loaded(some))) == 70 and some.labels.tolist() == [n % 7 for n in loaded(some)]
    assert len(set(some.labels.tolist())) == 7, "no stride of the data set is followed"
    assert some.fingerprint == choose(Numbers(1000), 70).fingerprint != choose(Numbers(1000), 71).fingerprint


@pytest.mark.parametrize("most", [0, 12, 99])
def test_all_are_chosen_when_none_or_too_many_are_asked_for(most: int) -> None:
    assert loaded(choose(Numbers(12), most)) == list(range(12))


def test_a_limited_run_chooses_from_what_it_uses() -> None:
    from shared.feeding.limit import Limited

    used = set(Limited(Numbers(100), 10).chosen.tolist())  # type: ignore[arg-type]
    assert set(loaded(choose(Numbers(100), 0, limit=10))) == used
    assert set(loaded(choose(Numbers(100), 4, limit=10))) < used


def test_a_bank_steps_over_what_cannot_be_read_and_questions_do_not() -> None:
    indices = np.array([3, 5, 8])
    assert loaded(Chosen(Numbers(10, bad=(5,)), indices, forgiving=True)) == [3, 8, 8]
    assert loaded(Chosen(Numbers(10, bad=(8,)), indices, forgiving=True)) == [3, 5, 3]
    with pytest.raises(DataError, match="5: bad"):
        loaded(Chosen(Numbers(10, bad=(5,)), indices))
    with pytest.raises(DataError, match="bad"):
        loaded(Chosen(Numbers(10, bad=(3, 5, 8)), indices, forgiving=True))


def test_another_view_of_a_choice_shows_the_same_images_and_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    place = folder(tmp_path / "in" / "train", a=4, b=4).parent
    folder(place / "val", a=1, b=1)
    known = choose(open_labeled(str(place), None, keep).known, 5)
    other = known.seen_as(lambda image, rng: 255 - image)
    for n in range(5):
        (first, label), (second, same) = known.load(n, None), other.load(n, None)  # type: ignore[arg-type]
        assert torch.equal(255 - first, second) and label == same
