"""`pretrain export`: a backbone of a tag as a file for another runtime.

    uint8 (B, 3, H, W) -> normalized -> backbone -> stride_4, stride_8, ... (B, C, H/s, W/s), pooled (B, width)

    backbone, size -> model.onnx | model.xml, model.bin | model.pt2
                      card.json      input, outputs, pixel statistics, digests, versions
    photographs    -> parity.json    largest difference of every output, milliseconds

Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.inherit import fill, rebuild
from pretrain.views.crops import ResizeCenterCrop
from shared.errors import DataError, Parted, UsageError, WeightsError
from shared.feeding.image import BadImage, decode_image
from shared.feeding.names import images_below
from shared.feeding.pixels import Normalize, PixelStats
from shared.files import naming, write_json
from shared.graphs.folder import check_empty, digests, new_folder, spread
from shared.graphs.run import Graph, open_graph
from shared.graphs.write import FORMATS, INPUT, OPSET, check_installed, trace, versions_of, write
from shared.weights.card import Exported, expected_pixels, versions
from shared.weights.store import Store

log = logging.getLogger(__name__)
KIND = "exported backbone"
CLOSE = 1e-3  # largest difference of an output, as a share of its largest value
MOST_IMAGES = 1024  # of one run, where their number is free
POOLED = "pooled"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to export.

    kind: a name of FORMATS.
    out: an empty or new folder; None for one named after the weights, below `exports`.
    size: height and width of the input; None for that of training.
    batch: images of one run; None for any number.
    outputs: "maps", "pooled" or "both".
    photographs: files and folders to compare on; () for images of noise.
    most: how many of them; 0 for no comparison.
    """

    kind: str = "onnx"
    out: Path | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    outputs: str = "both"
    photographs: tuple[Path, ...] = ()
    most: int = 16


class BackboneGraph(nn.Module):
    """A backbone with its normalization.

    Its maps and its vector are two functions that begin alike. ONNX computes that part once, a torch.export program
    twice.

    Args:
        outputs: "maps", "pooled" or "both".
    """

    def __init__(self, net: Backbone, stats: PixelStats, outputs: str) -> None:
        super().__init__()
        self.net, self.normalize = net, Normalize(stats)
        self.maps = named_maps(net) if outputs != POOLED else []
        self.names = self.maps + ([POOLED] if outputs != "maps" else [])

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, H, W) -> a tensor for each of `names`"""
        x = self.normalize(image)
        maps = self.net.forward_features(x) if self.maps else []
        return (*maps, self.net(x)) if POOLED in self.names else tuple(maps)

    @torch.no_grad()
    def once(self, image: Tensor) -> Any:
        """Maps, or the vector where only that is wanted: what the time of the network is measured on."""
        x = self.normalize(image)
        return self.net.forward_features(x) if self.maps else self.net(x)


def named_maps(net: Backbone) -> list[str]:
    """stride_4, stride_8, ...; where two maps have one stride, their number follows."""
    strides = [info.stride for info in net.maps]
    return [f"stride_{s}" if strides.count(s) == 1 else f"stride_{s}_{i}" for i, s in enumerate(strides)]


def export(exported: Exported, store: Store, wanted: Wanted) -> tuple[Path, dict[str, Any] | None]:
    """Write the folder of an exported backbone and compare it with the network, in float32, on the processor.

    Returns:
        The folder, and the parity sheet; None without a comparison.

    Raises:
        UsageError: a missing package, a size that the backbone does not accept, or a folder that is not empty.
        ExportFailed: the installed releases cannot export this backbone.
        DataError: no photograph can be read.
        WeightsError: these are no weights of a backbone, or they do not match.
    """
    card = exported.card
    if card.kind != "backbone":
        raise WeightsError(f"{exported} is a {card.kind}; export it with `detect export --weights {card.tag}`")
    out = wanted.out or Path("exports") / f"{card.arch}-{card.tag}-{exported.digest[:6]}-{wanted.kind}"
    check_installed(wanted.kind, to_run=wanted.most > 0)
    check_empty(out)
    net = rebuild(card)
    fill(store, net, exported)
    size = wanted.size or size_of(card.recipe, net)
    net.check_size(size)
    graph = BackboneGraph(net, expected_pixels(exported), wanted.outputs).eval()
    coarsest = max(info.stride for info in net.maps)
    if min(size) < coarsest:
        raise UsageError(f"{card.arch} has a map of stride {coarsest}, and {size[0]}x{size[1]} is smaller; give --size")
    images = images_of(wanted, size) if wanted.most else []
    with new_folder(out) as partial:
        began = time.perf_counter()
        example = torch.zeros(wanted.batch or 2, 3, *size, dtype=torch.uint8)
        program = trace(graph, example, {} if wanted.batch else {0: (1, MOST_IMAGES)}, card.arch)
        with naming(out / FORMATS[wanted.kind].file):
            file = write(program, partial, wanted.kind, graph.names, card.arch)
        log.info("wrote %s of %s in %.0f s", file.name, exported, time.perf_counter() - began)
        facts = facts_of(exported, wanted, graph, size) | {"files": digests(partial)}
        sheet = None
        if images:
            sheet = compare(graph, open_graph(partial, wanted.kind, graph.names), images, wanted.batch or 1)
            write_json(partial / "parity.json", sheet)
        write_json(partial / "card.json", facts | {"parity": sheet})
    return out, sheet


def size_of(recipe: dict[str, Any], net: Backbone) -> tuple[int, int]:
    """Height and width of the training, or those that the backbone accepts, or 224."""
    told = tuple(recipe.get("size") or net.only or (224,))
    return told[0], told[-1]


def images_of(wanted: Wanted, size: tuple[int, int]) -> list[Tensor]:
    """uint8 (3, H, W) photographs, their centers; images of noise if none are given.

    Raises:
        DataError: a missing file, or no photograph can be read.
    """
    if not wanted.photographs:
        log.warning("no photographs were given, so both are compared on images of noise; give --photos")
        rng = torch.Generator().manual_seed(0)
        return [torch.randint(0, 256, (3, *size), generator=rng).byte() for _ in range(min(wanted.most, 4))]
    files: list[Path] = []
    for source in wanted.photographs:
        if not source.exists():
            raise DataError(f"there is no file {source}; give photographs, or folders of them, with --photos")
        files += images_below(source)[0] if source.is_dir() else [source]
    crop, found = ResizeCenterCrop(size), []
    for path in spread(files, wanted.most):
        try:
            found.append(crop(decode_image(path.read_bytes(), upright=True)))
        except (OSError, BadImage) as error:
            log.warning("skipped %s: %s", path, error)
    if not found:
        raise DataError(f"none of {len(files)} files can be read as an image; give photographs with --photos")
    return found


def compare(graph: BackboneGraph, exported: Graph, images: Sequence[Tensor], batch: int) -> dict[str, Any]:
    """The parity sheet: largest differences over all images, as shares of each output's largest value; times.

    The network's time is that of its maps, even where the file also gives the pooled vector.
    """
    apart, own_ms, other_ms = dict.fromkeys(graph.names, 0.0), [], []
    for first in range(0, len(images), batch):
        some = list(images[first : first + batch])
        full = torch.stack([*some, *some[-1:] * (batch - len(some))])
        own = dict(zip(graph.names, graph(full), strict=True))
        if not first:  # the first run prepares the others
            exported(full)
        began = time.perf_counter()
        graph.once(full)
        between = time.perf_counter()
        other = exported(full)
        own_ms.append((between - began) * 1000 / batch)
        other_ms.append((time.perf_counter() - between) * 1000 / batch)
        for name, value in own.items():
            share = float((value - other[name]).abs().max() / value.abs().max().clamp(min=1e-12))
            apart[name] = max(apart[name], share)
    ratios = [one / two for one, two in zip(own_ms, other_ms, strict=True)]
    return {
        "alike": max(apart.values()) <= CLOSE,
        "images": len(images),
        "largest_difference": apart,
        "milliseconds": {
            "network": round(statistics.median(own_ms), 2),
            "exported": round(statistics.median(other_ms), 2),
        },
        "times_as_fast": round(statistics.median(ratios), 3),
        "threads": torch.get_num_threads(),
    }


def lines_of(sheet: dict[str, Any]) -> list[str]:
    """The sheet for a terminal."""
    worst = max(sheet["largest_difference"], key=sheet["largest_difference"].__getitem__)
    ms = sheet["milliseconds"]
    return [
        f"parity: on {sheet['images']} images the outputs differ by at most {sheet['largest_difference'][worst]:.2g} "
        f"of their largest value ({worst})",
        f"an image takes {ms['exported']:.0f} ms exported, {ms['network']:.0f} ms in torch, on {sheet['threads']} "
        f"threads: {sheet['times_as_fast']:.2f} times as fast",
    ]


def check(sheet: dict[str, Any], folder: Path) -> None:
    """Raise Parted unless both give the same."""
    if not sheet["alike"]:
        worst = max(sheet["largest_difference"], key=sheet["largest_difference"].__getitem__)
        raise Parted(
            f"{folder} does not give what the network gives: {worst} differs by "
            f"{sheet['largest_difference'][worst]:.2g} of its largest value; do not use it, and try another --format "
            f"or other releases of its packages"
        )


def facts_of(exported: Exported, wanted: Wanted, graph: BackboneGraph, size: tuple[int, int]) -> dict[str, Any]:
    """The card, without what is known only after writing."""
    card, batch = exported.card, wanted.batch or [1, MOST_IMAGES]
    maps = [[info.channels, -(-size[0] // info.stride), -(-size[1] // info.stride)] for info in graph.net.maps]
    shapes = dict(zip(named_maps(graph.net), maps, strict=True)) | {POOLED: [graph.net.width]}
    return {
        "kind": KIND,
        "format": wanted.kind,
        "file": FORMATS[wanted.kind].file,
        "batch": batch,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "layout": "batch, channels, height, width",
            "colors": "RGB",
            "height": size[0],
            "width": size[1],
            "normalization": "inside, as pixels",
        },
        "pixels": card.pixels,
        "outputs": {name: shapes[name] for name in graph.names},
        "weights": {**exported.reference, "sha256": card.sha256},
        "versions": versions() | versions_of(wanted.kind) | ({} if wanted.kind == "torch" else {"opset": str(OPSET)}),
        "created": time.time(),
        "trained": asdict(card),
    }
