"""A list in columns has the entries, in the order, that one object for each line had."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.layout import key_of, shared_out, shuffled, unique_keys
from pretrain.packing.listing import Entry, Listed, read_listing, split_listed
from pretrain.packing.pack import cut
from shared.errors import DataError

NAMES = st.sampled_from(
    ["a", "a-2", "a-2-2", "a-3", "b.c", "b_c", ".hidden", "../x", "/y", "./z//a", "café", "n1/n1_2", "n-1/2"]
)
PATHS = st.lists(
    st.tuples(NAMES, st.sampled_from(["jpg", "JPEG", "png", "webp"])).map(".".join),
    min_size=1,
    max_size=40,
    unique=True,
)


def plainly(paths: list[str], labels: list[int], root: Path, val_share: float) -> dict[str, list[Entry]]:
    """What the columns stand for, spelled with one object for each line."""
    inside = [PurePosixPath(*(part for part in path.split("/") if part not in ("", ".", ".."))) for path in paths]
    entries = [
        Entry(path, key, label, str(root / path) if path[0] == "/" else f"{root}/{path}", 0, 0, 0)
        for path, key, label in zip(paths, unique_keys(inside), labels, strict=True)
    ]
    return {split: shuffled(part) for split, part in shared_out(entries, val_share).items()}


@given(paths=PATHS, val_share=st.sampled_from([0.0, 0.3]), size=st.integers(1, 9))
def test_entries_in_columns_are_those_of_objects(
    paths: list[str], val_share: float, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    labels = [n % 3 for n in range(len(paths))]
    (root / "list.txt").write_text("\n".join(f"{path} {label}" for path, label in zip(paths, labels, strict=True)))
    entries, classes, skipped = read_listing(root / "list.txt", None)
    found = split_listed(entries, val_share)
    assert classes == [str(n) for n in range(max(labels) + 1)] and not skipped
    there = {split: [entry._replace(size=0, changed=0) for entry in part] for split, part in found.items()}
    assert there == plainly(paths, labels, root, val_share)
    for split, part in there.items():
        divided = [list(shard) for shard in cut(found[split], size, 10**9)]
        assert [[entry._replace(size=0, changed=0) for entry in shard] for shard in divided] == [
            part[at : at + size] for at in range(0, len(part), size)
        ]


def test_lines_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"12345")
    lines = "\ufeff# comment\na b.jpg\tthe cat \r\n\n  dog.png   dog\nx.bmp dog\nr\udce9.jpg dog\n"
    (tmp_path / "list.txt").write_bytes(lines.encode("utf-8", "surrogateescape"))
    entries, classes, skipped = read_listing(tmp_path / "list.txt", None)
    assert classes == ["dog", "the cat"] and [path for path, _ in skipped] == ["x.bmp"]
    assert [(e.name, e.key, e.label, e.size) for e in entries] == [
        ("a b.jpg", "a b", 1, 5),
        ("dog.png", "dog", 0, 0),
        ("r\udce9.jpg", "r\udce9", 0, 0),
    ]
    assert entries[0].changed == (tmp_path / "a b.jpg").stat().st_mtime_ns
    assert isinstance(entries[1:], Listed)
    assert pickle.loads(pickle.dumps(entries[1:])) == list(entries)[1:]  # noqa: S301, our own bytes


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("1.jpg 0\n2.bmp 0\n\n2.bmp 1\n", "line 4 of .* repeats '2.bmp' of line 2; keep one"),
        ("1.jpg a\n# 1.jpg b\n1.jpg\tb\n", "line 3 of .* repeats '1.jpg' of line 1; keep one"),
        ("x/.jpg 0\n1.jpg 0\n", r"'x/.jpg' in .* is not a jpg, .* file"),
        ("1.jpg 0\nx/.jpg 0\n", r"'x/.jpg' in .* is not a jpg, .* file"),
        ("1.jpg 0\na.b/jpg 0\n", r"'a.b/jpg' in .* is not a jpg, .* file"),
    ],
)
def test_lines_that_cannot_be_meant_are_refused(lines: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(DataError, match=why):
        read_listing(tmp_path / "list.txt", None)


def test_a_key_has_no_dots_and_stays_inside() -> None:
    told = {"a.jpg": "a", "/a/b.c.jpg": "a/b_c", "../a//b.jpg": "a/b", "a.b/c.jpg": "a.b/c", "./a/./b.jpg": "a/b"}
    assert {path: key_of(path) for path in told} == told
