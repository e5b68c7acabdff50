"""A training step of MAE compared with one built from lightly's modules: `python tests/bench/bench_mae.py`.

Same ViT, weights, masks and batch: normalize, forward, backward. CPU time on one thread, alternating, median of the
ratios; then memory of the activations kept for the backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from backbones.tokens import vit_of
from pretrain.masked.mae import MAE
from pretrain.masked.places import split_places
from shared.feeding.pixels import Normalize, pixel_stats

GOAL = 1.0


class WithLightly(nn.Module):
    """The same step built as in lightly's documentation, with our weights."""

    def __init__(self, ours: MAE) -> None:
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        vit, mine, side = deepcopy(vit_of(ours.backbone)), ours.decoder, ours.tall
        self.free, self.seen, self.side = vit.num_prefix_tokens, ours.seen, side
        self.encoder = MaskedVisionTransformerTIMM(vit, weight_initialization="skip", pos_embed_initialization="skip")
        self.decoder = MAEDecoderTIMM(
            num_patches=len(mine.positions),
            patch_size=side,
            embed_dim=vit.embed_dim,
            decoder_embed_dim=mine.positions.shape[1],
            decoder_depth=len(mine.blocks) + 1,
            decoder_num_heads=mine.last.attn.num_heads,  # type: ignore[arg-type,union-attr]
            num_prefix_tokens=self.free,
        )
        theirs = self.decoder
        theirs.decoder_embed.load_state_dict(mine.embed.state_dict())
        nn.Sequential(*theirs.decoder_blocks).load_state_dict(nn.Sequential(*mine.blocks, mine.last).state_dict())
        theirs.decoder_norm.load_state_dict(mine.norm.state_dict())
        colors_last = torch.arange(3 * side**2).view(3, side, side).permute(1, 2, 0).flatten()
        with torch.no_grad():
            theirs.decoder_pred.weight.copy_(mine.predict.weight[colors_last])
            theirs.decoder_pred.bias.copy_(mine.predict.bias[colors_last])
            theirs.mask_token.copy_(mine.mask_token)
            theirs.decoder_pos_embed.zero_()[0, self.free :] = mine.positions

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        from lightly.models.utils import get_at_index, normalize_mean_var, patchify, repeat_token, set_at_index

        seen, hidden = split_places(noise, self.seen)
        kept = torch.cat((torch.arange(self.free).expand(len(x), -1), seen + self.free), 1)
        encoded = self.decoder.embed(self.encoder.encode(x, idx_keep=kept))
        tokens = repeat_token(self.decoder.mask_token, (len(x), noise.shape[1] + self.free))
        tokens = self.decoder.decode(set_at_index(tokens, kept, encoded))
        predicted = self.decoder.predict(get_at_index(tokens, hidden + self.free))
        return F.mse_loss(predicted, normalize_mean_var(get_at_index(patchify(x, self.side), hidden)))


def seconds(net: nn.Module, batch: Tensor, noise: Tensor, normalize: nn.Module) -> tuple[float, float]:
    """CPU time of a step in seconds, and its loss."""
    began = time.process_time()
    loss = net(normalize(batch), noise)
    loss.backward()
    net.zero_grad(set_to_none=True)
    return time.process_time() - began, loss.item()


def kept_for_backward(forward: Callable[[], Tensor]) -> float:
    """MB of distinct activations that autograd saves in a forward pass."""
    held: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = forward()
        megabytes = sum(held.values()) / 2**20
    del loss
    return megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=16)
    told = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = MAE(backbone.build(told.model), (told.size, told.size)).train()
    nets = {"lightly": WithLightly(ours).train(), "ours": ours}
    normalize = Normalize(pixel_stats("imagenet"))
    batch = torch.randint(256, (told.batch, 3, told.size, told.size), dtype=torch.uint8)
    places = ours.grid[0] * ours.grid[1]
    spent: dict[str, list[float]] = {name: [] for name in nets}
    for n in range(told.rounds + 1):
        noise, losses = torch.rand(told.batch, places), {}
        for name in (list(nets), list(nets)[::-1])[n % 2]:
            took, losses[name] = seconds(nets[name], batch, noise, normalize)
            spent[name].append(took)
        assert abs(losses["ours"] - losses["lightly"]) < 1e-5, losses
    ratio = statistics.median(a / b for a, b in zip(spent["lightly"][1:], spent["ours"][1:], strict=True))
    print(f"MAE step, {told.model} at {told.size} px, batch {told.batch}, {ours.seen} of {places} patches seen")
    for name, times in spent.items():  # the first round is a warm-up
        kept = kept_for_backward(lambda net=nets[name]: net(normalize(batch), torch.rand(told.batch, places)))
        print(f"  {name:20} {statistics.median(times[1:]) * 1000:9.1f} ms   {kept:8.1f} MB kept for the backward pass")
    print(f"  goal {GOAL} x: {'reached' if ratio >= GOAL else 'MISSED'} ({ratio:.3f} x)\n")


if __name__ == "__main__":
    main()
