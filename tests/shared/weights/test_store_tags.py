"""A tag, an epoch or a digest means one export, or is refused with what there is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from torch import nn

import shared.weights.store
from shared.weights.card import Card, Exported
from shared.weights.store import Store
from tests.shared.weights.of_exports import equal, network, refused, values


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
