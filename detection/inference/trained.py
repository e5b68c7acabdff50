"""Trained detectors by reference, and what they are asked: `detect eval`, `detect predict`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import backbone
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.skeleton import Skeleton
from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection, read_table
from detection.data.panoptic import PanopticDetection
from detection.drawing.draw import draw_detections
from detection.eval.coco import CocoEvaluator, ground_truth_as_results
from detection.eval.panoptic import Evaluator, PanopticEvaluator, evaluator_of
from detection.eval.panoptic_output import PanopticFolder
from detection.eval.results import entries, read_detections
from detection.inference import labelling
from detection.inference.images import pictures_of, root_of
from detection.nets import detector, finds
from detection.parts.query.panoptic import SURE
from detection.recipe import DataConfig
from detection.training.datasets import Place, images_of, input_size, kind_of, named_validation, places
from detection.training.task import DetectTask
from detection.types import Detections, Target
from shared.devices.device import to_device
from shared.errors import DataError, UsageError, WeightsError
from shared.feeding.feed import in_order
from shared.feeding.plan import rng_for
from shared.files import write_aside, write_json
from shared.recipes.recipe import all_knobs, coerce
from shared.weights.card import Exported, expected_pixels
from shared.weights.store import Store

log = logging.getLogger(__name__)
FIELDS = {"masks": "segmentation", "keypoints": "keypoints"}  # of COCO results


class Trained:
    """A detector with its weights, class map, skeleton and input size, as its card says.

    Args:
        exported: which.
        device: where it runs.
    """

    def __init__(self, exported: Exported, device: torch.device) -> None:
        card = exported.card
        if card.kind != "detector":
            raise WeightsError(
                f"{exported} is a backbone; train a detector on it with `detect train --backbone-tag {card.tag}`"
            )
        self.exported, self.device = exported, device
        self.classes, self.finds = ClassMap.from_dict(card.classes), finds(card.args["network"])
        self.isthing: list[bool] | None = card.classes.get("isthing")
        self.skeleton = Skeleton.from_dict(card.classes["skeleton"]) if "skeleton" in card.classes else None
        net = backbone.build(card.args["backbone"], **card.args.get("backbone_args", {}))
        built = detector.build(card.args["network"], net, len(self.classes), **card.args["network_args"])
        Store(exported.path.parents[2]).load(built, exported)
        self.task = DetectTask(built, expected_pixels(exported)).to(device).eval()
        self.recipe = card.recipe

    def resize(self, size: tuple[int, ...] | None = None, max_size: int | None = None) -> Callable:
        """The resize that training's own evaluation used, or another."""
        knobs = all_knobs_of_data()
        wanted = ("size", "max_size", "multiscale", "antialias", "aug_type")
        values = {name: knobs[name][1].default for name in wanted} | self.recipe  # an older card may know fewer
        own = {name: coerce(values[name], *knobs[name], name) for name in wanted}
        return build_augment(
            own["aug_type"],
            size=input_size(size or own["size"], own["aug_type"], self.exported.card.args["network"]),
            max_size=max_size or own["max_size"],
            multiscale=own["multiscale"] and size is None,
            antialias=own["antialias"],
            train=False,
        )


def all_knobs_of_data() -> dict[str, tuple[Any, Any]]:
    from detection.recipe import DetectRecipe

    return {name: (hint, f) for name, (section, f, hint) in all_knobs(DetectRecipe).items() if section == "data"}


def evaluate(
    config: DataConfig,
    trained: Trained,
    *,
    batch_size: int,
    workers: int,
    size: tuple[int, ...] | None,
    save: Path | None,
) -> dict[str, float]:
    """Official COCO AP of weights on annotated images; equal to training's own last number on the same data."""
    if trained.isthing is not None and config.dataset == "auto":
        config = replace(config, dataset="coco_panoptic")
    place = validation_place(config, trained.finds)
    dataset = images_of(kind_of(config, trained.finds))(
        place.images,
        place.annotations,
        trained.classes,
        trained.resize(size, config.max_size),
        finds=trained.finds,
        skeleton=skeleton_of(config) or trained.skeleton,
    )
    take_sigmas(dataset, config)
    trained.task.evaluator = lambda: evaluator_of(dataset, config.eval_backend)
    batches = in_order(dataset, batch_size, workers=workers)
    evaluator = trained.task.evaluated(to_device(batch, trained.device) for batch in batches)
    if save is not None:
        write_json(save, evaluator.results())
        log.info("wrote %s", save)
    return with_classes(evaluator)


def evaluate_results(config: DataConfig, results: str) -> dict[str, float]:
    """Official COCO AP of a result file, or of the ground truth itself (`truth`), which should score 1.

    Masks and keypoints are scored where both the results and the annotations hold them.
    """
    if config.dataset == "coco_panoptic":
        return evaluate_segments(config, results)
    found = None if results == "truth" else read_results(results)
    wanted = (
        FIELDS if found is None else {kind: field for kind, field in FIELDS.items() if any(field in e for e in found)}
    )
    learns = ("keypoints",) if found is not None and "keypoints" in wanted and config.dataset != "coco" else ()
    place = validation_place(config, learns)
    held = what_is_held(place) if wanted else ()
    for kind in wanted:
        if found is not None and kind not in held:
            log.warning("%s has no %s, so those of %s are not scored", place.annotations, kind, results)
    both = tuple(kind for kind in wanted if kind in held)
    dataset = CocoDetection(place.images, place.annotations, finds=both, skeleton=skeleton_of(config))
    take_sigmas(dataset, config)
    evaluator = CocoEvaluator(dataset, config.eval_backend, both)
    evaluator.merge([ground_truth_as_results(dataset) if found is None else found])
    return evaluator.summary()


def evaluate_segments(config: DataConfig, results: str) -> dict[str, float]:
    """Panoptic quality of a panoptic JSON with its PNGs beside it, or of the truth itself, which scores 1."""
    place = validation_place(config, ("masks",))
    if place.annotations is None:
        raise UsageError("panoptic annotations do not lie in shards; give the folder and the JSON")
    evaluator = PanopticEvaluator(PanopticDetection(place.images, place.annotations, finds=("masks",)))
    evaluator.merge([place.annotations if results == "truth" else Path(results)])
    return evaluator.summary()


def read_results(path: str) -> list[Any]:
    """The entries of a result file. Raises DataError if it is none."""
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise ValueError("no list of results")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as COCO results ({error}); give a file that `detect predict` wrote"
        ) from None
    return found


def what_is_held(place: Place) -> tuple[str, ...]:
    """What annotations hold besides boxes: masks if every object has one, keypoints if any has."""
    table = read_table(place.images, place.annotations, None)
    masks = table.masks is not None and bool(((table.masks.rings > 0) | (table.masks.in_code > 0)).all())
    return (*(("masks",) if masks else ()), *(("keypoints",) if table.keypoints is not None else ()))


def skeleton_of(config: DataConfig) -> Skeleton | None:
    return None if config.keypoints_file is None else Skeleton.from_yaml(config.keypoints_file)


def take_sigmas(dataset: CocoDetection, config: DataConfig) -> None:
    """How exact keypoints must be, as --oks-sigmas says."""
    if config.oks_sigmas:
        if dataset.skeleton is None:
            raise UsageError("--oks-sigmas is about keypoints, and none are measured here; leave it out")
        dataset.skeleton = dataset.skeleton.with_sigmas(config.oks_sigmas)


def with_classes(evaluator: Evaluator) -> dict[str, float]:
    """The summary, and AP or panoptic quality by class of everything that is measured."""
    metrics = evaluator.summary()
    if isinstance(evaluator, PanopticEvaluator):
        return metrics | {f"pq of {name}": value for name, value in evaluator.per_class().items()}
    for kind in evaluator.kinds:
        what = "ap" if kind == "boxes" else f"{kind.removesuffix('s')} ap"
        metrics |= {f"{what} of {name}": value for name, value in evaluator.per_class(kind).items()}
    return metrics


def validation_place(config: DataConfig, learns: Sequence[str] = ()) -> Place:
    """The validation images, or the only images that are named.

    Args:
        learns: what is wanted of them besides boxes.
    """
    if config.val_path is not None:
        return named_validation(config)
    training, validation = places(config, learns)
    return validation or training


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
) -> list[str]:
    """Pictures of what was found, and COCO results, for files, folders, or the images of a COCO file; what was written.

    Results are in the ids of the weights' class map and in each image's own pixels. Without a COCO file the images get
    ids from 1 in the order of their names, listed in `images.json`; their names there start from the folder that holds
    them all.

    A network that says whose each pixel is writes that, too, as COCO's panoptic JSON and PNGs.

    Args:
        min_score: what scores less is left out; None is 0.05, or 0.5 of annotations, or 0.85 of segments.
        annotate: write what scores enough as COCO annotations, too.
    """
    resize, sure = trained.resize(size, max_size), SURE if min_score is None else min_score
    min_score = (0.5 if annotate else 0.05) if min_score is None else min_score
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give another --output, predictions are never overwritten")
    results: list[dict[str, Any]] = []
    listing: list[dict[str, Any]] = []
    root = root_of(sources)
    folder = None
    if trained.isthing is not None and "masks" in trained.finds:
        folder = PanopticFolder(out, trained.classes, trained.isthing)
    source_ids = np.array(trained.classes.source_ids)
    for image_id, path, picture in pictures_of(
        sources, annotations, CocoDetection if trained.isthing is None else PanopticDetection
    ):
        small, _ = resize(
            picture, Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)), rng_for(0, 0, 0)
        )
        detected: Any = trained.task.detect([small.to(trained.device)])[0]
        found: Any = {name: value.cpu() for name, value in detected.items()}
        height, width = picture.shape[-2:]
        scale = height / small.shape[-2], width / small.shape[-1]
        in_file = read_detections(image_id, found, scale, (height, width), source_ids)
        results += entries(image_id, in_file.best(min_score), (height, width))
        name = path.resolve().relative_to(root).as_posix()
        listing.append({"id": image_id, "file_name": name, "height": height, "width": width})
        if folder is not None:
            drawn = folder.add(image_id, name, picture, found, sure)
        else:
            drawn = draw_detections(
                picture,
                in_photograph(found, scale),
                trained.classes.names,
                min_score=max(min_score, 0.3),
                skeleton=trained.skeleton,
            )
        drawn.convert("RGB").save(out / f"{image_id:06d}-{path.stem}.jpg", quality=90)
    write_json(out / "results.json", results)
    write_json(
        out / "images.json", {"images": listing, "categories": labelling.categories(trained.classes, trained.skeleton)}
    )
    lines = [f"{len(listing)} pictures and results.json in {out}"]
    if folder is not None:
        lines.append(f"whose each pixel is in {folder.close()} and {folder.pngs}")
    if annotate:
        labels = labelling.annotations_of(listing, results, trained.classes, min_score, trained.skeleton)
        lines.append(labelling.save(out, labels, min_score))
    return lines


def in_photograph(found: Detections, scale: tuple[float, float]) -> Detections:
    """Detections in the network's pixels -> those of a photograph (down, across) as large."""
    down, across = scale
    moved = Detections(**found)
    moved["boxes"] = found["boxes"] * torch.tensor([across, down, across, down])
    if "keypoints" in found:
        moved["keypoints"] = found["keypoints"] * torch.tensor([across, down, 1.0])
    return moved


def show(metrics: dict[str, float], out: Path | None) -> None:
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:.4f}")
    if out is not None:
        write_aside(out, json.dumps(metrics, indent=2) + "\n")
