"""Exported detectors beside the networks they were made from: `python tests/bench/bench_export.py [--data FOLDER]`.

Every family of networks on a ResNet-50 (SSDLite on a MobileNet V2, ViTDet on a ViT), 80 classes, random weights:
one image at a time from bytes to detections, in torch and in onnxruntime (--format). Both see an image in turn, on one
thread; CPU time, the median of the ratios, and they must find the same boxes. --threads 2 measures wall time instead.
Photographs are those of FOLDER/coco-tiny.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.data.augment.presets import build_augment
from detection.exporting.graph import DetectionGraph
from detection.exporting.parity import Sheet, compare
from detection.inference.exported import GraphTask
from detection.inference.images import listed_files, pictures_of
from detection.nets import detector
from detection.training.task import DetectTask
from detection.types import Target
from shared.feeding.pixels import pixel_stats
from shared.graphs.run import open_graph
from shared.graphs.write import trace, write

GOAL = 1.5
CLASSES, SIZE = 80, (320, 416)
NETWORKS = {
    "fcos": "resnet_v1_50",
    "retinanet": "resnet_v1_50",
    "efficientdet_d0": "resnet_v1_50",
    "ssd": "resnet_v1_50",
    "ssdlite": "mobilenet_v2",
    "faster_rcnn": "resnet_v1_50",
    "mask_rcnn": "resnet_v1_50",
    "keypoint_rcnn": "resnet_v1_50",
    "vitdet": "vit_small_patch16_224",
    "detr": "resnet_v1_50",
    "smca_detr": "resnet_v1_50",
    "deformable_detr": "resnet_v1_50",
}


def graph_of(network: str) -> DetectionGraph:
    """Random weights that differ more than initial ones, so that scores do."""
    torch.manual_seed(0)
    least = {"min_score": 0.001} if "min_score" in detector.options(network) else {}  # so that all find something
    net = detector.build(network, backbone.build(NETWORKS[network]), CLASSES, **least)
    with torch.no_grad():
        for value in net.parameters():
            if value.dim() > 1:
                value += 0.2 * torch.randn_like(value) * value.std()
    return DetectionGraph(DetectTask(net, pixel_stats("imagenet")).eval(), SIZE)


def photographs(folder: Path | None, count: int) -> list[tuple[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    if folder is None:
        return [(str(n), torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8))) for n in range(count)]
    resize = build_augment("hflip", size=SIZE, train=False)
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    files = [str(path) for path in listed_files([str(folder / "coco-tiny" / "val2017")])[:count]]
    return [(one.path.name, resize(one.pixels, nothing, rng)[0]) for one in pictures_of(files, None)]


def measured(network: str, kind: str, images: list[tuple[str, torch.Tensor]]) -> Sheet:
    graph = graph_of(network)
    names = graph.names()
    with tempfile.TemporaryDirectory() as folder:
        program = trace(graph, torch.zeros(1, 3, *SIZE, dtype=torch.uint8), {}, network)
        write(program, Path(folder), kind, names, network)
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        return compare(graph.eager, GraphTask(open_graph(Path(folder), kind, names), 1), images, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--format", default="onnx", choices=("onnx", "openvino", "torch"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = photographs(options.data, options.rounds)
    print(
        f"{SIZE[0]}x{SIZE[1]}, {torch.get_num_threads()} thread(s), {options.format}, {len(images)} images, goal {GOAL}"
    )
    for network in options.networks:
        facts = measured(network, options.format, images).facts()
        ms, ratio = facts["milliseconds"], facts["times_as_fast"]
        print(
            f"{network:<16} {NETWORKS[network]:<22} torch {ms['network']:7.1f} ms  {options.format} "
            f"{ms['exported']:7.1f} ms  {ratio:5.2f} times as fast {'' if ratio >= GOAL else '(below the goal)':<16}  "
            f"{facts['matched']} of {facts['compared']} detections the same",
            flush=True,
        )


if __name__ == "__main__":
    main()
