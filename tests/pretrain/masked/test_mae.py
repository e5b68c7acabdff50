"""MAE: equal to transformers' and lightly's with the same weights and masks, blind to what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone
from pretrain.masked.mae import MAE
from pretrain.masked.places import patches_of, split_places
from shared.errors import UsageError
from shared.feeding.pixels import pixel_stats

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2}
COLOURS_LAST = torch.arange(3 * 64).view(3, 8, 8).permute(1, 2, 0).flatten()  # the others' order of a patch's pixels


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_outputs_and_loss_equal_those_of_transformers(
    norm_pixels: bool, small_vit: Callable[..., Backbone], as_timm: Callable[..., dict[str, Tensor]]
) -> None:
    transformers = pytest.importorskip("transformers")
    from lightly.models.utils import initialize_2d_sine_cosine_positional_embedding

    told = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    told |= {f"decoder_{k}": v for k, v in zip(told, (16, 2, 2, 64), strict=True)}
    config = transformers.ViTMAEConfig(
        **told, image_size=32, patch_size=8, layer_norm_eps=1e-6, norm_pix_loss=norm_pixels
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    for positions in (theirs.vit.embeddings.position_embeddings, theirs.decoder.decoder_pos_embed):
        initialize_2d_sine_cosine_positional_embedding(positions, num_prefix_tokens=1)  # left at zero by transformers
    ours = MAE(small_vit(), (32, 32), **SMALL, norm_pixels=norm_pixels).eval()
    state = as_timm(theirs.state_dict())
    torch.testing.assert_close(ours.backbone.net.pos_embed.data, state["pos_embed"])  # type: ignore[union-attr]
    torch.testing.assert_close(ours.decoder.positions, state["decoder.decoder_pos_embed"][0, 1:])
    ours.backbone.net.load_state_dict({k: v for k, v in state.items() if not k.startswith("decoder.")})  # type: ignore[union-attr]
    copy_decoder(ours, {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    x, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    with torch.no_grad():
        found = theirs(x, noise=noise)
        seen, hidden = split_places(noise, 4)
        predicted = ours.predict(patches_of(x, 8, 8), seen, hidden)[..., COLOURS_LAST]
        loss = ours(x, noise)
    assert torch.equal(found.mask.nonzero()[:, 1].view(3, -1), hidden.sort(1).values)
    wanted = found.logits.gather(1, hidden[..., None].expand(-1, -1, 192))
    torch.testing.assert_close(predicted, wanted, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(loss, found.loss, rtol=1e-4, atol=0)


def copy_decoder(ours: MAE, state: dict[str, Tensor]) -> None:
    """Weights of transformers' decoder under our names."""
    net = ours.decoder
    parts = {"embed": "decoder_embed", "norm": "decoder_norm"}
    parts |= {
        f"blocks.{i}" if i < len(net.blocks) else "last": f"decoder_layers.{i}" for i in range(len(net.blocks) + 1)
    }
    named = {"mask_token": state["mask_token"].flatten()}
    for mine, their in parts.items():
        named |= {mine + k.removeprefix(their): v for k, v in state.items() if k.startswith(f"{their}.")}
    named |= {f"predict.{k}": torch.empty_like(v) for k, v in net.predict.state_dict().items()}
    for k in ("weight", "bias"):
        named[f"predict.{k}"][COLOURS_LAST] = state[f"decoder_pred.{k}"]
    net.load_state_dict(named)


@pytest.mark.parametrize(
    "told",
    [{"class_token": False}, {"class_token": False, "reg_tokens": 3}, {"reg_tokens": 2, "no_embed_class": True}],
    ids=["no class token", "registers alone", "class token and registers"],
)
def test_loss_equals_that_of_lightlys_modules_whatever_tokens_come_along(
    told: dict[str, Any], small_vit: Callable[..., Backbone]
) -> None:
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.models.utils import get_at_index, normalize_mean_var, patchify, repeat_token, set_at_index

    ours = MAE(small_vit(**told), (32, 32), **SMALL).eval()
    vit, net = ours.backbone.net, ours.decoder
    free: int = vit.num_prefix_tokens  # type: ignore[assignment,union-attr]
    encoder = MaskedVisionTransformerTIMM(vit, weight_initialization="skip", pos_embed_initialization="skip")  # type: ignore[arg-type]
    decoder = MAEDecoderTIMM(16, 8, 3, 32, 16, 2, 2, num_prefix_tokens=free)
    with torch.no_grad():
        decoder.decoder_embed, decoder.decoder_norm = net.embed, net.norm
        decoder.decoder_blocks = nn.Sequential(*net.blocks, net.last)
        decoder.mask_token.copy_(net.mask_token)
        decoder.decoder_pos_embed.zero_()[0, free:] = net.positions
        x, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
        seen, hidden = split_places(noise, 4)
        kept = torch.cat((torch.arange(free).expand(2, -1), seen + free), 1)
        tokens = repeat_token(decoder.mask_token, (2, 16 + free))
        tokens = decoder.decode(set_at_index(tokens, kept, decoder.embed(encoder.encode(x, idx_keep=kept))))
        predicted = net.predict(get_at_index(tokens, hidden + free))[..., COLOURS_LAST]
        wanted = normalize_mean_var(get_at_index(patchify(x, 8), hidden))
        torch.testing.assert_close(ours(x, noise), (predicted - wanted).square().mean(), rtol=1e-4, atol=0)


def test_hidden_patches_change_the_target_but_no_prediction(small_vit: Callable[..., Backbone]) -> None:
    net = MAE(small_vit(), (32, 32), **SMALL, norm_pixels=False).eval()
    noise = torch.rand(1, 16)
    seen, hidden = split_places(noise, net.seen)
    x = torch.randn(1, 3, 32, 32)
    other = x.clone()
    top, left = divmod(int(hidden[0, 0]), 4)
    other[..., top * 8 : top * 8 + 8, left * 8 : left * 8 + 8] = 9.0
    first, again = (net.predict(patches_of(image, 8, 8), seen, hidden) for image in (x, other))
    assert torch.equal(first, again) and net(x, noise) != net(other, noise)


@pytest.mark.parametrize("size", [(48, 80), (32, 32), (16, 64)])
def test_images_need_not_be_of_the_size_the_vit_was_built_for(
    size: tuple[int, int], small_vit: Callable[..., Backbone]
) -> None:
    net = MAE(small_vit(), size, **SMALL)
    places = size[0] * size[1] // 64
    assert net.seen == places // 4
    patches = patches_of(torch.randn(2, 3, *size), 8, 8)
    everywhere = torch.arange(places).expand(2, -1)
    pixels = patches.view(2, size[0] // 8, size[1] // 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, *size)
    wanted = net.backbone.net.forward_features(pixels)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(net.encode(patches, everywhere), wanted)


def test_masks_come_from_torchs_generator_and_from_nothing_else(small_vit: Callable[..., Backbone]) -> None:
    net, x, losses = MAE(small_vit(), (32, 32), **SMALL).eval(), torch.randn(2, 3, 32, 32), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(net(x).item())
    assert losses[0] == losses[1] != losses[2]


def test_positions_stay_fixed_and_everything_else_learns(small_vit: Callable[..., Backbone]) -> None:
    net = MAE(small_vit(class_token=False, global_pool="avg", fc_norm=True), (32, 32), **SMALL)
    net(torch.randn(2, 3, 32, 32)).backward()
    idle = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert idle == {"backbone.net.pos_embed", "backbone.net.fc_norm.weight", "backbone.net.fc_norm.bias"}
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert idle <= set(net.state_dict()), "what no loss reaches is exported all the same"


def test_published_weights_keep_the_positions_they_were_made_with(small_vit: Callable[..., Backbone]) -> None:
    vit = small_vit()
    vit.pixels = pixel_stats("imagenet")
    before = vit.net.pos_embed.clone()  # type: ignore[union-attr,operator]
    net = MAE(vit, (32, 32), **SMALL)
    assert torch.equal(vit.net.pos_embed, before)  # type: ignore[arg-type]
    net(torch.randn(2, 3, 32, 32)).backward()
    assert vit.net.pos_embed.grad is not None  # type: ignore[union-attr]


def test_weights_are_left_alone_unless_they_are_to_be_fresh(small_vit: Callable[..., Backbone]) -> None:
    vit = small_vit()
    before = vit.net.blocks[0].mlp.fc1.weight.clone()  # type: ignore[index,union-attr]
    MAE(vit, (32, 32), **SMALL)
    assert torch.equal(vit.net.blocks[0].mlp.fc1.weight, before)  # type: ignore[index,union-attr]
    MAE(vit, (32, 32), **SMALL, fresh=True)
    assert not torch.equal(vit.net.blocks[0].mlp.fc1.weight, before)  # type: ignore[index,union-attr]


def test_base_has_as_many_parameters_as_the_paper(small_vit: Callable[..., Backbone]) -> None:
    with torch.device("meta"):
        net = MAE(backbone.build("vit_base_patch16_224"), (224, 224))
    in_theirs = 197 * 512  # positions of the decoder are a buffer here, and the class token has none
    assert sum(p.numel() for p in net.parameters()) + in_theirs == 111_907_840


def test_what_cannot_be_masked_so_is_refused(small_vit: Callable[..., Backbone], tiny_backbone: type) -> None:
    with pytest.raises(UsageError, match="this method needs a plain vision transformer, and this backbone is not one"):
        MAE(tiny_backbone(), (32, 32))
    with pytest.raises(UsageError, match="patches of 8x8 pixels do not divide an image of 36x32; take --size"):
        MAE(small_vit(), (36, 32))
    with pytest.raises(UsageError, match="mask_ratio 0.97 of 16 places leaves nothing to see"):
        MAE(small_vit(), (32, 32), ratio=0.97)
