"""`detect predict` on videos: what is found in each frame, by its number and time, written as it is found.

clip.mp4 -> Frame -> detections -> results.json   COCO results, with frame and seconds; image_id is the frame
                                   results.csv    on request, a row for each box
                                   clip.mp4       on request, with boxes and names drawn
         -> video.json: size, rate, frames that were looked at, categories
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detection.drawing.draw import draw_detections
from detection.eval.results import entries, read_detections
from detection.inference import labeling
from detection.inference.named import CORNERS
from detection.inference.predict import BEST, SHOWN, best, detect_in, in_original_pixels
from detection.inference.prediction import Prediction, predicted
from detection.inference.tiles import Tiles
from detection.inference.trained import Trained
from detection.inference.video import Frame, Video, package
from detection.types import Detections
from shared.errors import UsageError, plural
from shared.files import write_json, written_aside

COLUMNS = ("file_name", "frame", "seconds", "class_id", "class_name", "score", *CORNERS)
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that FFmpeg was built with
MOMENT = Fraction(1, 1000)  # seconds, in which times are written to a video


class InFrame(NamedTuple):
    """What is found in a frame: its number from 0, its seconds since the first, and the `Prediction`."""

    frame: int
    seconds: float
    found: Prediction


def each_frame(
    trained: Trained, path: str | Path, resize: Any, min_score: float, every: int, proposer: Trained | None
) -> Iterator[InFrame]:
    """The detections of every N-th frame, one frame after the other.

    Raises:
        UsageError: PyAV is missing, or `every` or `min_score` is out of range.
        DataError: there is no such file, or it is no video.
    """
    if every < 1 or not 0 <= min_score <= 1:
        raise UsageError(f"every is {every} and min_score {min_score}; give 1 or more, and a number from 0 to 1")
    video = Video(path, every)
    for number, seconds, pixels in video:
        found = predicted(trained, pixels, resize, min_score, path=video.path, proposer=proposer)
        yield InFrame(number, seconds, found)


def predict_videos(
    trained: Trained,
    sources: list[str],
    out: Path,
    *,
    min_score: float | None,
    resize: Any,
    every: int = 1,
    table: bool = False,
    drawn: bool = False,
    asked: bool = False,
    proposer: Trained | None = None,
    tiles: Tiles | None = None,
) -> list[str]:
    """Detect objects in videos; several have a folder of their own each, below `out`.

    Args:
        sources: video files.
        out: an empty or new folder.
        min_score: detections with a lower score are dropped; None for 0.05.
        resize: to the network's input, of `Trained.resize`.
        every: look at every N-th frame.
        table: also write results.csv.
        drawn: also write the video with what is found.
        asked: for names that a person typed, of which the best are drawn.
        tiles: also look into the tiles of frames larger than one.

    Returns:
        Lines that describe what was written.

    Raises:
        UsageError: `out` is not empty, PyAV is missing, or the network finds panoptic segments.
        DataError: a video that cannot be read.
    """
    if trained.isthing is not None:
        raise UsageError("panoptic segments are not written for videos; give images, such as frames of the video")
    videos = [Video(source, every) for source in sources]  # all are opened once before anything is written
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageError(f"{out} is not empty, and predictions are never overwritten; give another --output")
    lines = []
    for number, video in enumerate(videos, start=1):
        folder = out if len(videos) == 1 else out / f"{number:02d}-{video.path.stem}"
        folder.mkdir(exist_ok=True)
        with FrameResults(folder, video, trained, min_score, table=table, drawn=drawn, asked=asked) as results:
            for frame in video:
                results.add(frame, *detect_in(frame.pixels, trained, resize, proposer, tiles))
        lines += results.lines()
    return lines


class FrameResults:
    """The files of one video, each whole or not at all; nothing of it is kept in memory.

    Args:
        folder: for the files.
        min_score, table, drawn, asked: as of `predict_videos`.
    """

    def __init__(
        self,
        folder: Path,
        video: Video,
        trained: Trained,
        min_score: float | None,
        *,
        table: bool,
        drawn: bool,
        asked: bool,
    ) -> None:
        self.folder, self.video, self.trained = folder, video, trained
        self.min_score = 0.05 if min_score is None else min_score
        self.most, self.shown = (BEST if min_score is None else None, 0.0) if asked else (None, SHOWN)
        self.table, self.movie = table, Movie(folder / f"{video.path.stem}.mp4", video) if drawn else None
        self.ids, self.names = np.array(trained.classes.source_ids), trained.classes.by_id()
        self.frames, self.boxes, self.last, self.size = 0, 0, 0.0, (0, 0)

    def __enter__(self) -> FrameResults:
        self.open = ExitStack()
        self.json = self.file("results.json")
        self.json.write("[")
        self.rows = csv.writer(self.file("results.csv")) if self.table else None
        if self.rows is not None:
            self.rows.writerow(COLUMNS)
        if self.movie is not None:
            self.open.enter_context(self.movie)
        return self

    def file(self, name: str) -> Any:
        """A text file that is there when all is done."""
        partial = self.open.enter_context(written_aside(self.folder / name))
        return self.open.enter_context(partial.open("w", newline="", encoding="utf-8", errors="surrogateescape"))

    def __exit__(self, *why: Any) -> None:
        if why[0] is None:
            self.json.write("\n]\n")
        self.open.__exit__(*why)
        if why[0] is None:
            write_json(self.folder / "video.json", self.about())

    def add(self, frame: Frame, found: Detections, scale: tuple[float, float]) -> None:
        """Add what was found in a frame, in pixels of the network's input; scale: original size by input size."""
        height, width = self.size = frame.pixels.shape[-2], frame.pixels.shape[-1]
        when = {"frame": frame.number, "seconds": round(frame.seconds, 3)}
        in_file = read_detections(frame.number, found, scale, (height, width), self.ids).best(self.min_score)
        for entry in entries(frame.number, in_file, (height, width), self.names):
            self.json.write(f"{',' if self.boxes else ''}\n{json.dumps({**when, **entry})}")
            self.boxes += 1
            if self.rows is not None:
                x, y, w, h = entry["bbox"]
                corners = (round(value, 3) for value in (x, y, x + w, y + h))
                what = (entry["category_id"], entry["category_name"], round(entry["score"], 6))
                self.rows.writerow((self.video.path.name, *when.values(), *what, *corners))
        self.frames, self.last = self.frames + 1, when["seconds"]
        if self.movie is not None:
            names, least = self.trained.classes.names, max(self.min_score, self.shown)
            own = in_original_pixels(best(found, self.most), scale)
            picture = draw_detections(frame.pixels, own, names, min_score=least, skeleton=self.trained.skeleton)
            self.movie.add(picture.convert("RGB"), frame.seconds)

    def about(self) -> dict[str, Any]:
        """video.json."""
        return {
            "file_name": self.video.path.name,
            "height": self.size[0],
            "width": self.size[1],
            "frames_per_second": self.video.rate,
            "every": self.video.every,
            "frames": self.frames,
            "last_seconds": self.last,
            "damaged": self.video.damaged,
            "categories": labeling.categories(self.trained.classes, self.trained.skeleton),
        }

    def lines(self) -> list[str]:
        what = f"{plural(self.boxes, 'detection')} in {plural(self.frames, 'frame')} of {self.video.path.name}"
        also = [
            name for name, there in (("results.csv", self.table), (f"{self.video.path.stem}.mp4", self.movie)) if there
        ]
        lines = [f"{what}: {', '.join(['results.json', *also])} and video.json in {self.folder}"]
        if self.video.damaged:
            lines.append(f"{plural(self.video.damaged, 'damaged piece')} of the video left out")
        return lines


class Movie:
    """A video that is written frame by frame, with the times of the frames; whole or not at all."""

    def __init__(self, path: Path, video: Video) -> None:
        self.path, self.rate = path, Fraction(video.rate or 25).limit_denominator(1001) / video.every
        self.last = -1
        self.size: tuple[int, int] | None = None

    def __enter__(self) -> Movie:
        self.open = ExitStack()
        partial = self.open.enter_context(written_aside(self.path))
        self.file = self.open.enter_context(package().open(str(partial), "w"))
        return self

    def __exit__(self, *why: Any) -> None:
        if why[0] is None and self.size is not None:
            self.file.mux(self.stream.encode(None))
        self.open.__exit__(*why)

    def add(self, picture: Image.Image, seconds: float) -> None:
        """Add a picture; those of another size than the first are brought to it."""
        if self.size is None:
            self.size = picture.width // 2 * 2, picture.height // 2 * 2  # encoders want even sides
            self.stream = self.begun(*self.size)
        if picture.size != self.size:
            same = all(0 <= side - own <= 1 for side, own in zip(picture.size, self.size, strict=True))
            picture = picture.crop((0, 0, *self.size)) if same else picture.resize(self.size)
        frame = package().VideoFrame.from_image(picture)
        self.last = frame.pts = max(round(seconds / MOMENT), self.last + 1)
        frame.time_base = MOMENT
        self.file.mux(self.stream.encode(frame))

    def begun(self, width: int, height: int) -> Any:
        av = package()
        name = next(name for name in ENCODERS if name in av.codecs_available)
        stream = self.file.add_stream(name, rate=self.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = MOMENT
        return stream
