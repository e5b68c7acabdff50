"""Weights come out of the store as they went in, with all their ancestors, and no name leads out of its folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import shared.weights.store
from shared.errors import UsageError, WeightsError
from shared.weights.card import SHORT, Card, Exported
from shared.weights.store import Store
from tests.shared.weights.of_exports import equal, network, refused, values, weights_of

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
    with pytest.raises(UsageError, match="weights cannot be written to .* or give another --weights-dir"):
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
