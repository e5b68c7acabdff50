"""VICReg compared with lightly's: `python tests/bench/bench_vicreg.py [--data FOLDER]`.

The loss forward and backward at width 8192, its extra memory, and, with a folder of photographs, two views of an image
from JPEG bytes to normalized floats. CPU time on one thread, alternating variants, medians of ratios; memory is the
growth of the peak resident size, each variant in a separate process.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from pretrain.methods.vicreg import spread
from pretrain.views.color import Color
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, Several
from shared.feeding.image import decode_image
from shared.feeding.pixels import PIXEL_STATS, Normalize
from shared.feeding.plan import rng_for
from shared.host import process_peak

WIDTH = 8192


def ours(z: Tensor, z_: Tensor) -> Tensor:
    one, other = spread(z), spread(z_)
    variance = (one.variance + other.variance) / 2
    return 25 * torch.nn.functional.mse_loss(z, z_) + 25 * variance + one.covariance + other.covariance


def lightlys() -> Callable[[Tensor, Tensor], Tensor]:
    from lightly.loss import VICRegLoss

    return VICRegLoss()


def embeddings(count: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    z = torch.randn(count, width)
    return z.requires_grad_(), (z.detach() + 0.3 * torch.randn(count, width)).requires_grad_()


def seconds(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, z_: Tensor) -> float:
    z.grad = z_.grad = None
    start = time.process_time()
    loss(z, z_).backward()
    return time.process_time() - start


def compare_loss(count: int, rounds: int, goal: float) -> None:
    """Compare the losses; a round runs lightly's once and ours three times, since ours is much faster."""
    z, z_ = embeddings(count)
    theirs = lightlys()
    seconds(ours, z, z_)
    pairs = [(seconds(theirs, z, z_), statistics.median(seconds(ours, z, z_) for _ in range(3))) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    goal_and_whether = f"(goal {goal:.0f}) {told(ratio >= goal)}"
    print(f"loss, batch {count}: lightly {a:.0f} ms, ours {b:.1f} ms: {ratio:.1f} x {goal_and_whether}", flush=True)


def told(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def peak() -> float:
    """The most memory of this process so far, MB."""
    return (process_peak() or 0) / 2**20


def extra_memory(whose: str, count: int) -> float:
    """MB by which one forward and backward pass raises the peak memory, without the gradients of the embeddings."""
    loss = ours if whose == "ours" else lightlys()
    small = embeddings(16, 64)
    seconds(loss, *small)  # initialize libraries
    z, z_ = embeddings(count)
    z.grad, z_.grad = torch.ones_like(z), torch.ones_like(z_)
    before = peak()
    loss(z, z_).backward()
    return peak() - before


def compare_memory(count: int) -> None:
    found = {}
    for whose in ("lightly", "ours"):
        words = [sys.executable, "-W", "ignore", __file__, "--memory", whose, "--batch", str(count)]
        found[whose] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    share = found["ours"] / found["lightly"]
    print(f"extra memory, batch {count}: lightly {found['lightly']:.0f} MB, ours {found['ours']:.0f} MB: ", end="")
    print(f"{share:.3f} of it (goal 0.1) {told(share <= 0.1)}", flush=True)


def compare_views(files: list[bytes], rounds: int) -> None:
    """Compare view creation: from the bytes of the same JPEGs to a batch of two normalized float views."""
    from lightly.transforms.vicreg_transform import VICRegTransform
    from PIL import Image

    theirs, normalize = VICRegTransform(), Normalize(PIXEL_STATS["imagenet"])

    def usual() -> list[Tensor]:
        samples = [theirs(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
        return [torch.stack(views) for views in zip(*samples, strict=True)]

    def with_colors(first: Color, second: Color, bicubic: bool) -> Callable[[], list[Tensor]]:
        crops = Several(Compose([RandomResizedCrop(224, bicubic=bicubic), HorizontalFlip(0.5)]), 2)

        def batch() -> list[Tensor]:
            samples = [crops(decode_image(data, upright=True), rng_for(0, 0, n)) for n, data in enumerate(files)]
            views = zip(*samples, strict=True)
            return [c(torch.stack(v), normalize) for c, v in zip((first, second), views, strict=True)]

        return batch

    same, plain = Color(blur=0.5, solarize=0.1), Color(0, 0, 0, 0)
    first, second = Color(blur=1.0), Color(blur=0.1, solarize=0.2)
    variants = {
        "lightly's VICRegTransform after Pillow's decoding": usual,
        "ours with its probabilities (bilinear, blur 0.5, solarize 0.1)": with_colors(same, same, False),
        "ours, the official recipe (bicubic, blur 1.0 / 0.1)": with_colors(first, second, True),
        "of which decoding, crops, flips, normalizing": with_colors(plain, plain, True),
    }
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for n in range(rounds + 1):
        for name in list(variants)[n % 4 :] + list(variants)[: n % 4]:
            start = time.process_time()
            variants[name]()
            spent[name].append((time.process_time() - start) / len(files) * 1000)
    print(f"two views of 224 px from a JPEG, {len(files)} photographs, one core, per image")
    reference = next(iter(spent.values()))[1:]  # the first round is a warm-up
    for name, times in spent.items():
        ratio = statistics.median(a / b for a, b in zip(reference, times[1:], strict=True))
        goal = f" (goal 2) {told(ratio >= 2)}" if name.startswith("ours") else ""
        print(f"  {name:64} {statistics.median(times[1:]):7.2f} ms  {ratio:5.2f} x{goal}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of real data; the views are left out without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="photographs in a round")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.batch))
        return
    if options.data:
        folder = options.data / "imagenet-sample" if (options.data / "imagenet-sample").is_dir() else options.data
        paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpeg", ".jpg")]
        compare_views([path.read_bytes() for path in paths[: options.images]], options.rounds + 2)
    for count, goal in ((256, 80), (1024, 10)):
        compare_loss(count, options.rounds, goal)
        compare_memory(count)


if __name__ == "__main__":
    main()
