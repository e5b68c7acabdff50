"""A network of timm that stands in no table of ours keeps the contract as well, or says in a sentence that it will not.

One of each family, on the meta device: at any image size, at the one size it was made for, or not at all.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbones import backbone
from shared.errors import UsageError
from shared.versions import installed, release
from tests.contract.test_backbones import insist_on_the_contract, on_meta

# which networks accept other sizes, and which show their maps, changes with timm; earlier releases refuse some by name
pytestmark = pytest.mark.skipif(release(installed("timm") or "") < (1, 0, 31), reason="the sample is of timm 1.0.31")

ANY_SIZE = [
    "caformer_s18",
    "convformer_s18",
    "cs3darknet_s",
    "davit_tiny",
    "densenet121",
    "dla34",
    "edgenext_xx_small",
    "efficientvit_b0",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gernet_s",
    "ghostnet_050",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "inception_next_atto",
    "mambaout_femto",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nextvit_small",
    "nf_resnet26",
    "pvt_v2_b0",
    "regnetx_002",
    "repvit_m0_9",
    "resnest14d",
    "resnext26ts",
    "resnetv2_50",
    "rexnet_100",
    "selecsls42",
    "starnet_s1",
    "swinv2_cr_tiny_224",
    "twins_pcpvt_small",
    "vgg11",
    "vit_small_patch14_dinov2",
    "vovnet39a",
    "xcit_nano_12_p8_224",
]
ONE_SIZE = {
    "beit_base_patch16_224": 224,
    "cait_xxs24_224": 224,
    "coat_tiny": 224,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "gcvit_xxtiny": 224,
    "gmlp_s16_224": 224,
    "hiera_tiny_224": 224,
    "levit_128s": 224,
    "maxvit_pico_rw_256": 256,
    "mixer_s32_224": 224,
    "nest_tiny": 224,
    "vit_relpos_small_patch16_224": 224,
    "volo_d1_224": 224,
}
NOT_AT_ALL = ["crossvit_tiny_240", "inception_v3", "pit_ti_224", "xception"]
QUICK = ["gernet_s", "regnetx_002", "eva02_tiny_patch14_224", "mixer_s32_224", "levit_128s", "inception_v3"]


def quick_or_slow(names: Any) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_or_slow(ANY_SIZE))
def test_network_keeps_the_contract_at_any_size(name: str) -> None:
    net = on_meta(name)
    assert net.only is None
    insist_on_the_contract(net)


@pytest.mark.parametrize("name", quick_or_slow(ONE_SIZE))
def test_network_keeps_the_contract_at_its_own_size_and_names_it_at_others(name: str) -> None:
    net, side = on_meta(name), ONE_SIZE[name]
    assert net.only == (side, side)
    insist_on_the_contract(net, [(side, side)])
    with pytest.raises(UsageError, match=f"accepts only images of {side}x{side}, not 480x800; give --size {side}"):
        net.forward_features(torch.zeros(2, 3, 480, 800, device="meta"))


@pytest.mark.parametrize("name", quick_or_slow(NOT_AT_ALL))
def test_network_whose_maps_are_not_what_it_says_is_refused_when_it_is_built(name: str) -> None:
    with pytest.raises(
        UsageError, match="does not return the feature maps it reports .*; use another backbone"
    ) as told:
        on_meta(name)
    assert "\n" not in str(told.value) and told.value.exit_code == 2


def test_sample_is_of_many_families_and_of_none_in_our_table() -> None:
    from timm.models import list_modules, model_entrypoint

    names = [*ANY_SIZE, *ONE_SIZE, *NOT_AT_ALL]
    families = {model_entrypoint(name).__module__ for name in names}
    assert len(names) == len(set(names)) >= 50 and len(families) >= 45 and len(list_modules()) > len(families)
    assert not set(names) & set(backbone.names()) and set(QUICK) <= set(names)
