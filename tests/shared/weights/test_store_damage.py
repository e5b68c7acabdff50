"""An export loads completely or not at all: whatever is done to it, the result is the right weights or one error.

The ten mutations come twice: `raw` leaves the card as it was, as an accident would; `resealed` writes a card and a
digest that fit the mutated file, so that the checks of bytes pass and the checks of meaning have to hold.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.feeding.pixels import PIXEL_STATS, PixelStats
from shared.weights.card import SHORT, Card, Exported, check_pixels, expected_pixels, read_tensors
from shared.weights.store import Store
from tests.shared.weights.of_exports import equal, network, refused, values, weights_of

IMAGENET = PIXEL_STATS["imagenet"]


def reseal(export: Path, **facts: Any) -> Path:
    """Write a card that fits the file as it is now, and name the folder after it, as a careful forger would."""
    path = weights_of(export)
    told = json.loads((export / "card.json").read_text())
    if path.is_file():
        told |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    text = json.dumps(told | facts)
    (export / "card.json").write_text(text)
    return export.rename(export.parent / hashlib.sha256(text.encode()).hexdigest()[:SHORT])


def as_the_detector_does(store: Store, module: nn.Module, stats: PixelStats = IMAGENET, arch: str = "tiny") -> None:
    """Find, compare pixels, load."""
    found = store.find(arch, "supervised")
    check_pixels(found, stats)
    store.load(module, found)


# --- the ten mutations --------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when somebody opens it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def rewritten(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def mutate(export: Path) -> None:
        tensors = change(load_file(weights_of(export)))
        save_file({name: value.contiguous() for name, value in tensors.items()}, weights_of(export))

    return mutate


def without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith("head")}


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"backbone.{name}": value for name, value in tensors.items()}


def reshaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"head.weight": torch.zeros(7, 4), "head.bias": torch.zeros(7)}


def norms_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith("norm")}


def of_another_net(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"stem.weight": torch.ones(8, 3, 7, 7), "body.0.weight": torch.ones(8, 8), "body.0.bias": torch.ones(8)}


def truncated(export: Path) -> None:
    content = weights_of(export).read_bytes()
    weights_of(export).write_bytes(content[: len(content) * 2 // 3])


def flipped_in_a_weight(export: Path) -> None:
    content = bytearray(weights_of(export).read_bytes())
    content[-2] ^= 0x10
    weights_of(export).write_bytes(content)


def flipped_in_the_header(export: Path) -> None:
    content = bytearray(weights_of(export).read_bytes())
    content[1] ^= 0x40  # the header says how long it is in its first eight bytes
    weights_of(export).write_bytes(content)


def not_a_number(export: Path) -> None:
    """One weight becomes nan, as a flipped exponent makes it."""
    content = bytearray(weights_of(export).read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    begin, _ = json.loads(content[8 : 8 + header])["conv.weight"]["data_offsets"]
    content[8 + header + begin : 8 + header + begin + 4] = struct.pack("<f", float("nan"))
    weights_of(export).write_bytes(content)


def emptied(export: Path) -> None:
    weights_of(export).write_bytes(b"")


def removed(export: Path) -> None:
    weights_of(export).unlink()


def pickled(protocol: int) -> Callable[[Path], None]:
    def mutate(export: Path) -> None:
        weights_of(export).write_bytes(pickle.dumps(Bomb(export.parents[3] / "executed"), protocol))

    return mutate


def saved_by_torch(export: Path) -> None:
    torch.save({"state": Bomb(export.parents[3] / "executed")}, weights_of(export))


# what was done, and what is said: with the card as it was, and with one that fits
MUTATIONS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing tensors": (
        rewritten(without_head),
        "bytes, but its card says",
        r"2 of 9 missing \(head.weight, head.bias",
    ),
    "renamed prefix": (
        rewritten(renamed),
        "bytes, but its card says",
        "the file's names all begin with 'backbone.' .*; export the backbone itself",
    ),
    "wrong shape": (
        rewritten(reshaped),
        "bytes, but its card says",
        r"2 of another shape \(head.weight \(7, 4\) for \(5, 4\)",
    ),
    "batch norm only": (
        rewritten(norms_alone),
        "bytes, but its card says",
        "4 of 9 missing .* only batch norm would be loaded",
    ),
    "truncated file": (truncated, "bytes, but its card says", "is not a safetensors file"),
    "flipped byte": (flipped_in_a_weight, "does not match the sha256 on its card", ""),
    "flipped byte of the header": (
        flipped_in_the_header,
        "does not match the sha256 on its card",
        "is not a safetensors file",
    ),
    "flipped to nan": (
        not_a_number,
        "does not match the sha256 on its card",
        "NaN or Inf in conv.weight",
    ),
    "other tensors": (rewritten(of_another_net), "bytes, but its card says", "9 of 9 missing .*3 unexpected"),
    "empty file": (emptied, "is empty; export supervised again", "is empty; export supervised again"),
    "no file": (removed, "is missing; export supervised again", "is missing; export supervised again"),
    "pickle": (pickled(4), "is a pickle, not a safetensors file; it was not opened", "is a pickle"),
    "old pickle": (pickled(0), "bytes, but its card says", "is not a safetensors file"),
    "pickle by torch.save": (saved_by_torch, "is a pickle, not a safetensors file; it was not opened", "a pickle"),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_mutated_weights_under_an_untouched_card_are_refused(store: Store, exported: Exported, what: str) -> None:
    mutate, sentence, _ = MUTATIONS[what]
    mutate(exported.path)
    net = network(seed=2)
    before = values(net)
    refused(lambda: as_the_detector_does(store, net), sentence)
    assert equal(values(net), before), "a refused load leaves the module as it was"
    assert not (store.root.parent / "executed").exists(), "nothing in a file of weights may run"


@pytest.mark.parametrize("what", [name for name, (_, _, sentence) in MUTATIONS.items() if sentence])
def test_mutated_weights_under_a_card_that_fits_are_refused(store: Store, exported: Exported, what: str) -> None:
    mutate, _, sentence = MUTATIONS[what]
    mutate(exported.path)
    reseal(exported.path)
    net = network(seed=2)
    before = values(net)
    refused(lambda: as_the_detector_does(store, net), sentence)
    assert equal(values(net), before), "a refused load leaves the module as it was"
    assert not (store.root.parent / "executed").exists(), "nothing in a file of weights may run"


def test_weights_load_whatever_the_length_of_their_header(store: Store, card: Callable[..., Card]) -> None:
    """It comes first in the file, in whole eights; one in thirty-two begins with the byte that pickles begin with."""
    begins = set()
    for more in range(0, 256, 8):
        exported = store.put(nn.ParameterDict({"w" * (1 + more): torch.ones(1)}), card(arch="named"))
        begins.add(weights_of(exported.path).read_bytes()[0])
        assert len(read_tensors(exported)) == 1
    assert begins == set(range(0, 256, 8))


def test_the_bomb_of_these_tests_does_go_off_when_opened(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))  # noqa: S301 - that the tests above can fail
    assert (tmp_path / "executed").exists()


def test_export_moved_to_another_architecture_is_refused(store: Store, exported: Exported) -> None:
    shutil.copytree(exported.path.parent, store.root / "large" / "supervised")
    net = network(seed=2)
    refused(
        lambda: as_the_detector_does(store, net, arch="large"),
        "contains tiny supervised according to its card; move it back",
    )
    as_the_detector_does(store, net)


def test_export_moved_to_another_tag_is_refused(store: Store, exported: Exported) -> None:
    exported.path.parent.rename(exported.path.parent.parent / "vicreg")
    refused(lambda: store.find("tiny", "vicreg"), "contains tiny supervised according to its card; move it back")


def test_other_architecture_under_a_card_that_fits_is_refused(store: Store, card: Callable[..., Card]) -> None:
    wide = store.put(network(seed=1, width=8), card(arch="wide"))
    shelf = store.root / "tiny" / "supervised"
    shelf.mkdir(parents=True)
    reseal(wide.path.rename(shelf / wide.digest), arch="tiny")
    net = network(seed=2)
    before = values(net)
    refused(lambda: as_the_detector_does(store, net), r"of another shape \(conv.weight \(8, 3, 3, 3\) for \(4, 3, 3, 3")
    assert equal(values(net), before)


def test_other_pixels_written_on_the_card_are_noticed(store: Store, exported: Exported) -> None:
    path = exported.path / "card.json"
    path.write_text(path.read_text().replace("0.485", "0.5"))
    refused(lambda: as_the_detector_does(store, network(seed=2)), "was modified")


def test_weights_that_expect_other_pixels_are_refused(store: Store, exported: Exported) -> None:
    reseal(exported.path, pixels={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]})
    net = network(seed=2)
    before = values(net)
    sentence = refused(lambda: as_the_detector_does(store, net), "was trained with pixel mean")
    assert "(0.500, 0.500, 0.500)" in sentence and "(0.485, 0.456, 0.406)" in sentence and "--rgb-mode" in sentence
    assert equal(values(net), before)
    as_the_detector_does(store, net, PIXEL_STATS["centered"])


@pytest.mark.parametrize(
    "pixels",
    [
        {},
        {"mean": [0.5, 0.5, 0.5]},
        {"mean": [0.5], "std": [0.5]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.0, 0.5]},
        {"mean": ["red", 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"mean": [float("nan"), 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"mean": 0.5, "std": 0.5},
    ],
)
def test_card_with_impossible_pixels_is_refused(store: Store, exported: Exported, pixels: dict) -> None:
    reseal(exported.path, pixels=pixels)
    refused(lambda: expected_pixels(store.find("tiny", "supervised")), "has no pixel mean and std on its card")


# --- cards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", ["arch", "tag", "epoch", "metrics", "sha256", "parents"])
def test_card_with_any_fact_changed_is_refused(store: Store, exported: Exported, fact: str) -> None:
    path = exported.path / "card.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {fact: "something else"}, indent=2, sort_keys=True) + "\n")
    refused(lambda: store.find("tiny", "supervised"), "was modified: it does not match its digest")


def test_card_with_one_white_space_changed_is_refused(store: Store, exported: Exported) -> None:
    path = exported.path / "card.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    refused(lambda: store.find("tiny", "supervised"), "was modified")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_card_that_is_none_is_refused(store: Store, exported: Exported, content: bytes) -> None:
    (exported.path / "card.json").write_bytes(content)
    refused(lambda: store.find("tiny", "supervised"), "card")


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"arch": "tiny"}'])
def test_card_of_another_make_is_refused_though_its_digest_fits(store: Store, exported: Exported, text: str) -> None:
    (exported.path / "card.json").write_text(text)
    exported.path.rename(exported.path.parent / hashlib.sha256(text.encode()).hexdigest()[:SHORT])
    refused(lambda: store.find("tiny", "supervised"), "is not a card that this version can read")


def test_folder_without_a_card_is_no_export(store: Store, exported: Exported) -> None:
    (exported.path / "card.json").unlink()
    refused(lambda: store.find("tiny", "supervised"), "has no card.json, so it is not an export")


# --- missing, if it is meant --------------------------------------------------------------------


def test_missing_tensors_stay_as_they_are_when_they_are_named(store: Store, exported: Exported) -> None:
    rewritten(without_head)(exported.path)
    reseal(exported.path)
    net = network(seed=2)
    before = values(net)
    found = store.find("tiny", "supervised")
    refused(lambda: store.load(net, found, allow_missing=["neck.*"]), "--allow-missing GLOB")
    refused(lambda: store.load(net, found, allow_missing=["*.bias"]), r"1 of 9 missing \(head.weight\)")
    transfer = store.load(net, found, allow_missing=["head.*"])
    assert transfer.missing == ["head.weight", "head.bias"] and transfer.matched_tensors == 7
    assert torch.equal(net.head.weight, before["head.weight"])
    assert torch.equal(net.conv.weight, network(seed=1).conv.weight)


def test_tensors_of_another_shape_stay_as_they_are_when_they_are_named(store: Store, exported: Exported) -> None:
    rewritten(reshaped)(exported.path)
    reseal(exported.path)
    net = network(seed=2)
    transfer = store.load(net, store.find("tiny", "supervised"), allow_missing=["head.*"])
    assert transfer.missing == ["head.weight", "head.bias"]
    assert torch.equal(net.head.weight, network(seed=2).head.weight)


def test_no_pattern_lets_weights_pass_that_fill_nothing(store: Store, exported: Exported) -> None:
    rewritten(lambda tensors: {name: torch.zeros(1, 2, 3) for name in tensors})(exported.path)
    reseal(exported.path)
    found = store.find("tiny", "supervised")
    refused(lambda: store.load(network(seed=2), found, allow_missing=["*"]), "has no tensor of this module")


def test_no_pattern_lets_tensors_pass_that_have_no_place(store: Store, exported: Exported) -> None:
    rewritten(lambda tensors: tensors | {"extra.weight": torch.ones(2)})(exported.path)
    reseal(exported.path)
    found = store.find("tiny", "supervised")
    refused(lambda: store.load(network(seed=2), found, allow_missing=["*"]), r"1 unexpected \(extra.weight\)")
