"""A representation is measured as it was trained: its weights, its pixels, its size, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from backbones import backbone
from pretrain.probing.evaluate import open_subject, protocols
from pretrain.probing.recipe import EvalRecipe, eval_stem
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PIXEL_STATS
from shared.recipes.flags import from_args
from shared.weights.card import Card
from shared.weights.store import Exported, Store

TRAINED = {"size": [48, 32], "method_args": {"val_share": 0.9}}


def recipe_of(words: str, store: Store | None = None) -> EvalRecipe:
    argv = words.split() + (["--weights-dir", str(store.root)] if store else [])
    return from_args(EvalRecipe, argv, prog="pretrain eval", folder="eval", own="").recipe


@pytest.fixture
def export(store: Store, card: Callable[..., Card]) -> Callable[..., Exported]:
    """Weights of a tiny net in the store, with what their card should say."""

    def put(tag: str = "vicreg", arch: str = "test_resnet", **told: Any) -> Exported:
        torch.manual_seed(7)
        return store.put(backbone.build(arch), card(arch=arch, tag=tag, **({"recipe": TRAINED} | told)))

    return put


def test_weights_are_seen_as_they_were_trained(export: Callable, store: Store) -> None:
    stats = PIXEL_STATS["clip"]
    exported = export(pixels={"mean": list(stats.mean), "std": list(stats.std)})
    subject = open_subject(recipe_of("--model test_resnet --tag vicreg", store))
    assert subject.pixels == stats and subject.size == (48, 32) and subject.share == 0.9
    torch.manual_seed(7)
    wanted = backbone.build("test_resnet").state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in subject.net.state_dict().items())
    assert subject.exported is not None and subject.exported.digest == exported.digest
    assert "vicreg" in subject.words and "tensors" in subject.words


def test_a_tag_finds_its_only_backbone_and_flags_say_otherwise_where_they_may(export: Callable, store: Store) -> None:
    export()
    subject = open_subject(recipe_of("--tag vicreg --size 64 --probe-share 1 --rgb-mode imagenet", store))
    assert subject.size == (64, 64) and subject.share == 1.0
    export(recipe={**TRAINED, "probe_share": 0.7})
    assert open_subject(recipe_of("--tag vicreg", store)).share == 0.7
    export(recipe={})
    bare = open_subject(recipe_of("--tag vicreg", store))
    assert bare.size == (224, 224) and bare.share == 0.875


@pytest.mark.parametrize(
    ("words", "kind", "complaint"),
    [
        ("--model test_resnet --tag nothing", WeightsError, "test_resnet has vicreg"),
        ("--model test_vit --tag vicreg", WeightsError, "no weights tagged 'vicreg' for test_vit"),
        ("--tag vicreg --backbone-epoch 9", WeightsError, "at epoch 9"),
        ("--tag vicreg --rgb-mode clip", WeightsError, "was trained with pixel mean"),
        ("--tag vicreg --pretrained", UsageError, "keep one"),
        ("--tag vicreg --rgb-mode klip", UsageError, "did you mean 'clip'"),
        ("--model test_resnet --backbone-epoch 3", UsageError, "--tag"),
        ("", UsageError, "nothing to evaluate"),
        ("--model tset_resnet", UsageError, "tset_resnet"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    words: str, kind: type, complaint: str, export: Callable, store: Store
) -> None:
    export()
    with pytest.raises(kind, match=complaint):
        open_subject(recipe_of(words, store))


def test_a_detector_is_no_backbone(export: Callable, store: Store) -> None:
    export(tag="found", kind="detector")
    with pytest.raises(WeightsError, match="is a detector"):
        open_subject(recipe_of("--model test_resnet --tag found", store))


def test_random_weights_say_so_and_follow_the_flags(store: Store) -> None:
    subject = open_subject(recipe_of("--model test_resnet --rgb-mode centered --size 40", store))
    assert subject.words == "test_resnet with random weights" and subject.exported is None
    assert subject.pixels == PIXEL_STATS["centered"] and subject.size == (40, 40)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(("knn",), ["knn"]), (("knn,linear",), ["knn", "linear"]), (("linear", "knn"), ["linear", "knn"])],
)
def test_protocols_may_be_joined_by_commas(told: tuple, wanted: list) -> None:
    assert protocols(told) == wanted


@pytest.mark.parametrize("told", [("knm",), ("",), ()])
def test_protocols_there_are_none_of_are_refused(told: tuple) -> None:
    with pytest.raises(UsageError, match="knn, linear"):
        protocols(told)


def test_a_run_is_named_after_what_it_measures() -> None:
    assert eval_stem(recipe_of("--model a/b --tag vicreg@3fa9")) == "a_b-vicreg-3fa9-eval"
    assert eval_stem(recipe_of("--model resnet18")) == "resnet18-random-eval"
    assert eval_stem(recipe_of("--model resnet18 --pretrained")) == "resnet18-pretrained-eval"
    assert eval_stem(recipe_of("--tag mim")) == "mim-eval"
