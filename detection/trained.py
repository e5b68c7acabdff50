"""Trained detectors by reference, and what they are asked: `detect eval`, `detect predict`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import backbone
from detection import labelling
from detection.data.augment import build_augment
from detection.data.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.draw import draw_detections
from detection.eval.coco import CocoEvaluator, ground_truth_as_results
from detection.nets import detector
from detection.recipe import DataConfig
from detection.task import DetectTask
from detection.train import Place, input_size, named_validation, places
from detection.types import Target
from shared.card import Exported, expected_pixels
from shared.device import to_device
from shared.errors import DataError, UsageError, WeightsError
from shared.feed import in_order
from shared.image import BadImage, decode_image
from shared.log import write_aside
from shared.plan import rng_for
from shared.recipe import all_knobs, coerce
from shared.run import write_json
from shared.store import Store

log = logging.getLogger(__name__)
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Trained:
    """A detector with its weights, class map and input size, as its card says.

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
        self.classes = ClassMap.from_dict(card.classes)
        net = backbone.build(card.args["backbone"], **card.args.get("backbone_args", {}))
        built = detector.build(card.args["network"], net, len(self.classes), **card.args["network_args"])
        Store(exported.path.parents[2]).load(built, exported)
        self.task = DetectTask(built, expected_pixels(exported)).to(device).eval()
        self.told = card.recipe

    def resize(self, size: tuple[int, ...] | None = None, max_size: int | None = None) -> Callable:
        """The resize that training's own evaluation used, or another."""
        knobs = all_knobs_of_data()
        own = {
            name: coerce(self.told[name], *knobs[name], name) for name in ("size", "max_size", "multiscale", "aug_type")
        }
        return build_augment(
            own["aug_type"],
            size=input_size(size or own["size"], own["aug_type"], self.exported.card.args["network"]),
            max_size=max_size or own["max_size"],
            multiscale=own["multiscale"] and size is None,
            train=False,
        )


def all_knobs_of_data() -> dict[str, tuple[Any, Any]]:
    from detection.recipe import DetectRecipe

    return {name: (hint, f) for name, (section, f, hint) in all_knobs(DetectRecipe).items() if section == "data"}


def evaluate(
    told: DataConfig,
    trained: Trained,
    *,
    batch_size: int,
    workers: int,
    size: tuple[int, ...] | None,
    save: Path | None,
) -> dict[str, float]:
    """Official COCO AP of weights on annotated images; equal to training's own last number on the same data."""
    place = validation_place(told)
    dataset = CocoDetection(place.images, place.annotations, trained.classes, trained.resize(size, told.max_size))
    trained.task.evaluator = lambda: CocoEvaluator(dataset, told.eval_backend)
    batches = in_order(dataset, batch_size, workers=workers)
    evaluator = trained.task.evaluated(to_device(batch, trained.device) for batch in batches)
    if save is not None:
        write_json(save, evaluator.results())
        log.info("wrote %s", save)
    metrics = evaluator.summary()
    return metrics | {f"ap of {name}": value for name, value in evaluator.per_class().items()}


def evaluate_results(told: DataConfig, results: str) -> dict[str, float]:
    """Official COCO AP of a result file, or of the ground truth itself (`truth`), which should score 1."""
    place = validation_place(told)
    dataset = CocoDetection(place.images, place.annotations)
    evaluator = CocoEvaluator(dataset, told.eval_backend)
    if results == "truth":
        found = ground_truth_as_results(dataset)
    else:
        try:
            found = json.loads(Path(results).read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{results} cannot be read as COCO results ({error}); give a file that `detect predict` wrote"
            ) from None
    evaluator.merge([found])
    return evaluator.summary()


def validation_place(told: DataConfig) -> Place:
    """The validation images, or the only images that are named."""
    if told.val_path is not None:
        return named_validation(told)
    training, validation = places(told)
    return validation or training


def predict(
    trained: Trained,
    sources: list[str],
    out: Path,
    *,
    annotations: Path | None,
    min_score: float,
    size: tuple[int, ...] | None,
    max_size: int | None,
    annotate: bool = False,
) -> list[str]:
    """Pictures with boxes, and COCO result JSON, for files, folders, or the images of a COCO file; what was written.

    Results are in the ids of the weights' class map and in each image's own pixels. Without a COCO file the images get
    ids from 1 in the order of their names, listed in `images.json`; their names there start from the folder that holds
    them all.

    Args:
        annotate: write what scores enough as COCO annotations, too.
    """
    resize = trained.resize(size, max_size)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give another --output, predictions are never overwritten")
    results: list[dict[str, Any]] = []
    listing: list[dict[str, Any]] = []
    root = root_of(sources)
    for image_id, path, picture in pictures_of(sources, annotations):
        small, _ = resize(
            picture, Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)), rng_for(0, 0, 0)
        )
        found = {name: value.cpu() for name, value in trained.task.detect([small.to(trained.device)])[0].items()}  # type: ignore[attr-defined]
        height, width = picture.shape[-2:]
        scale = torch.tensor([width / small.shape[-1], height / small.shape[-2]]).repeat(2)
        found["boxes"] = found["boxes"] * scale
        results += as_results(image_id, found, trained.classes, min_score)
        name = path.resolve().relative_to(root).as_posix()
        listing.append({"id": image_id, "file_name": name, "height": height, "width": width})
        drawn = draw_detections(picture, found, trained.classes.names, min_score=max(min_score, 0.3))  # type: ignore[arg-type]
        drawn.convert("RGB").save(out / f"{image_id:06d}-{path.stem}.jpg", quality=90)
    write_json(out / "results.json", results)
    categories = [{"id": i, "name": n} for i, n in zip(trained.classes.source_ids, trained.classes.names, strict=True)]
    write_json(out / "images.json", {"images": listing, "categories": categories})
    told = [f"{len(listing)} pictures and results.json in {out}"]
    if annotate:
        labels = labelling.annotations_of(listing, results, trained.classes, min_score)
        told.append(labelling.save(out, labels, min_score))
    return told


def root_of(sources: list[str]) -> Path:
    """The folder that holds all the images: the one that is named, or the nearest above several."""
    paths = [Path(source).expanduser().resolve() for source in sources]
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))


def as_results(image_id: int, found: dict[str, Tensor], classes: ClassMap, min_score: float) -> list[dict[str, Any]]:
    rows = []
    for box, label, score in zip(
        found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
    ):
        if score >= min_score:
            x0, y0, x1, y1 = box
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": classes.source_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    return rows


def pictures_of(sources: list[str], annotations: Path | None) -> Iterator[tuple[int, Path, Tensor]]:
    """(image id, file, uint8 pixels) of everything asked for; a file that cannot be read is named and passed over."""
    if annotations is not None:
        if len(sources) != 1:
            raise UsageError("with --coco-json-path name one folder, that of its images")
        dataset = CocoDetection(Path(sources[0]), annotations)
        files = [(image_id, dataset.path(index)) for index, image_id in enumerate(dataset.image_ids)]
    else:
        files = list(enumerate(listed_files(sources), start=1))
    read = 0
    for image_id, path in files:
        try:
            picture = decode_image(path.read_bytes(), upright=annotations is None)
        except (OSError, BadImage) as error:
            log.warning("passed over %s: %s", path, error)
            continue
        read += 1
        yield image_id, path, picture
    if not read:
        raise DataError(f"none of the {len(files)} files can be read as an image; look at {files[0][1]}")


def listed_files(sources: list[str]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
            if not inside:
                raise DataError(f"{path} holds no image; name a folder of {', '.join(IMAGES[:4])} files")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(
                f"there is no file {path}; name images, a folder of them, or a folder with --coco-json-path"
            )
    if not files:
        raise UsageError("name the images to look at: files, or a folder")
    return files


def show(metrics: dict[str, float], out: Path | None) -> None:
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:.4f}")
    if out is not None:
        write_aside(out, json.dumps(metrics, indent=2) + "\n")
