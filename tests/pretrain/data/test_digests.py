"""Digests beside shards: marks from packing, fingerprints on request, in the order of the images."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pretrain.cli import main
from pretrain.data.digests import read_digests, seen_in
from pretrain.data.shard_index import open_index
from pretrain.data.shards import ShardSet, find_shards
from pretrain.recipe import PretrainRecipe
from pretrain.training.train import seen_by
from shared.feeding.headers import Picture, read_headers
from shared.feeding.limit import limited
from tests.shared.feeding.of_pictures import jpeg, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n in range(7):
        path = tmp_path / "photos" / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture(n)))
    return tmp_path / "photos"


def packed(photos: Path, *flags: str) -> Path:
    out = photos.parent / f"shards{len(flags)}"
    assert main(["pack", str(photos), str(out), "--shard-size", "4", "--jobs", "1", *flags]) == 0
    return out


def rows_of(out: Path) -> list[np.ndarray | None]:
    return [read_digests(Path(shard), open_index(Path(shard))) for shard in find_shards(out, None)]


def test_packing_writes_the_marks_that_files_have_elsewhere(photos: Path) -> None:
    out = packed(photos)
    found = np.concatenate([rows for rows in rows_of(out) if rows is not None])
    files = sorted(photos.rglob("*.jpg"))
    assert found.shape == (7, 1)
    assert set(found[:, 0].tolist()) == set(read_headers([Picture(file) for file in files]).marks.tolist())


def test_fingerprints_come_with_packing_or_later_and_are_the_same(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once, later = packed(photos, "--fingerprints"), packed(photos)
    capsys.readouterr()
    assert main(["fingerprint", str(later), "--jobs", "2"]) == 0
    assert "7 images of 2 shards have fingerprints\n" in capsys.readouterr().out
    for first, second in zip(rows_of(at_once), rows_of(later), strict=True):
        assert first is not None and second is not None
        assert first.shape[1] == 4 and first.all() and (first == second).all()
    assert main(["fingerprint", str(at_once)]) == 0
    assert "2 shards had them already" in capsys.readouterr().out


def test_without_shards_those_of_the_demo_data_get_fingerprints(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = packed(photos)
    monkeypatch.setattr("shared.feeding.demo.demo_data", lambda _: SimpleNamespace(shards=out))
    assert main(["fingerprint"]) == 0
    assert "using the built-in demo data" in capsys.readouterr().out
    assert all(rows is not None and rows.shape[1] == 4 for rows in rows_of(out))


def test_a_subset_has_the_digests_of_its_images(photos: Path) -> None:
    samples = ShardSet(find_shards(packed(photos, "--fingerprints"), "train"), lambda image, rng: image)
    everything, some = seen_in(samples), seen_in(limited(samples, 3))
    assert everything is not None and some is not None
    assert everything.shape == (7, 4) and some.shape == (3, 4)
    assert set(map(tuple, some.tolist())) <= set(map(tuple, everything.tolist()))


def test_shards_without_digests_are_trained_on_and_it_is_said(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = packed(photos)
    for place in out.glob("*.digests-*.npy"):
        place.unlink()
    with caplog.at_level(logging.INFO):
        assert seen_in(ShardSet(find_shards(out, "train"), lambda image, rng: image)) is None
    assert f"`pretrain fingerprint {out}` writes them" in caplog.text


def test_the_demo_data_has_digests_if_it_was_given_some_and_is_silent_otherwise(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, recipe = packed(photos, "--fingerprints"), PretrainRecipe()
    assert recipe.data.data_path is None
    samples = ShardSet(find_shards(out, "train"), lambda image, rng: image)
    run = tmp_path / "run"
    run.mkdir()
    record = seen_by(recipe, "digits", samples, [], run)
    assert record is not None
    assert [(entry.images, entry.fingerprints) for entry in record.entries] == [(7, 7)]
    for place in out.glob("*.digests-*.npy"):
        place.unlink()
    with caplog.at_level(logging.INFO):
        assert seen_by(recipe, "digits", samples, [], run) is None
    assert "nobody can check later" not in caplog.text


def test_an_image_that_cannot_be_decoded_has_a_mark_and_no_fingerprint(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a" / "0.jpg").read_bytes()
    (photos / "a" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    out = packed(photos)
    assert main(["fingerprint", str(out)]) == 0
    assert "1 without a fingerprint" in capsys.readouterr().out
    rows = np.concatenate([rows for rows in rows_of(out) if rows is not None])
    assert rows[:, 0].all() and (~rows[:, 1:].any(axis=1)).sum() == 1


def test_streamed_shards_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fingerprint", "http://127.0.0.1:9/a.tar"]) == 2
    assert "copy them to a local folder first" in capsys.readouterr().err
