"""`detect export`: a trained detector as a file for another runtime, with its card and its parity sheet.

    Trained, canvas -> DetectionGraph -> model.onnx | model.xml, model.bin | model.pt2
                                         card.json     classes, input, outputs, thresholds, digests, versions
    photographs     -> both           -> parity.json   detections matched, AP of both, milliseconds

The folder is written aside and appears whole. A folder that holds anything is never written to.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detection.data.augment.presets import Augmentation
from detection.data.augment.sizes import Size
from detection.data.photographs import chosen
from detection.exporting.graph import DetectionGraph
from detection.exporting.parity import Sheet, compare
from detection.inference.exported import KIND, GraphTask, Written
from detection.inference.images import listed_files, pictures_of
from detection.inference.trained import Trained, evaluate, validation_place
from detection.nets import detector, takes_proposals
from detection.recipe import DataConfig
from detection.types import Target
from shared.errors import UsageError
from shared.feeding.plan import rng_for
from shared.files import naming, write_json
from shared.graphs.folder import check_empty, digests, new_folder, spread
from shared.graphs.run import open_graph
from shared.graphs.write import FORMATS, INPUT, OPSET, check_installed, trace, versions_of, write
from shared.weights.card import versions

log = logging.getLogger(__name__)
SMALLEST = 2  # pixels of a side; torch.export takes 0 and 1 for something else
MEANING = {
    "boxes": "x0 y0 x1 y1 in pixels of the input",
    "labels": "index into classes.names; classes.source_ids are the ids of the annotation file",
    "scores": "from 0 to 1, best first; a row of score 0 is padding",
    "masks": "probabilities on a grid over the box, to be resized to the box",
    "heatmaps": "logits of each keypoint on a grid over the box; resized to it (bicubic), the maximum is the keypoint",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to export.

    kind: a name of FORMATS.
    out: an empty or new folder; None for one named after the weights, below `exports`.
    size, max_size: as of `Trained.resize`.
    canvas: height and width of the largest input; None for a square of the longest side. Only where the aspect ratio is
        kept: otherwise all inputs have one size.
    batch: images of one run.
    photographs: files and folders to compare on; () for the validation images.
    most: photographs to compare on; 0 for no comparison.
    data: the validation set; None for none, and then no AP.
    """

    kind: str = "onnx"
    out: Path | None = None
    size: tuple[int, ...] | None = None
    max_size: int | None = None
    canvas: Size | None = None
    batch: int = 1
    photographs: tuple[str, ...] = ()
    most: int = 16
    data: DataConfig | None = None


def export(trained: Trained, wanted: Wanted) -> tuple[Path, Sheet | None]:
    """Write the folder of an exported detector and compare it with the network.

    The network is exported in float32, on the processor.

    Returns:
        The folder, and the parity sheet, which says whether both find the same; None without a comparison.

    Raises:
        UsageError: a missing package, a network or a size that cannot be exported, or a folder that is not empty.
        ExportFailed: the installed releases cannot export this network.
        DataError: no photograph can be read.
    """
    card = trained.exported.card
    if isinstance(trained, Written):
        raise UsageError(f"{trained.exported.path} is exported already; give the weights that it was made from")
    name, out = card.args["network"], wanted.out or usual_folder(trained, wanted.kind)
    check_installed(wanted.kind, to_run=wanted.most > 0)
    check_empty(out)
    resize = resize_of(trained, wanted)
    if takes_proposals(name):
        raise UsageError(f"{name} needs stored proposals, so it cannot be exported; use `detect predict`")
    trained.task.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = DetectionGraph(trained.task, resize.output.canvas or resize.output.size)
    names = graph.names()
    photographs = photographs_of(wanted, resize) if wanted.most else []
    with new_folder(out) as partial:
        began = time.perf_counter()
        program = trace(graph, *example_of(graph, resize, wanted.batch), name)
        with naming(out / FORMATS[wanted.kind].file):
            file = write(program, partial, wanted.kind, names, name)
        log.info("wrote %s of %s in %.0f s", file.name, trained.exported, time.perf_counter() - began)
        facts = facts_of(trained, wanted, resize, graph, program, names) | {"files": digests(partial)}
        sheet = None
        if photographs:
            task = GraphTask(open_graph(partial, wanted.kind, names), wanted.batch)
            sheet = compare(graph.eager, task, photographs)
            if wanted.data is not None:
                sheet.ap = both_ap(trained, task, wanted.data, resize)
            write_json(partial / "parity.json", sheet.facts())
            facts["parity"] = {key: value for key, value in sheet.facts().items() if key != "photographs"}
        write_json(partial / "card.json", facts)
    return out, sheet


def usual_folder(trained: Trained, kind: str) -> Path:
    card = trained.exported.card
    return Path("exports") / f"{card.arch}-{card.tag}-{trained.exported.digest[:6]}-{kind}"


def resize_of(trained: Trained, wanted: Wanted) -> Augmentation:
    """The resize of evaluation, within a canvas where the aspect ratio is kept.

    Raises:
        UsageError: a canvas or a batch that the resize has no use for.
    """
    resize = trained.resize(wanted.size, wanted.max_size)
    output = resize.output
    if output.long is None:
        if wanted.canvas is not None:
            raise UsageError(
                f"images become exactly {output.size[0]}x{output.size[1]}, so there is no larger canvas; remove "
                f"--canvas, or give --size or --max-size"
            )
        return resize
    if wanted.batch > 1:
        raise UsageError(
            "images keep their aspect ratio, so several of one batch would have several sizes; remove --batch-size, or "
            "export weights that were trained with images of one size"
        )
    return replace(resize, output=replace(output, canvas=wanted.canvas or (output.long, output.long)))


def example_of(graph: DetectionGraph, resize: Augmentation, batch: int) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """An image to trace with, and the ranges of height and width where they vary."""
    height, width = resize.output.canvas or resize.output.size
    if resize.output.canvas is None:
        return torch.zeros(batch, 3, height, width, dtype=torch.uint8), {}
    ranges = {2: (SMALLEST, height), 3: (SMALLEST, width)}
    return torch.zeros(batch, 3, height - 1, width - 1, dtype=torch.uint8), ranges


def photographs_of(wanted: Wanted, resize: Augmentation) -> list[tuple[str, Tensor]]:
    """Names and resized pixels of the photographs to compare on, spread over those that are given."""
    config = wanted.data or DataConfig()
    if wanted.photographs:
        sources = [str(path) for path in spread(listed_files(list(wanted.photographs)), wanted.most)]
        found = pictures_of(sources, None)
    else:
        place = validation_place(config)
        if place.annotations is None:
            raise UsageError("the validation images are in shards; give --photos, a folder of photographs")
        turn = chosen(upright=config.upright, as_stored=config.as_stored)
        found = islice(pictures_of([str(place.images)], place.annotations, turn), wanted.most)
    if not wanted.photographs and wanted.data is None:
        log.warning("no photographs were given, so both are compared on images of the demo; give --photos")
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return [(one.path.name, resize(one.pixels, nothing, rng_for(0, 0, 0))[0]) for one in found]


def both_ap(
    trained: Trained, task: GraphTask, data: DataConfig, resize: Augmentation
) -> dict[str, tuple[float, float]]:
    """AP of the network and of the file on a validation set; of boxes, and of masks or keypoints."""
    own, other = (
        evaluate(data, one, batch_size=8, workers=0, size=None, save=None)
        for one in (Sized(trained, trained.task, resize), Sized(trained, task, resize))
    )
    wanted = [name for name in own if name.endswith("_ap")] or list(own)[:1]
    return {name: (own[name], other[name]) for name in wanted}


class Sized(Trained):
    """A trained detector with one resize, and another task."""

    def __init__(self, trained: Trained, task: Any, resize: Augmentation) -> None:
        super().__init__(trained.exported, trained.device, task=task)
        self.sized = resize

    def resize(self, size: tuple[int, ...] | None = None, max_size: int | None = None) -> Augmentation:
        return self.sized


def facts_of(
    trained: Trained, wanted: Wanted, resize: Augmentation, graph: DetectionGraph, program: Any, names: list[str]
) -> dict[str, Any]:
    """The card, without what is known only after writing."""
    card, output = trained.exported.card, resize.output
    fixed = output.canvas is None
    height, width = output.canvas or output.size
    shapes = [list(node.shape) for node in outputs_of(program)]
    options = {name: about.default for name, about in detector.options(card.args["network"]).items()}
    told = {name: getattr(trained.task.detector, name, None) for name in ("min_score", "nms_iou", "max_detections")}
    return {
        "kind": KIND,
        "format": wanted.kind,
        "file": FORMATS[wanted.kind].file,
        "batch": wanted.batch,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "layout": "batch, channels, height, width",
            "colors": "RGB",
            "height": height if fixed else [SMALLEST, height],
            "width": width if fixed else [SMALLEST, width],
            "normalization": "inside, as pixels",
            "padding": f"inside, to {graph.canvas[0]}x{graph.canvas[1]}",
        },
        "pixels": card.pixels,
        "resize": {
            "size": list(output.size),
            "long": output.long,
            "antialias": output.antialias,
            "rule": output.rule,
            "canvas": None if fixed else [height, width],
        },
        "outputs": {
            name: {"shape": shape, "meaning": MEANING[name]} for name, shape in zip(names, shapes, strict=True)
        },
        "thresholds": {name: value for name, value in told.items() if value is not None and name in options},
        "classes": card.classes,
        "weights": {**trained.exported.reference, "sha256": card.sha256},
        "versions": versions() | versions_of(wanted.kind) | ({} if wanted.kind == "torch" else {"opset": str(OPSET)}),
        "created": time.time(),
        "trained": asdict(card),
    }


def outputs_of(program: Any) -> list[Tensor]:
    """The tensors that come out of a traced program, without values."""
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    return [node.meta["val"] for node in last.args[0]]
