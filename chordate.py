"""chordate in Python: load and predict, train, and hand a backbone to other libraries.

    model = chordate.load("fcos-mine")                       a tag, a run folder, an export, a checkpoint
    found = model.predict("street.jpg", min_score=0.5)       .boxes .scores .labels .names .masks .keypoints
    found.plot().save("found.jpg")                           .to_supervision(), .to_coco()

    run = chordate.train("detect", network="fcos", backbone_tag="mine", data_path="coco", epochs=26)
    net = chordate.backbone("mine").to_timm()                or .to_torchvision()

Everything here is what the commands `detect` and `pretrain` use: the same weights, the same boxes, the same sentences
when something is wrong, as exceptions (`chordate.Refusal` and its kinds). Boxes are in pixels of the image as it is
shown; loading and predicting change nothing of the process: no seed, no thread, no handler of a signal. torch is
imported with the first call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, Literal, overload

run_path(str(Path(__file__).resolve().parent / "shared" / "neighbors.py"))["check"]()

from shared.errors import DataError, Refusal, UsageError, WeightsError  # noqa: E402 - only once they are known as ours

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor, nn

    from backbones.base import Backbone
    from detection.inference.prediction import Prediction
    from detection.inference.video_results import InFrame
    from shared.weights.card import Card, Exported

    OneImage = str | Path | Image.Image | np.ndarray | Tensor
    TileSize = int | Sequence[int] | None

__all__ = ["DataError", "Model", "Refusal", "Run", "TrainedBackbone", "UsageError", "WeightsError"]
__all__ += ["backbone", "load", "train"]


class Model:
    """A trained detector, as `load` returns it.

    names: class names, by label.
    network, backbone: their names.
    card: everything that is known of the weights: classes, recipe, metrics, parents.
    path: folder of the export.
    """

    def __init__(self, trained: Any, proposer: Any = None, size: Sequence[int] | None = None) -> None:
        self._trained, self._proposer = trained, proposer
        self._resize = trained.resize(None if size is None else tuple(size))
        self.card: Card = trained.exported.card
        self.path: Path = trained.exported.path
        self.names: list[str] = [*trained.classes.names]
        self.network: str = self.card.args["network"]
        self.backbone: str = self.card.args["backbone"]

    def __repr__(self) -> str:
        return f"<{self._trained.exported}: {len(self.names)} classes, on {self._trained.device}>"

    @property
    def module(self) -> nn.Module:
        """The network with its pixel normalization, in eval mode on its device."""
        return self._trained.task

    @overload
    def predict(
        self, image: OneImage, min_score: float = 0.05, *, tiles: TileSize = None, tile_overlap: float = 0.2
    ) -> Prediction: ...
    @overload
    def predict(
        self, image: Sequence[Any], min_score: float = 0.05, *, tiles: TileSize = None, tile_overlap: float = 0.2
    ) -> list[Prediction]: ...
    def predict(self, image: Any, min_score: float = 0.05, *, tiles: TileSize = None, tile_overlap: float = 0.2) -> Any:
        """Detect objects, with the very boxes of `detect predict`.

        Args:
            image: a file or https address; a PIL image; an array (H, W, 3) or tensor (3, H, W), uint8 RGB. Or several:
                a folder, a list of any of these, a batch (B, H, W, 3) or (B, 3, H, W).
            min_score: detections with a lower score are left out, from 0 to 1.
            tiles: height and width in pixels, or the side of squares; photographs larger than this are also looked into
                tile by tile, for small objects.
            tile_overlap: of a tile and the next, as a share of their sides.

        Returns:
            A `Prediction` for one image, a list of them for several. In a folder, files that cannot be read are logged
            and left out.

        Raises:
            DataError: a missing or unreadable file.
            UsageError: an array that is no image of 8 bits, or a score out of range.
        """
        from detection.inference.prediction import is_one

        one = is_one(image)
        found = list(self.each(image, min_score, tiles=tiles, tile_overlap=tile_overlap))
        return found[0] if one else found

    def each(
        self, images: Any, min_score: float = 0.05, *, tiles: TileSize = None, tile_overlap: float = 0.2
    ) -> Iterator[Prediction]:
        """The same, one prediction after the other: for folders that do not fit into memory."""
        from detection.inference.prediction import photographs, predicted
        from detection.inference.tiles import tiles_for

        if not 0 <= min_score <= 1:
            raise UsageError(f"min_score is {min_score}; give a number from 0 to 1")
        cut = None if tiles is None else tiles_for(self._trained, tiles, tile_overlap)
        how: Any = {"proposer": self._proposer, "tiles": cut}
        for path, pixels in photographs(images):
            yield predicted(self._trained, pixels, self._resize, min_score, path=path, **how)

    def predict_video(self, path: str | Path, min_score: float = 0.05, *, every: int = 1) -> Iterator[InFrame]:
        """Yield (frame, seconds, found) of every N-th frame of a video, from 0; needs pip install 'chordate[video]'."""
        from detection.inference.video_results import each_frame

        return each_frame(self._trained, path, self._resize, min_score, every, self._proposer)

    def evaluate(
        self, data_path: str | Path, *, batch_size: int = 8, workers: int = 0, **data: Any
    ) -> dict[str, float | None]:
        """COCO AP from 0 to 1 on a data set, overall and by class, the headline first: the numbers of `detect eval`.
        None where one is not defined, as that of a class without objects.

        Args:
            data_path: images, or a COCO folder, whose validation images are taken.
            data: more of the recipe's fields about data, such as `coco_json_path`.
        """
        from detection.eval.official import undefined_as_nan
        from detection.inference.trained import evaluate
        from detection.recipe import DataConfig
        from shared.logs.metrics import or_none
        from shared.recipes.recipe import read_section

        config = read_section(DataConfig, {"data_path": data_path, **data})
        found = evaluate(config, self._trained, batch_size=batch_size, workers=workers, size=None, save=None)
        return {name: or_none(value) for name, value in undefined_as_nan(found).items()}

    def export(
        self,
        output: str | Path | None = None,
        *,
        format: Literal["onnx", "openvino", "torch"] = "onnx",
        photos: Sequence[str | Path] = (),
        size: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> Path:
        """Write the folder of `detect export`: a file for another runtime, its card, and its parity sheet.

        Args:
            output: a new folder; None for one named after the weights, below `exports`.
            photos: photographs to compare on, or folders of them; () for images of the demo.
            size: height and width of the input in pixels; None for that of training.
            batch_size: images of one run.

        Returns:
            The folder, which `load` takes as well.

        Raises:
            Refusal: exit code 5, if the file does not find what the network finds; the folder stays.
            UsageError: a missing package, a network that cannot be exported, or a folder that is not empty.
        """
        import torch

        from detection.exporting.export import Wanted, export
        from detection.inference.exported import Written
        from detection.inference.trained import Trained

        trained = self._trained
        if not isinstance(trained, Written):
            trained = Trained(trained.exported, torch.device("cpu"))
        folder, sheet = export(
            trained,
            Wanted(
                kind=format,
                out=None if output is None else Path(output),
                size=None if size is None else tuple(size),
                batch=batch_size,
                photographs=tuple(map(str, photos)),
            ),
        )
        assert sheet is not None
        sheet.check(str(folder))
        return folder


def load(
    weights: str | Path,
    *,
    weights_dir: str | Path = "weights",
    device: str = "auto",
    size: Sequence[int] | None = None,
    vocabulary: str | None = None,
    text_weights: str | Path | None = None,
    proposal_weights: str | Path | None = None,
) -> Model:
    """Load a trained detector: completely, or not at all.

    Args:
        weights: a tag, `network-backbone/tag`, `tag@digest`, a run folder, an export folder, another program's
            checkpoint that `detect import` takes, or what `detect export` wrote, which runs on the processor.
        weights_dir: folder of the exported weights, where tags are looked up.
        device: "cuda", "cuda:1", "cpu", or "auto" for the GPU if there is one.
        size: height and width in pixels of the network's input; None for that of training.
        vocabulary: names to look for, such as "zebra,traffic cone", for networks that are told their classes.
        text_weights: file of CLIP's weights, for names that have no vector yet.
        proposal_weights: weights that propose boxes, for networks that do not.

    Raises:
        WeightsError: no such weights, or they do not match.
    """
    from detection.inference.exported import Written, folder_of
    from detection.inference.open_world import OpenWorld, ask
    from detection.inference.predict import check_proposer
    from detection.inference.told import ask_for
    from detection.inference.trained import Trained
    from detection.training.start import find_weights
    from shared.devices.device import pick_device

    root, place = Path(weights_dir), pick_device(device)
    folder = folder_of(str(weights))
    trained = Trained(find_weights(str(weights), root), place) if folder is None else Written(folder)
    proposer = None if proposal_weights is None else Trained(find_weights(str(proposal_weights), root), place)
    if vocabulary is not None:
        ask_for(trained, vocabulary, None if text_weights is None else Path(text_weights))
    check_proposer(trained, proposer, OpenWorld())
    ask(trained, OpenWorld(new_names=vocabulary is not None))
    return Model(trained, proposer, size)


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished training.

    folder: recipe, logs, curves and report of the run; `load(run.folder)` loads a detector.
    metrics: the last ones, the headline first, from 0 to 1; None where one is not defined.
    weights: folder of the exported weights.
    """

    folder: Path
    metrics: dict[str, float | None]
    weights: Path


def train(what: Literal["detect", "pretrain"], **fields: Any) -> Run | None:
    """Train in this process, as `detect train` and `pretrain train` do, and give the process back as it was.

    Args:
        what: "detect" for a detector, "pretrain" for a backbone.
        fields: of the recipe, as on the command line with underscores: `network="fcos", epochs=26, amp=True`; options
            of the network or method; `recipe="NAME"` starts from one, `scale="tiny"` makes it small. None leaves the
            default.

    Returns:
        The run; None with `dry_run=True`, which prints what a run would do.

    Raises:
        UsageError: an unknown field, or a value out of range.
        Refusal: as the commands, in one sentence; `Stopped` after a signal, with the state saved.
    """
    if what not in ("detect", "pretrain"):
        raise UsageError(f"train('{what}') is neither 'detect', for a detector, nor 'pretrain', for a backbone")
    if what == "detect":
        from detection.recipe import DetectRecipe as Recipe
        from detection.training.resolve import resolve
        from detection.training.train import train as run
    else:
        from pretrain.recipe import PretrainRecipe as Recipe
        from pretrain.training.commands import resolve
        from pretrain.training.train import train as run
    from shared.recipes.recipe import all_knobs
    from shared.runs.folders import read_run
    from shared.runs.process import given_back

    with given_back():
        folder = run(resolve(as_flags(fields, all_knobs(Recipe).keys())))
    if folder is None:
        return None
    told = read_run(folder, folder.name, "")
    return Run(folder, told.metrics(), Path(told.result["weights"]))


def as_flags(fields: dict[str, Any], knobs: Any) -> list[str]:
    """{"batch_size": 8, "amp": False} -> ["--batch-size=8", "--no-amp"]; `knobs` are the names that are no options."""
    words: list[str] = []
    for name, value in fields.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value == ():
            continue
        if isinstance(value, bool) and name in knobs:
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            words += [flag, *(f"{key}={json.dumps(one)}" for key, one in value.items())]
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={str(value).lower() if isinstance(value, bool) else value}")
    return words


# --- backbones ------------------------------------------------------------------------------------


class TrainedBackbone:
    """A trained backbone, as `backbone` returns it.

    net: the network, in eval mode on the CPU: (B, 3, H, W) float32, normalized -> (B, width);
        `net.forward_features` -> maps of shapes `net.maps`.
    mean, std: of the pixels that it expects, for values from 0 to 1.
    card: everything that is known of the weights.
    path: folder of the export.
    """

    def __init__(self, net: Backbone, exported: Exported) -> None:
        from shared.weights.card import expected_pixels

        self.net, self.card, self.path = net.eval(), exported.card, exported.path
        self.mean, self.std = self._stats = expected_pixels(exported)

    def __repr__(self) -> str:
        return f"<{self.card.arch} {self.card.tag}: maps of {', '.join(f'{c}/{s}' for c, s in self.net.maps)}>"

    def to_timm(self) -> nn.Module:
        """A copy as timm's network without classifier: (B, 3, H, W) normalized by mean and std -> (B, width).

        Raises:
            UsageError: it is none of timm's networks.
        """
        from backbones.elsewhere import to_timm

        return to_timm(self.net, self._stats)

    def to_torchvision(self) -> nn.Module:
        """A copy as torchvision's network with an identity for its classifier, compared on an image.

        Raises:
            UsageError: torchvision has no network of these tensors.
            WeightsError: it has one that computes something else.
        """
        from backbones.elsewhere import to_torchvision

        return to_torchvision(self.net)


def backbone(tag: str | Path, model: str | None = None, *, weights_dir: str | Path = "weights") -> TrainedBackbone:
    """Load a pretrained backbone: completely, or not at all.

    Args:
        tag: a tag, `tag@digest`, or the path of a run or an export.
        model: name of the backbone; None for the only one that has the tag.
        weights_dir: folder of the exported weights.

    Raises:
        WeightsError: no such weights, several, those of a detector, or they do not match.
    """
    import torch

    from backbones.inherit import fill, rebuild
    from shared.weights.store import Store

    store = Store(Path(weights_dir))
    exported = store.find(model, str(tag))
    if exported.card.kind != "backbone":
        raise WeightsError(f"{exported} is a detector; load it with chordate.load, or give the tag of a backbone")
    with torch.random.fork_rng(devices=()):  # initial values are overwritten, and the caller's state stays
        net = rebuild(exported.card)
    fill(store, net, exported)
    return TrainedBackbone(net, exported)
