"""`pretrain doctor` names exactly what is wrong with shards, accuses nothing clean, and writes nothing beside them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.cli import main
from pretrain.data.shard_index import open_index
from pretrain.doctor.kinds import KINDS
from pretrain.training.commands import resolve
from shared.runs import self_test

NAMES = ["kite", "traffic cone", "boat"]
Files = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORDATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def samples(first: int, count: int, seed: int = 0) -> Files:
    return [
        file
        for n in range(first, first + count)
        for file in ((f"{n:04d}.jpg", picture(seed + n)), (f"{n:04d}.cls", str(n % 3).encode()))
    ]


def write_tar(path: Path, files: Files) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


class Shards:
    """Two training shards of six images and a validation shard of three, with class names."""

    def __init__(self, root: Path) -> None:
        self.root, self.names = root, list(NAMES)
        self.first, self.second, self.val = samples(0, 6), samples(6, 6), samples(0, 3, seed=500)

    def write(self) -> None:
        self.root.mkdir()
        (self.root / "classes.txt").write_text("".join(f"{name}\n" for name in self.names))
        for name, files in (("train-000000", self.first), ("train-000001", self.second), ("val-000000", self.val)):
            write_tar(self.root / f"{name}.tar", files)


def examined(root: Path, *flags: str) -> tuple[int, set[str]]:
    told = root.parent / "told.json"
    told.unlink(missing_ok=True)
    code = main(["doctor", str(root), "--json", str(told), *flags])
    findings = json.loads(told.read_text())["findings"]
    return code, {one["kind"] for one in findings if one["level"] != "note"}


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}


# --- before the shards are written ------------------------------------------------------------------


def as_made(shards: Shards) -> None:
    pass


def without_classes(shards: Shards) -> None:
    for name in ("first", "second", "val"):
        setattr(shards, name, [file for file in getattr(shards, name) if not file[0].endswith(".cls")])


def other_members(shards: Shards) -> None:
    shards.first = [file for n in range(6) for file in (*shards.first[2 * n : 2 * n + 2], (f"{n:04d}.json", b"{}"))]


def a_dot_in_a_key(shards: Shards) -> None:
    shards.first[0] = ("a.1.jpg", shards.first[0][1])


def an_image_without_a_class(shards: Shards) -> None:
    del shards.first[1]


def a_class_without_an_image(shards: Shards) -> None:
    del shards.first[0]


def a_class_that_is_a_word(shards: Shards) -> None:
    shards.first[1] = (shards.first[1][0], b"kite")


def a_class_outside_the_names(shards: Shards) -> None:
    shards.first[1] = (shards.first[1][0], b"7")


def a_shard_without_classes(shards: Shards) -> None:
    shards.second = [file for file in shards.second if not file[0].endswith(".cls")]


def a_name_listed_twice(shards: Shards) -> None:
    shards.names[2] = "Kite"


def a_name_without_images(shards: Shards) -> None:
    shards.names.append("zebra")


def an_image_that_is_text(shards: Shards) -> None:
    shards.first[0] = (shards.first[0][0], b"no picture")


def an_image_cut_off(shards: Shards) -> None:
    name, content = shards.first[0]
    shards.first[0] = (name, content[: len(content) // 2])


def an_image_that_comes_twice(shards: Shards) -> None:
    shards.second[0] = (shards.second[0][0], shards.first[0][1])


def an_image_of_both_splits(shards: Shards) -> None:
    shards.val[0] = (shards.val[0][0], shards.first[0][1])


def a_key_of_two_shards(shards: Shards) -> None:
    shards.second[0:2] = [(shards.first[0][0], shards.second[0][1]), (shards.first[1][0], b"0")]


def a_class_of_validation_alone(shards: Shards) -> None:
    shards.first, shards.second = (
        [file for n in range(0, 12, 2) if part[n + 1][1] != b"1" for file in part[n : n + 2]]
        for part in (shards.first, shards.second)
    )
    shards.names = []


CLEAN: list[Callable[[Shards], None]] = [as_made, without_classes, other_members]
SPOILT: dict[Callable[[Shards], None], set[str]] = {
    a_dot_in_a_key: {"shard-content"},
    an_image_without_a_class: {"shard-content"},
    a_class_without_an_image: {"shard-content"},
    a_class_that_is_a_word: {"shard-content"},
    a_class_outside_the_names: {"class-outside"},
    a_shard_without_classes: {"labels-of-some"},
    a_name_listed_twice: {"classes-file"},
    a_name_without_images: {"class-without-images"},
    an_image_that_is_text: {"image-unreadable"},
    an_image_cut_off: {"image-unreadable"},
    an_image_that_comes_twice: {"image-twice"},
    an_image_of_both_splits: {"overlap"},
    a_key_of_two_shards: {"key-twice"},
    a_class_of_validation_alone: {"class-not-in-training", "class-without-images"},
}


@pytest.mark.parametrize("change", CLEAN, ids=lambda change: change.__name__)
def test_clean_shards_are_not_accused_and_get_no_index(change: Callable, tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards")
    change(shards)
    shards.write()
    before = digests(shards.root)
    assert examined(shards.root, "--strict", "--pixels", "--verify-shards") == (0, set())
    assert digests(shards.root) == before


@pytest.mark.parametrize("change", SPOILT, ids=lambda change: change.__name__)
def test_spoilt_shards_are_named_exactly(change: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = Shards(tmp_path / "shards")
    change(shards)
    shards.write()
    before, wrong = digests(shards.root), SPOILT[change]
    code, kinds = examined(shards.root, "--pixels")
    out = capsys.readouterr().out
    assert kinds == wrong, out
    assert code == (3 if any(KINDS[kind].level == "error" for kind in wrong) else 0)
    assert digests(shards.root) == before and all(f"  {kind}  " in out for kind in wrong)


def test_a_shard_that_is_cut_off_and_one_that_was_changed_are_named(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards")
    shards.write()
    first, second = (shards.root / f"train-00000{n}.tar" for n in (0, 1))
    open_index(second)
    content = bytearray(second.read_bytes())
    content[0:1] = b"9"  # another name in the first header
    second.write_bytes(content)
    first.write_bytes(first.read_bytes()[:3000])
    code, kinds = examined(shards.root)
    assert code == 3 and kinds == {"shard-damaged", "shard-changed"}


def test_a_changed_byte_of_a_picture_is_found_with_verify(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards")
    shards.write()
    second = shards.root / "train-000001.tar"
    index = open_index(second)
    content = bytearray(second.read_bytes())
    content[int(index.offsets[-1] + index.sizes[-1]) - 20] ^= 1
    second.write_bytes(content)
    assert "shard-changed" in examined(shards.root, "--verify-shards")[1]


def test_another_order_of_classes_in_validation_is_said(tmp_path: Path) -> None:
    shards, other = Shards(tmp_path / "shards"), Shards(tmp_path / "other")
    other.names.reverse()
    other.first, other.second = samples(0, 6, seed=700), samples(6, 6, seed=700)
    shards.write()
    other.write()
    assert examined(shards.root, "--val-path", str(other.root)) == (0, {"class-order"})


def test_an_unfinished_packing_beside_the_shards_is_said(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards")
    shards.write()
    (tmp_path / ".shards.partial").mkdir()
    assert examined(shards.root) == (0, {"unfinished"})
    assert examined(shards.root, "--strict")[0] == 3


def test_every_kind_is_tried() -> None:
    tried = {kind for wrong in SPOILT.values() for kind in wrong}
    tried |= {"shard-damaged", "shard-changed", "class-order", "unfinished"}
    assert KINDS.keys() - tried == {kind for kind, about in KINDS.items() if about.level == "note"}


def test_what_is_no_shard_is_refused_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 3
    assert "contains no .tar shards" in capsys.readouterr().err
    assert main(["doctor", "https://example.org/a.tar"]) == 3
    assert "is remote" in capsys.readouterr().err


@pytest.mark.slow
def test_a_classifier_learns_a_few_images_of_shards_that_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(tmp_path / "shards")
    shards.write()
    before, asked = digests(shards.root), []
    monkeypatch.setattr(self_test, "resume", lambda *words: asked.append(words) or ("resume", True, "the same bits"))
    assert examined(shards.root, "--self-test", "--self-test-size", "32") == (0, set())
    tests = json.loads((tmp_path / "told.json").read_text())["self_tests"]
    assert [test["name"] for test in tests] == ["loss at the start", "one batch", "resume"]
    assert all(test["passed"] for test in tests), tests
    assert tests[0]["result"].endswith("where theory says 1.10")  # the logarithm of three classes
    assert digests(shards.root) == before
    assert read_flags(asked).method == "supervised"


def test_images_without_classes_are_resumed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(tmp_path / "shards")
    for files in (shards.first, shards.second, shards.val):
        files[:] = [file for file in files if not file[0].endswith(".cls")]
    shards.write()
    asked: list[tuple] = []
    monkeypatch.setattr(self_test, "train", lambda *words: pytest.fail(f"trained {words}"))
    monkeypatch.setattr(self_test, "resume", lambda *words: asked.append(words) or ("resume", False, "other bits"))
    assert examined(shards.root, "--self-test") == (3, set())
    assert read_flags(asked).method == "simclr"


def read_flags(asked: list[tuple]) -> Any:
    """The model section of the recipe that the resume test was asked for: its flags are those of `pretrain train`."""
    ((program, words, _),) = asked
    assert program == "pretrain"
    recipe = resolve([*map(str, words), *self_test.EXACT.split()]).recipe
    assert recipe.runtime.keep_states and recipe.data.limit > recipe.runtime.batch_size
    return recipe.model
