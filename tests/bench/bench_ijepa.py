"""A training step of I-JEPA compared with one built from lightly's modules: `python tests/bench/bench_ijepa.py`.

Same ViT, weights, masks and batch: normalize, forward, backward, EMA update. CPU time on one thread, alternating,
median of the ratios; memory of the activations kept for the backward pass; and mask sampling alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones.timm_zoo import Row, TimmBackbone
from backbones.tokens import vit_of
from pretrain.masked.block_masks import Masks
from pretrain.methods import Facts
from pretrain.methods.ijepa import IJEPA
from shared.feeding.pixels import PIXEL_STATS


class WithLightly(nn.Module):
    """The training step of `ours` built from lightly's modules, with the same weights."""

    def __init__(self, ours: IJEPA) -> None:
        from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        vit, mine = deepcopy(vit_of(ours.backbone)), ours.predictor
        self.normalize = ours.normalize
        self.encoder = MaskedVisionTransformerTIMM(vit, weight_initialization="skip", pos_embed_initialization="skip")
        self.target = deepcopy(self.encoder).requires_grad_(False)
        blocks: Any = [*mine.blocks, mine.last]
        self.predictor = IJEPAPredictorTIMM(
            num_patches=len(mine.positions),
            depth=len(blocks),
            mlp_dim=vit.embed_dim,
            predictor_embed_dim=mine.positions.shape[1],
            num_heads=blocks[0].attn.num_heads,
        )
        decoder = self.predictor.decoder
        decoder.blocks.load_state_dict(nn.Sequential(*blocks).state_dict())
        decoder.norm.load_state_dict(mine.norm.state_dict())
        self.predictor.predictor_embed.load_state_dict(mine.narrow.state_dict())
        self.predictor.predictor_proj.load_state_dict(mine.widen.state_dict())
        with torch.no_grad():
            decoder.mask_token.copy_(mine.mask_token)
            decoder.pos_embed.copy_(mine.positions[None])

    def forward(self, images: Tensor, masks: Masks) -> Tensor:
        from lightly.models.utils import apply_masks

        x, blocks = self.normalize(images), list(masks.targets.unbind(1))
        with torch.no_grad():
            features = self.target.encode(x)
            wanted = apply_masks(F.layer_norm(features, features.shape[-1:]), blocks)
        seen = self.encoder.encode(x, idx_keep=masks.context)
        return F.smooth_l1_loss(self.predictor(seen, [masks.context], blocks), wanted)

    def after_step(self, momentum: float) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.encoder, self.target, momentum)


class Pair:
    """Both implementations on one batch; both use `masks` in the next step."""

    def __init__(self, ours: IJEPA, images: Tensor) -> None:
        self.ours, self.images = ours, images
        self.lightly = WithLightly(ours).train()
        self.ours.draw = lambda task, count: self.masks  # pyright: ignore[reportAttributeAccessIssue]
        self.draw(0)

    def draw(self, step: int) -> None:
        self.masks = self.ours.masks.draw(len(self.images), step)

    def losses(self) -> dict[str, Callable[[], Tensor]]:
        return {
            "lightly": lambda: self.lightly(self.images, self.masks),
            "ours": lambda: self.ours((self.images, None))["prediction"],
        }

    def steps(self) -> dict[str, Callable[[], float]]:
        follow = {
            "lightly": lambda: self.lightly.after_step(self.ours.momentum),
            "ours": lambda: self.ours.after_step(0),
        }
        nets = {"lightly": self.lightly, "ours": self.ours}

        def step(name: str) -> float:
            loss = self.losses()[name]()
            loss.backward()
            follow[name]()
            nets[name].zero_grad(set_to_none=True)
            return loss.item()

        return {"lightly": lambda: step("lightly"), "ours": lambda: step("ours")}


def compare(variants: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[int], None]) -> float:
    """Print the median time of each in ms -> how many times faster the last is than the first."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for n in range(rounds + 1):
        before(n)
        results = []
        for name in list(variants)[:: 1 if n % 2 else -1]:
            began = time.process_time()
            results.append(variants[name]())
            spent[name].append((time.process_time() - began) * 1000)
        if isinstance(results[0], float):
            assert max(results) - min(results) < 1e-5, results  # type: ignore[type-var]
    first, *_, last = (times[1:] for times in spent.values())  # the first round is a warm-up
    for name, times in spent.items():
        print(f"  {name:20} {statistics.median(times[1:]):9.1f} ms")
    return statistics.median(a / b for a, b in zip(first, last, strict=True))


def kept_for_backward(forward: Callable[[], Tensor], net: nn.Module) -> float:
    """MB of tensors that autograd saves for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    held: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = forward()
    assert loss.requires_grad
    return sum(held.values()) / 2**20


def steps(options: argparse.Namespace) -> None:
    args = {
        "img_size": options.size, "patch_size": 16, "embed_dim": options.width, "depth": 12,
        "num_heads": options.width // 64, "class_token": False, "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    facts = Facts((options.size, options.size), None, PIXEL_STATS["imagenet"])
    vit = TimmBackbone(Row("vision_transformer", args))
    ours = IJEPA(vit, facts, predictor_depth=options.predictor_depth).train()
    images = torch.randint(256, (options.batch, 3, *facts.size), dtype=torch.uint8)
    print(f"I-JEPA, ViT/16 of width {options.width} at {options.size} px, batch {options.batch}; one step")
    pair = Pair(ours, images)
    ratio = compare(pair.steps(), options.rounds, pair.draw)
    print(f"  goal 1.0 x: {'reached' if ratio >= 1 else 'MISSED'} ({ratio:.3f} x)")
    held = {name: kept_for_backward(f, getattr(pair, name)) for name, f in pair.losses().items()}
    print("  kept for the backward pass: " + ", ".join(f"{name} {size:.0f} MB" for name, size in held.items()))


def masks(options: argparse.Namespace) -> None:
    from lightly.data import IJEPAMaskCollator

    from pretrain.masked.block_masks import BlockMasks

    ours, images = BlockMasks((14, 14)), [torch.zeros(1)] * options.mask_batch
    theirs = IJEPAMaskCollator(input_size=(224, 224), patch_size=16, nenc=1, npred=4)
    print(f"masks of {options.mask_batch} images of 14x14 patches")
    variants = {"lightly": lambda: theirs(images) and None, "ours": lambda: ours.draw(len(images), 0) and None}
    ratio = compare(variants, options.rounds, lambda n: None)
    print(f"  {ratio:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--width", type=int, default=192, help="of the encoder: 192 tiny, 384 small, 768 base")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--predictor-depth", type=int, default=6)
    parser.add_argument("--mask-batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps(options)
    masks(options)


if __name__ == "__main__":
    main()
