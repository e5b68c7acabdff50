"""`detect predict`: a trained detector on images.

files, folders, COCO file -> pictures_of -> Trained -> Predictions: pictures, results.json, images.json, results.csv
                                                                    panoptic.json and PNGs, annotations.json
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.data.augment.geometry import size_of
from detection.data.augment.sizes import Size
from detection.data.photographs import Turn
from detection.drawing.draw import draw_detections
from detection.eval.panoptic_output import PanopticFolder
from detection.eval.results import entries, for_scoring, read_detections
from detection.inference import labeling
from detection.inference.addresses import shown
from detection.inference.images import pictures_of, root_of
from detection.inference.named import picture_name, save_csv
from detection.inference.open_world import OpenWorld, ask
from detection.inference.tiles import Tiles, in_tiles, windows
from detection.inference.told import ask_for
from detection.inference.trained import Trained
from detection.nets import takes_proposals
from detection.parts.query.panoptic import SURE
from detection.training.stored_proposals import check_maker
from detection.types import Detections, Target
from shared.devices.device import to_device
from shared.errors import UsageError, plural
from shared.feeding.plan import rng_for
from shared.files import write_json, written_aside

SHOWN = 0.3  # minimum score in pictures
BEST = 20  # detections in pictures, of names that a person typed


def predict(
    trained: Trained,
    sources: list[str],
    out: Path,
    *,
    annotations: Path | None,
    min_score: float | None,
    size: tuple[int, ...] | None,
    max_size: int | None,
    annotate: bool = False,
    csv: bool = False,
    turn: Turn = "auto",
    vocabulary: str | None = None,
    text_weights: Path | None = None,
    proposer: Trained | None = None,
    tiles: Tiles | None = None,
    how: OpenWorld = OpenWorld(),  # noqa: B008 - a tuple
) -> list[str]:
    """Detect objects; write a picture of each image, results.json (COCO results) and images.json.

    Category ids are those of the weights' class map. Boxes are in pixels of the image as images.json gives its size:
    turned upright by EXIF, or as the sizes of the COCO file say. Without a COCO file, image ids start at 1; file names
    in images.json are relative to the deepest folder that contains all images, and pictures have the same. Panoptic
    segmentation networks also write COCO panoptic JSON and PNGs.

    Args:
        sources: files, folders, and http or https addresses; with `annotations`, the folder of its images.
        out: an empty or new folder.
        annotations: a COCO file with the images and their ids.
        min_score: detections with a lower score are dropped; None for 0.05, 0.5 with `annotate`, 0.85 for segments.
        size: height and width in pixels; None for that of training.
        max_size: maximum of the longer side in pixels; None for that of training.
        annotate: also write annotations.json, COCO annotations.
        csv: also write results.csv, a row for each box.
        turn: whether to apply the EXIF orientation; "auto" does, but with `annotations` only where the size says so.
        vocabulary: names to look for, for networks that are told their classes; category ids then count from 1.
        text_weights: file of CLIP's weights, for names that are not known.
        proposer: proposes boxes, for a network that does not.
        tiles: also look into the tiles of photographs larger than one.
        how: scores of such a network.

    Returns:
        Lines that describe what was written.

    Raises:
        UsageError: `out` is not empty, or the sources are not as above.
        DataError: no image can be read.
    """
    resize = made_ready(trained, vocabulary, text_weights, proposer, how).resize(size, max_size)
    root = root_of(sources)
    written = Predictions(out, trained, min_score, annotate=annotate, csv=csv, asked=vocabulary is not None)
    for image_id, path, picture, upright, address in pictures_of(sources, annotations, turn):
        found, scale = detect_in(picture, trained, resize, proposer, tiles)
        name = path.name if address else Path(os.path.abspath(path)).relative_to(root).as_posix()
        written.add(image_id, name, picture, found, scale, upright=upright, address=address)
    return written.close()


def made_ready(
    trained: Trained, vocabulary: str | None, text_weights: Path | None, proposer: Trained | None, how: OpenWorld
) -> Trained:
    """The detector, told what to look for and how to score it. Raises UsageError, WeightsError."""
    if vocabulary is not None:
        ask_for(trained, vocabulary, text_weights)
    check_proposer(trained, proposer, how)
    ask(trained, how._replace(new_names=vocabulary is not None))
    return trained


def detect_in(
    picture: Tensor, trained: Trained, resize: Callable, proposer: Trained | None = None, tiles: Tiles | None = None
) -> tuple[Detections, tuple[float, float]]:
    """Detections of one image, on the CPU, in pixels of the network's input; and the (vertical, horizontal) scale:
    original size divided by input size. Where an image is cut into tiles they are in its own pixels, of scale 1.

    Args:
        picture: (3, H, W) uint8 RGB.
        resize: to the network's input, of `Trained.resize`.
        proposer: proposes boxes, for a network that does not.
        tiles: also look into the tiles of an image larger than one.
    """
    if tiles is not None and len(windows(size_of(picture), tiles)) > 1:
        own = in_tiles(picture, tiles, lambda part: in_original_pixels(*detect_in(part, trained, resize, proposer)))
        return own, (1.0, 1.0)
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    small, _ = resize(picture, nothing, rng_for(0, 0, 0))
    if proposer is not None:
        nothing["proposals"] = proposed(proposer, picture, size_of(small))
    detected: Any = trained.task.detect(*to_device(([small], [nothing]), trained.device))[0]
    found: Any = {name: value.cpu() for name, value in detected.items()}
    return found, (picture.shape[-2] / small.shape[-2], picture.shape[-1] / small.shape[-1])


def check_proposer(trained: Trained, proposer: Trained | None, how: OpenWorld) -> None:
    """Raise UsageError unless there is one exactly if it is needed, WeightsError if training had another one."""
    card = trained.exported.card
    needed = takes_proposals(card.args["network"])
    if needed and proposer is None:
        maker = card.data.get("proposals", {"tag": "TAG"})["tag"]
        raise UsageError(f"{card.args['network']} makes no proposals; add --proposal-weights {maker}")
    if proposer is not None and not needed:
        raise UsageError(f"{card.args['network']} makes its own proposals; remove --proposal-weights")
    if proposer is not None and not how.any_proposals:
        maker = card.data.get("proposals", proposer.exported.reference)
        way_out = "give --proposal-weights {tag}@{digest:.6}, or add --any-proposals".format(**maker)
        check_maker(card, proposer.exported.reference, way_out)


def proposed(proposer: Trained, picture: Tensor, size: Size) -> Tensor:
    """(P, 5) proposals on a picture, in pixels of the same picture at (height, width) `size`."""
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    small, _ = proposer.resize()(picture, nothing, rng_for(0, 0, 0))
    (found,) = proposer.task.propose([small.to(proposer.device)])
    scale = size[0] / small.shape[-2], size[1] / small.shape[-1]
    return torch.cat((in_original_pixels(found, scale)["boxes"], found["scores"][:, None]), 1)


class Predictions:
    """The files of `predict`, in a folder that was empty.

    Args:
        out: an empty or new folder.
        min_score: detections with a lower score are dropped; None for 0.05, 0.5 with `annotate`, 0.85 for segments.
        annotate: also write annotations.json.
        csv: also write results.csv.
        asked: for names that a person typed; pictures then show the best ones, since scores of names that were not
            trained are low.

    Raises:
        UsageError: `out` is not empty.
    """

    def __init__(
        self,
        out: Path,
        trained: Trained,
        min_score: float | None,
        *,
        annotate: bool,
        csv: bool = False,
        asked: bool = False,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UsageError(f"{out} is not empty, and predictions are never overwritten; give another --output")
        self.out, self.trained, self.annotate, self.csv = out, trained, annotate, csv
        self.names, self.taken = trained.classes.by_id(), set[str]()
        self.most, self.shown = (BEST if min_score is None else None, 0.0) if asked else (None, SHOWN)
        self.min_score = (0.5 if annotate else 0.05) if min_score is None else min_score
        self.min_segment_score = SURE if min_score is None else min_score
        self.results: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.folder = None
        if trained.isthing is not None and "masks" in trained.finds:
            self.folder = PanopticFolder(out, trained.classes, trained.isthing)

    def add(
        self,
        image_id: int,
        name: str,
        picture: Tensor,
        found: Detections,
        scale: tuple[float, float],
        *,
        upright: bool | None = None,
        address: str | None = None,
    ) -> None:
        """Add one image.

        Args:
            name: its file name in images.json, and of its picture; not absolute.
            picture: (3, H, W) uint8, original pixels.
            found: detections in pixels of the network's input.
            scale: (vertical, horizontal), original size divided by input size.
            upright: whether the picture was turned by EXIF, written to images.json; None to write nothing.
            address: where it was downloaded from, written to images.json as "url"; None to write nothing.
        """
        trained, (height, width) = self.trained, picture.shape[-2:]
        source_ids = np.array(trained.classes.source_ids)
        in_file = read_detections(image_id, found, scale, (height, width), source_ids)
        self.results += entries(image_id, in_file.best(self.min_score), (height, width), self.names)
        own = {"id": image_id, "file_name": name, "height": height, "width": width}
        own |= {} if upright is None else {"upright": upright}
        self.images.append(own if address is None else {**own, "url": shown(address)})
        if self.folder is not None:
            drawn = self.folder.add(image_id, name, picture, found, self.min_segment_score, upright=upright)
        else:
            names, least = trained.classes.names, max(self.min_score, self.shown)
            moved = in_original_pixels(best(found, self.most), scale)
            drawn = draw_detections(picture, moved, names, min_score=least, skeleton=trained.skeleton)
        place = self.out / picture_name(name, image_id, self.taken)
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(place) as partial:
            drawn.convert("RGB").save(partial, "JPEG", quality=90)

    def close(self) -> list[str]:
        """Write the JSON files; returns lines that describe what was written."""
        out, classes, skeleton = self.out, self.trained.classes, self.trained.skeleton
        write_json(out / "results.json", self.results)
        scoring = for_scoring(self.results)
        extra = out / f"results.{'segm' if 'masks' in self.trained.finds else 'keypoints'}.json"
        if len(scoring) > 1:
            write_json(extra, scoring[""])
        listing = {"images": self.images, "categories": labeling.categories(classes, skeleton)}
        write_json(out / "images.json", listing)
        lines = [f"{plural(len(self.images), 'picture')} and results.json in {out}"]
        if len(scoring) > 1:
            lines.append(f"{extra} for pycocotools: with the bbox of results.json it would take the areas of the boxes")
        if self.csv:
            lines.append(f"results.csv: {plural(save_csv(out / 'results.csv', self.images, self.results), 'box')}")
        if self.folder is not None:
            lines.append(f"panoptic segmentation in {self.folder.close()} and {self.folder.pngs}")
        if self.annotate:
            labels = labeling.annotations_of(self.images, self.results, classes, self.min_score, skeleton)
            lines.append(labeling.save(out, labels, self.min_score))
        return lines


def best(found: Detections, most: int | None) -> Detections:
    """The first, which are the best; all for None."""
    return Detections(**{name: value[:most] for name, value in found.items()})  # type: ignore[index, typeddict-item]


def in_original_pixels(found: Detections, scale: tuple[float, float]) -> Detections:
    """Detections in pixels of the network's input -> in pixels of the original image. scale: (vertical, horizontal)."""
    down, across = scale
    moved = Detections(**found)
    moved["boxes"] = found["boxes"] * found["boxes"].new_tensor([across, down, across, down])
    if "keypoints" in found:
        moved["keypoints"] = found["keypoints"] * torch.tensor([across, down, 1.0])
    return moved
