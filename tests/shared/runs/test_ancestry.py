"""`lineage` and `verify`: what is said of weights and their ancestors, and that every altered file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.weights.card import Card, Exported
from shared.weights.seen import digests_of, write_digests
from shared.weights.store import Store
from tests.shared.weights.of_exports import network


@pytest.fixture
def family(store: Store, card: Callable[..., Card], tmp_path: Path) -> list[Exported]:
    """A published checkpoint, a backbone that was pretrained from it, and a detector on that."""
    about = {"kind": "backbone", "arch": "tiny", "tag": "mine", "data": "shards"}
    seen = write_digests(tmp_path, digests_of(np.arange(1, 5, dtype=np.uint64)), **about)
    source = {"file": "published.pth", "sha256": "0" * 64, "told": "a <university>"}
    first = store.put(network(seed=1), card(tag="published", licence="CC BY-NC 4.0", source=source))
    told = {"method": "vicreg", "data": {"path": "shards", "samples": 1200}, "metrics": {"knn": 0.5}}
    second = store.put(network(seed=2), card(tag="mine", parents=[first.reference], **told), seen=seen)
    own = card(arch="fcos-tiny", tag="found", kind="detector", parents=[second.reference])
    return [store.put(network(seed=3), own), second, first]


def test_ancestors_are_shown_with_data_metrics_and_licenses(
    family: list[Exported], store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["--weights-dir", str(store.root)]
    assert detect(["lineage", "fcos-tiny/found", *where, "--svg", str(tmp_path / "drawn.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"fcos-tiny found@{family[0].digest[:6]}"
    text = "\n".join(lines)
    assert text.index("found@") < text.index("    from tiny mine@") < text.index("        from tiny published@")
    assert "shards, 1,200 images" in text and "knn 0.5000" in text
    assert "license  CC BY-NC 4.0" in text and "a <university>, published.pth" in text
    drawn = ElementTree.parse(tmp_path / "drawn.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{name}g")) == 3 and len(drawn.findall(f"{name}path")) == 4  # two arrows and their tips
    assert pretrain(["lineage", str(family[1].path), *where]) == 0
    assert "found@" not in capsys.readouterr().out


def test_what_was_written_is_verified_with_all_ancestors(
    family: list[Exported], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(["verify", "fcos-tiny/found", "--weights-dir", str(store.root)]) == 0
    assert capsys.readouterr().out.count("as it was written") == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", "was changed: its sha256 is not that on the card"),
        ("seen-*.npy", "was changed: its sha256 is not that on the card"),
        ("card.json", "was changed, so what it says of the other files is not believed"),
    ],
)
def test_an_altered_file_of_an_ancestor_is_named(
    name: str, says: str, family: list[Exported], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = family[1].path.glob(name)
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    assert detect(["verify", "fcos-tiny/found", "--weights-dir", str(store.root)]) == 4
    told = capsys.readouterr()
    assert f"{file} {says}" in told.out and f"1 file altered: {file}" in told.err


def test_files_and_ancestors_that_are_missing_are_said(
    family: list[Exported], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    family[2].path.rename(store.root.parent / "away")
    assert detect(["verify", "fcos-tiny/found", "--weights-dir", str(store.root)]) == 0
    assert f"tiny published@{family[2].digest[:6]}: not in {store.root}" in capsys.readouterr().out
    (family[0].path / "model.safetensors").unlink()
    assert detect(["verify", "fcos-tiny/found", "--weights-dir", str(store.root)]) == 4
    assert "model.safetensors is missing" in capsys.readouterr().err
    assert pretrain(["lineage", "nothing", "--weights-dir", str(store.root)]) == 4
