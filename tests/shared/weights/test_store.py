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
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import shared.weights.store
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PIXEL_STATS, PixelStats
from shared.weights.card import SHORT, Card, Exported, check_pixels, expected_pixels, read_tensors
from shared.weights.store import Store

IMAGENET = PIXEL_STATS["imagenet"]


def network(seed: int = 0, width: int = 4) -> nn.Module:
    """A convolution, a batch norm with running statistics of its own, a linear layer."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, width, 3))
    net.add_module("norm", nn.BatchNorm2d(width))
    net.add_module("head", nn.Linear(width, 5))
    net.norm.running_mean.normal_()
    nn.init.normal_(net.norm.weight)
    return net


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def exported(store: Store, card: Callable[..., Card]) -> Exported:
    return store.put(network(seed=1), card())


def weights_of(export: Path) -> Path:
    return export / "model.safetensors"


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


def refused(attempt: Callable[[], Any], saying: str) -> str:
    """The sentence with which something is refused, which must be one, say this, and end with exit code 4."""
    with pytest.raises(WeightsError, match=saying) as told:
        attempt()
    sentence = str(told.value)
    assert told.value.exit_code == 4
    assert "\n" not in sentence and "Traceback" not in sentence
    assert ";" in sentence or "," in sentence, "a sentence ends with the way out"
    return sentence


# --- what goes in comes out ---------------------------------------------------------------------


def test_loaded_weights_are_the_exported_ones_bit_for_bit(store: Store, exported: Exported) -> None:
    net = network(seed=2)
    before = values(net)
    transfer = store.load(net, store.find("tiny", "supervised"))
    assert equal(values(net), values(network(seed=1)))
    names = [name for name, _ in net.named_parameters()]
    change = torch.cat([(net.state_dict()[n] - before[n]).abs().flatten() for n in names]).double().mean()
    assert transfer.moved == pytest.approx(float(change), rel=1e-6)
    assert (transfer.matched_tensors, transfer.total_tensors) == (9, 9)
    assert transfer.matched_params == transfer.total_params == sum(p.numel() for p in net.parameters())
    assert (transfer.missing, transfer.unexpected, transfer.digest) == ([], [], exported.digest)
    assert "9/9 tensors" in str(transfer)


def test_card_comes_back_as_it_was_written_with_size_digest_and_time(store: Store, card: Callable[..., Card]) -> None:
    told = card(metrics={"top1": 0.5}, classes={"names": ["cat"]}, recipe={"lr": 0.1}, licence="Apache-2.0")
    exported = store.put(network(), told)
    assert {**vars(exported.card), "sha256": "", "bytes": 0, "created": 0.0} == vars(told)
    content = weights_of(exported.path).read_bytes()
    assert exported.card.sha256 == hashlib.sha256(content).hexdigest() and exported.card.bytes == len(content)
    assert exported.card.created > 1.7e9
    assert exported.path.name == hashlib.sha256((exported.path / "card.json").read_bytes()).hexdigest()[:SHORT]


def test_tensors_that_share_memory_by_name_are_stored_once_and_loaded_into_both(
    store: Store, card: Callable[..., Card]
) -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        net[1].weight = net[0].weight
        return net

    source, net = tied(1), tied(2)
    exported = store.put(source, card())
    assert list(load_file(weights_of(exported.path))) == ["0.weight"]
    store.load(net, exported)
    assert torch.equal(net[1].weight, source[0].weight) and net[1].weight is net[0].weight


def test_weights_that_are_not_finite_are_not_exported(store: Store, card: Callable[..., Card]) -> None:
    for broken in (float("nan"), float("inf")):
        net = network()
        with torch.no_grad():
            net.head.weight[0, 0] = broken
        refused(lambda net=net: store.put(net, card()), "head.weight contains NaN or Inf")
    assert not list(store.root.rglob("*.safetensors"))


def test_weights_of_a_module_that_has_them_already_were_never_trained(store: Store, exported: Exported) -> None:
    refused(lambda: store.load(network(seed=1), exported), "equals the module's initial values")


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


# --- which export a tag means -------------------------------------------------------------------


def clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports a second apart, so that their order is certain."""
    seconds = iter(range(1_800_000_000, 1_800_001_000))
    monkeypatch.setattr(shared.weights.store.time, "time", lambda: float(next(seconds)))


def test_second_export_of_a_tag_leaves_the_first_untouched_and_is_the_one_found(
    store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked(monkeypatch)
    first = store.put(network(seed=1), card())
    content = {path: path.read_bytes() for path in first.path.iterdir()}
    second = store.put(network(seed=2), card())
    assert first.path != second.path and all(path.read_bytes() == old for path, old in content.items())
    assert store.find("tiny", "supervised").digest == second.digest
    assert store.find("tiny", f"supervised@{first.digest[:6]}").digest == first.digest
    assert store.find("tiny", f"supervised@{first.digest}").digest == first.digest
    assert [exported.digest for exported in store.all()] == [first.digest, second.digest]


def test_two_exports_of_a_tag_at_once_both_succeed(store: Store, card: Callable[..., Card]) -> None:
    nets = [network(seed) for seed in range(4)]
    start, done, failed = threading.Barrier(4), [], []

    def put(net: nn.Module) -> None:
        start.wait()
        try:
            done.append(store.put(net, card()))
        except BaseException as error:  # to be shown by the main thread
            failed.append(error)

    threads = [threading.Thread(target=put, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len({exported.digest for exported in done}) == 4
    for exported in done:
        net = network(seed=9)
        store.load(net, exported)
        assert any(equal(values(net), values(other)) for other in nets)
    assert sorted(p.name for p in store.root.iterdir()) == ["tiny"], "nothing half written is left behind"


def test_same_weights_exported_in_the_same_instant_are_one_export(
    store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.weights.store.time, "time", lambda: 1_800_000_000.0)
    assert store.put(network(), card()).digest == store.put(network(), card()).digest
    assert len(store.all()) == 1 and sorted(p.name for p in store.root.iterdir()) == ["tiny"]


def test_epoch_picks_an_export_kept_on_the_way_and_zero_means_the_finished_one(
    store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked(monkeypatch)
    last = store.put(network(seed=3), card(epoch=30))
    kept = {epoch: store.put(network(seed=epoch), card(epoch=epoch, finished=False)) for epoch in (10, 20)}
    for epoch, exported in kept.items():
        assert store.find("tiny", "supervised", epoch).digest == exported.digest
    assert store.find("tiny", "supervised", 0).digest == store.find("tiny", "supervised").digest == last.digest
    sentence = refused(lambda: store.find("tiny", "supervised", 15), "no 'supervised' at epoch 15")
    assert "(epoch 10)" in sentence and "(epoch 20)" in sentence and "(epoch 30)" in sentence


def test_tag_of_an_unfinished_run_alone_is_refused(store: Store, card: Callable[..., Card]) -> None:
    store.put(network(), card(finished=False))
    refused(lambda: store.find("tiny", "supervised"), r"no 'supervised' from a finished run; found .*\(epoch 3\)")


def test_tag_of_two_architectures_asks_which(store: Store, card: Callable[..., Card]) -> None:
    for arch in ("tiny", "large"):
        store.put(network(), card(arch=arch))
    refused(lambda: store.find(None, "supervised"), "is a tag of large, tiny; choose one with --backbone")
    assert store.find("large", "supervised").card.arch == "large"


def test_tag_alone_prefers_a_backbone_to_a_detector_of_that_tag(store: Store, card: Callable[..., Card]) -> None:
    store.put(network(), card(arch="fcos-tiny", kind="detector"))
    assert store.find(None, "supervised").card.arch == "fcos-tiny"
    store.put(network(), card(arch="tiny"))
    assert store.find(None, "supervised").card.arch == "tiny"


def test_unknown_tag_is_answered_with_the_nearest_and_with_what_there_is(
    store: Store, card: Callable[..., Card]
) -> None:
    refused(lambda: store.find("tiny", "vicreg"), "create one with `pretrain train --model tiny`")
    store.put(network(), card(tag="vicreg"))
    refused(lambda: store.find("tiny", "vicregg"), "no weights tagged 'vicregg' for tiny .*did you mean 'vicreg'")
    refused(lambda: store.find("large", "vicreg"), "tiny has that tag")
    refused(lambda: store.find(None, "vicreg2"), "there are vicreg, did you mean 'vicreg'")


def test_unknown_digest_is_answered_with_those_there_are(store: Store, exported: Exported) -> None:
    absent = "0" if exported.digest[0] != "0" else "1"
    refused(lambda: store.find("tiny", f"supervised@{absent}"), f"found supervised@{exported.digest[:6]}")


def test_digest_that_could_be_two_is_refused(
    store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked(monkeypatch)
    digests = [store.put(network(), card()).digest for _ in range(17)]  # two of them begin alike
    first = next(d[0] for i, d in enumerate(digests) if d[0] in {other[0] for other in digests[:i]})
    refused(lambda: store.find("tiny", f"supervised@{first}"), "is ambiguous: .*; give more digits")


def test_pinned_export_loads_beside_a_damaged_one_and_the_bare_tag_does_not(
    store: Store, card: Callable[..., Card]
) -> None:
    good, bad = (store.put(network(seed), card()) for seed in (1, 2))
    (bad.path / "card.json").write_text("{}")
    assert store.find("tiny", f"supervised@{good.digest}").digest == good.digest
    refused(lambda: store.find("tiny", "supervised"), "was modified")
    assert [exported.digest for exported in store.all()] == [good.digest]


# --- names that are no names --------------------------------------------------------------------

TRAVERSALS = ["..", ".", "", "../x", "/etc", "a/b", "a\\b", "a/../b", "a..b", ".hidden", "-t", "a b", "a\n", "x" * 200]
words = st.one_of(st.sampled_from(TRAVERSALS), st.text(max_size=12), st.text("./\\~ab@-", min_size=1, max_size=12))


@given(word=words)
def test_names_that_lead_elsewhere_are_refused_and_write_nothing(
    word: str, tmp_path_factory: pytest.TempPathFactory, card: Callable[..., Card]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder / "inner" / "weights")
    for told in ({"tag": word}, {"arch": word}):
        try:
            exported = store.put(nn.Linear(1, 1), card(**told))
        except UsageError as error:
            assert "is not a valid tag or name" in str(error)
        else:
            inside = exported.path.resolve().relative_to(store.root.resolve())
            assert len(inside.parts) == 3 and ".." not in inside.parts and word in inside.parts
    stray = [p for p in folder.rglob("*") if p.is_file() and store.root not in p.parents]
    assert not stray


@given(word=words.filter(lambda word: word != "y"))
def test_tags_that_lead_elsewhere_find_nothing(
    word: str, tmp_path_factory: pytest.TempPathFactory, card: Callable[..., Card]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    Store(folder).put(nn.Linear(1, 1), card())  # lies at ../.. as seen from the store below
    store = Store(folder / "tiny" / "supervised")
    store.put(nn.Linear(1, 1), card(arch="x", tag="y"))
    for arch in ("x", word, None):
        with pytest.raises(WeightsError, match="no weights tagged"):
            store.find(arch, word)


@pytest.mark.parametrize("word", [word for word in TRAVERSALS if word != "x" * 200])
def test_every_traversal_is_refused_as_a_tag(store: Store, card: Callable[..., Card], word: str) -> None:
    with pytest.raises(UsageError, match="is not a valid tag or name; use letters"):
        store.put(nn.Linear(1, 1), card(tag=word))


@pytest.mark.slow
def test_every_timm_name_can_name_a_folder_alone_and_under_a_detector() -> None:
    import timm

    names = timm.list_models(pretrained=True)
    assert len(names) > 1000
    for name in names:
        shared.weights.store.check_name(name)
        shared.weights.store.check_name(f"faster_rcnn-{name}-pretrained")


def test_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path, card: Callable[..., Card]) -> None:
    (tmp_path / "weights").write_text("a file is in the way")
    with pytest.raises(UsageError, match="weights cannot be written to .*; give another --weights-dir"):
        Store(tmp_path / "weights").put(network(), card())


# --- lineage ------------------------------------------------------------------------------------


def test_lineage_walks_from_child_to_ancestors_and_names_what_is_gone(store: Store, card: Callable[..., Card]) -> None:
    grandmother = store.put(network(seed=1), card(tag="ijepa", method="i-jepa"))
    mother = store.put(network(seed=2), card(parents=[grandmother.reference], metrics={"top1": 0.5}))
    child = store.put(network(seed=3), card(arch="fcos-tiny", kind="detector", parents=[mother.reference]))
    walked = store.lineage(child)
    assert [node["digest"] for node in walked] == [child.digest, mother.digest, grandmother.digest]
    assert walked[1]["parents"] == [grandmother.digest] and walked[1]["metrics"] == {"top1": 0.5}
    shutil.rmtree(grandmother.path)
    assert store.lineage(child)[2] == {
        **grandmother.reference,
        "method": None,
        "created": None,
        "parents": [],
        "metrics": {},
        "data": "not in this store",
    }
