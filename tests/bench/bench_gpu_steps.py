"""Training steps on a GPU, ours beside what one would use instead: `python tests/bench/bench_gpu_steps.py [NAME ...]`.

    beside timm            resnet, vit, hrnet
    beside torchvision     faster_rcnn, mask_rcnn, retinanet, fcos
    beside transformers    detr, deformable_detr
    alone                  vicreg, mae, ijepa, vitdet, efficientdet, ssd, smca, rt_detr, dino

Ours is the loop's own `train_step` on a batch that lies on the device, all in bfloat16, also compiled. Images/s are the
medians of steps that are waited for, ratios are of one run; the peak is of memory that tensors held. `--small` runs
everything at toy sizes on a CPU: it shows that this page runs, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import bench_detector_steps as detectors
import bench_detr_step as detrs
import bench_rcnn_steps as rcnns

from backbones import backbone
from detection.nets import detector
from detection.training.task import DetectTask
from pretrain.data.shards import stacked
from pretrain.methods import Facts, method
from shared.devices.device import to_device
from shared.feeding.pixels import PIXEL_STATS, pixel_stats
from shared.loop.trainer import Trainer
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig

Step = Callable[[], object]
COMPILED: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, --compile-backbone": {"compile_backbone": True},
    "ours, --compile": {"compile": True},
}


class OneBatch:
    """What the loop asks of a feed, of which only `train_step` is used."""

    whole_epochs, workers, micro_batches, bad = False, 0, 1, frozenset[int]()
    steps_per_epoch = 1000.0

    def __init__(self, images: int) -> None:
        self.batch_size = self.step_size = images


class Bench:
    """Times steps on one device and prints them. small: toy sizes on a CPU, without compiled forms."""

    def __init__(self, small: bool) -> None:
        self.small, self.device = small, torch.device("cpu" if small else "cuda")
        self.ways = {"ours": {}} if small else COMPILED

    def time(self, label: str, images: int, step: Step) -> float:
        """Images per second."""
        gc.collect()
        if not self.small:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(1 if self.small else 6):
            step()
        self.wait()
        began, each = time.perf_counter() - start, []
        for _ in range(1 if self.small else 20):
            start = time.perf_counter()
            step()
            self.wait()
            each.append(time.perf_counter() - start)
        seconds = statistics.median(each)
        peak = 0.0 if self.small else torch.cuda.max_memory_allocated() / 2**30
        print(
            f"  {label:<28} {images / seconds:9.1f} images/s  {1000 * seconds:8.1f} ms  peak {peak:6.2f} GB  "
            f"first steps {began:6.1f} s",
            flush=True,
        )
        return images / seconds

    def wait(self) -> None:
        if not self.small:
            torch.cuda.synchronize()

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=not self.small)

    def theirs(self, label: str, net: nn.Module, images: int, loss: Callable[[], Tensor]) -> float:
        """An eager loop with AdamW."""
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)

        def step() -> None:
            with self.autocast():
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        return self.time(label, images, step)

    def ours(self, make: Callable[[], Any], images: int, batch: Any, beside: float | None = None) -> None:
        """Our loop in each way, beside images per second of another's."""
        for label, flags in self.ways.items():
            with tempfile.TemporaryDirectory() as folder:
                feed: Any = OneBatch(images)
                runtime = RuntimeConfig(
                    batch_size=images, amp=not self.small, amp_dtype="bfloat16", save_every=None, **flags
                )
                trainer = Trainer(
                    make(),
                    feed,
                    None,
                    optim=OptimConfig(opt="adamw", lr=1e-5),
                    schedule=ScheduleConfig(epochs=1),
                    runtime=runtime,
                    run_dir=Path(folder),
                    device=self.device,
                )
                there = to_device(batch, self.device)
                rate = self.time(label, images, partial(self.step, trainer, there))
            if beside is not None:
                print(f"  {'':<28} {rate / beside:9.2f} times theirs", flush=True)
            torch._dynamo.reset()

    @staticmethod
    def step(trainer: Trainer, batch: Any) -> None:
        trainer.train_step([batch])
        trainer.step += 1


def classify(bench: Bench, name: str, theirs: str, images: int, size: int = 224) -> None:
    import timm

    images, size = (2, 64) if bench.small else (images, size)
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8, device=bench.device)
    labels = torch.randint(1000, (images,), device=bench.device)
    mean, std = (torch.tensor(part, device=bench.device).view(1, 3, 1, 1) * 255 for part in PIXEL_STATS["imagenet"])
    net: Any = timm.create_model(theirs, num_classes=1000).train()
    net.to(bench.device, memory_format=torch.channels_last)

    def loss() -> Tensor:
        x = ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(net(x), labels, label_smoothing=0.1)

    rate = bench.theirs(f"timm {theirs}", net, images, loss)
    facts = Facts((size, size), 1000, pixel_stats("imagenet"))
    bench.ours(lambda: method.build("supervised", backbone.build(name), facts), images, (pixels, labels), rate)


def learn_alone(bench: Bench, name: str, kind: str, images: int, **options: Any) -> None:
    """A method without labels. Four images are repeated, since views are drawn on the host."""
    images, size = (4, 128) if bench.small else (images, 224)
    facts = Facts((size, size), None, pixel_stats("imagenet"))
    task = method.build(kind, backbone.build(name), facts, **options)
    view = task.view()
    image = torch.randint(0, 256, (3, size + 32, size + 32), dtype=torch.uint8)
    few = [view(image, np.random.default_rng(i)) for i in range(4)]
    batch: tuple[Any, ...] = (stacked([few[i % 4] for i in range(images)]), torch.zeros(images, dtype=torch.long))
    if (drawn := task.beside()) is not None:
        batch = (*batch, drawn(0, images))
    bench.ours(lambda: method.build(kind, backbone.build(name), facts, **options), images, batch)


def batch_of(bench: Bench, network: str, images: int, size: tuple[int, int]) -> tuple[list[Tensor], list[Any]]:
    detectors.HEIGHT, detectors.WIDTH = size
    rng = torch.Generator().manual_seed(1)
    pixels = [torch.randint(256, (3, *size), generator=rng, dtype=torch.uint8) for _ in range(images)]
    targets: list[Any] = [detectors.objects(12, rng) for _ in pixels]
    for target in targets if network.startswith("mask") else ():
        target["masks"] = torch.zeros(12, *size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
    return to_device((pixels, targets), bench.device)


def beside_torchvision(bench: Bench, network: str, images: int = 8) -> None:
    size, body = ((64, 96), "resnet18") if bench.small else ((800, 1088), "resnet50")
    images = 2 if bench.small else images
    pair: Any = rcnns if network == "mask_rcnn" else detectors
    pair.HEIGHT, pair.WIDTH = size
    torch.manual_seed(0)
    other = pair.theirs(network, body).train()
    weights = other.state_dict()
    other = other.to(bench.device)
    pixels, targets = batch_of(bench, network, images, size)
    floats, first = [image / 255 for image in pixels], int(network.endswith("rcnn"))
    known = [{**target, "labels": target["labels"] + first} for target in targets]
    rate = bench.theirs("torchvision", other, images, lambda: torch.stack([*other(floats, known).values()]).sum())

    def make() -> DetectTask:
        same = pair.theirs(network, body)
        same.load_state_dict(weights)
        return pair.ours(network, body, same)

    bench.ours(make, images, (pixels, targets), rate)


def beside_transformers(bench: Bench, network: str, images: int = 4) -> None:
    """The networks alone in eager loops: both get normalized pixels."""
    size, body = (96, "resnet18") if bench.small else (800, "resnet50")
    images = 2 if bench.small else images
    torch.manual_seed(0)
    ours, theirs = detrs.networks(body)[network]()
    padded, targets = detrs.a_batch(size, images, 8)
    there, objects = to_device((padded, targets), bench.device)
    pair = detrs.Pair(ours.to(bench.device), theirs.to(bench.device), there, objects)
    rates = [bench.theirs(name, pair.nets[name], images, partial(pair.loss, name)) for name in ("transformers", "ours")]
    print(f"  {'':<28} {rates[1] / rates[0]:9.2f} times theirs", flush=True)


def detect(bench: Bench, network: str, body: str, images: int, size: tuple[int, int], small: str) -> None:
    images, size, body = (2, (128, 128), small) if bench.small else (images, size, body)
    options = detector.facts(network).get("tiny", {}) if bench.small else {}
    batch = batch_of(bench, network, images, size)

    def make() -> DetectTask:
        return DetectTask(detector.build(network, backbone.build(body), 80, **options), pixel_stats("imagenet"))

    bench.ours(make, images, batch)


def jobs(bench: Bench) -> dict[str, Callable[[], None]]:
    small, resnet = bench.small, "resnet10t" if bench.small else "resnet_v1_50"
    vit = "test_vit" if small else "vit_base_patch16_224"
    narrow = {"predictor_heads": 4, "predictor_width": 64} if small else {}
    wide = (800, 1088)
    return {
        "resnet": lambda: classify(bench, resnet, "resnet10t" if small else "resnet50", 256),
        "vit": lambda: classify(bench, vit, "test_vit" if small else vit, 256, size=160 if small else 224),
        "hrnet": lambda: classify(bench, "hrnet_w32c", "hrnet_w32", 128),
        "vicreg": lambda: learn_alone(bench, resnet, "vicreg", 256, **({"expander_width": 64} if small else {})),
        "mae": lambda: learn_alone(bench, vit, "mim", 256),
        "ijepa": lambda: learn_alone(bench, vit, "i-jepa", 128, **narrow),
        **{
            name: partial(beside_torchvision, bench, name) for name in ("faster_rcnn", "mask_rcnn", "retinanet", "fcos")
        },
        **{name: partial(beside_transformers, bench, name) for name in ("detr", "deformable_detr")},
        "vitdet": lambda: detect(bench, "vitdet", "vit_det_m16_rms", 4, (672, 672), "test_vit2"),
        "efficientdet": lambda: detect(bench, "efficientdet_d0", "efficientnet_v1_b0", 16, (512, 512), "test_resnet"),
        "ssd": lambda: detect(bench, "ssd", "mobilenet_v4_m", 32, (320, 320), "test_resnet"),
        "smca": lambda: detect(bench, "smca_detr", "resnet_v1_50", 4, wide, "test_resnet"),
        "rt_detr": lambda: detect(bench, "rt_detr", "resnet_v1_50", 8, (640, 640), "test_resnet"),
        "dino": lambda: detect(bench, "dino_detr", "resnet_v1_50", 2, wide, "test_resnet"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--small", action="store_true", help="toy sizes on a CPU")
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found; --small shows on a CPU that this runs")
    bench = Bench(args.small)
    offered = jobs(bench)
    if wrong := set(args.names) - set(offered):
        raise SystemExit(f"no {', '.join(sorted(wrong))}; there are {', '.join(offered)}")
    torch.backends.cudnn.benchmark = True
    print(f"{'a CPU' if args.small else torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16", flush=True)
    failed = []
    for name in args.names or offered:
        print(name, flush=True)
        try:
            offered[name]()
        except Exception as error:  # the others are still measured
            failed.append(name)
            print(f"  failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
        gc.collect()
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
