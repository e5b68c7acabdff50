"""Videos, frame by frame: the boxes of the frame as an image, upright, in little memory; one sentence if damaged."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import chordate
from detection.cli import main
from detection.inference import video as video_page
from detection.inference.video import Video
from shared.errors import DataError, UsageError

av = pytest.importorskip("av")
REAL_DATA = os.environ.get("CHORDATE_REAL_DATA", "")
WIDTH, HEIGHT, FRAMES, RATE = 96, 64, 12, 10
IDENTITY = b"".join(n.to_bytes(4, "big", signed=True) for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))


def picture(number: int) -> np.ndarray:
    """A frame whose number can be seen: a bright square on a soft ground, moving to the right; (H, W, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    pixels[8:24, 4 + 6 * number : 20 + 6 * number] = (250, 250, 30)
    return pixels


def write(path: Path, frames: int = FRAMES, codec: str = "mpeg4", skipped: int = 0) -> Path:
    """A video of 10 frames a second; times begin after `skipped` frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number % FRAMES), format="rgb24")
            frame.pts, frame.time_base = number + skipped, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("videos") / "clip.mp4")


def square(pixels: np.ndarray) -> tuple[float, float]:
    """The middle of the bright square, as x and y."""
    bright = (pixels[..., 0] > 200) & (pixels[..., 1] > 200) & (pixels[..., 2] < 120)
    y, x = np.nonzero(bright)
    return float(x.mean()), float(y.mean())


def test_frames_come_in_order_with_their_times_and_pixels(clip: Path) -> None:
    video = Video(clip)
    for _ in range(2):  # as often as wanted
        frames = [(number, seconds, pixels.permute(1, 2, 0).numpy()) for number, seconds, pixels in video]
        assert [number for number, _, _ in frames] == list(range(FRAMES))
        assert [seconds for _, seconds, _ in frames] == pytest.approx([number / RATE for number in range(FRAMES)])
        for number, _, pixels in frames:
            assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.dtype == np.uint8
            assert square(pixels) == pytest.approx((11.5 + 6 * number, 15.5), abs=1)
    assert video.rate == RATE and video.damaged == 0


def test_every_third_frame_keeps_its_number_and_times_begin_at_0(tmp_path: Path) -> None:
    found = [(f.number, f.seconds) for f in Video(write(tmp_path / "late.mkv", skipped=50), every=5)]
    assert [number for number, _ in found] == [0, 5, 10]
    assert [seconds for _, seconds in found] == pytest.approx([0.0, 0.5, 1.0], abs=0.002)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 65536, -65536, 0), lambda x, y: (HEIGHT - 1 - y, x)),  # a telephone held upright: a quarter to the right
        ((-65536, 0, 0, -65536), lambda x, y: (WIDTH - 1 - x, HEIGHT - 1 - y)),
        ((0, -65536, 65536, 0), lambda x, y: (y, WIDTH - 1 - x)),
    ],
)
def test_frames_are_turned_as_the_container_says(
    matrix: tuple[int, ...], corner: Callable, clip: Path, tmp_path: Path
) -> None:
    a, b, c, d = matrix
    turned = b"".join(n.to_bytes(4, "big", signed=True) for n in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    data = clip.read_bytes()
    header = data.index(b"tkhd")
    place = data.index(IDENTITY, header)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + turned + data[place + len(IDENTITY) :])
    for stored, shown in zip(Video(clip), Video(path), strict=True):
        x, y = square(stored.pixels.permute(1, 2, 0).numpy())
        assert square(shown.pixels.permute(1, 2, 0).numpy()) == pytest.approx(corner(x, y))


def test_only_a_few_frames_are_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref] = []
    most = 0
    for frame in Video(write(tmp_path / "long.mp4", frames=120)):
        alive.append(weakref.ref(frame.pixels))
        most = max(most, sum(one() is not None for one in alive))
        del frame
    assert len(alive) == 120 and most <= 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; give a video"),
        (b"no video at all" * 20, "cannot be read as a video"),
        (None, "there is no file"),
    ],
)
def test_what_is_no_video_is_one_sentence(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(says)) as refused:
        Video(path)
    assert "\n" not in str(refused.value)


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(DataError, match="has no moving pictures; give a video"):
        Video(path)


def test_a_video_cut_off_gives_the_frames_before_the_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mkv", frames=40).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    numbers = [frame.number for frame in Video(path)]
    assert numbers == list(range(len(numbers))) and 10 < len(numbers) < 40


def test_a_video_of_noise_behind_its_header_is_one_sentence(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    begin = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[begin:end] = bytes(end - begin)
    path = tmp_path / "noise.mp4"
    path.write_bytes(data)
    with pytest.raises(DataError, match="has no frame that can be decoded; it may be damaged or cut off"):
        list(Video(path))


def test_without_the_package_the_sentence_has_the_pip_line(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'chordate[video]'")):
        Video(clip)


# --- detections -----------------------------------------------------------------------------------


def test_boxes_of_a_frame_are_those_of_the_frame_as_an_image(
    clip: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    words = ["predict", str(clip), "--weights", str(weights), "--device", "cpu", "--min-score", "0", "--every", "4"]
    assert main([*words, "--csv", "--annotated-video", "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "results.csv", "results.json", "video.json"]
    results = json.loads((out / "results.json").read_text())
    model = chordate.load(weights, device="cpu")
    expected: list[dict[str, Any]] = []
    for frame in Video(clip, every=4):
        for entry in model.predict(frame.pixels, 0.0).to_coco(frame.number):
            expected.append({"frame": frame.number, "seconds": frame.number / RATE, **entry})
    assert results == expected and {one["frame"] for one in results} == {0, 4, 8}
    assert {one["category_name"] for one in results} <= {"kite", "traffic cone"}
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results) and rows[0]["file_name"] == "clip.mp4"
    x, y, w, h = results[-1]["bbox"]
    corners = [float(rows[-1][name]) for name in ("x0", "y0", "x1", "y1")]
    assert corners == pytest.approx([x, y, x + w, y + h], abs=0.001)
    assert (rows[-1]["frame"], rows[-1]["seconds"]) == ("8", "0.8")
    told = json.loads((out / "video.json").read_text())
    assert (told["width"], told["height"], told["frames_per_second"]) == (WIDTH, HEIGHT, RATE)
    assert (told["frames"], told["every"], told["last_seconds"]) == (3, 4, 0.8)
    assert [category["id"] for category in told["categories"]] == [7, 90]
    drawn = list(Video(out / "clip.mp4"))
    assert [frame.seconds for frame in drawn] == pytest.approx([0.0, 0.4, 0.8], abs=0.01)
    assert (
        f"{len(results):,} detections in 3 frames of clip.mp4: results.json, results.csv, " in capsys.readouterr().out
    )


def test_python_yields_frame_after_frame(clip: Path, weights: Path, tmp_path: Path) -> None:
    model = chordate.load(weights, device="cpu")
    for frame, seconds, found in model.predict_video(clip, 0.0, every=6):
        Image.fromarray(found.image).save(tmp_path / "frame.png")
        alone = model.predict(tmp_path / "frame.png", 0.0)
        assert seconds == pytest.approx(frame / RATE) and len(found) == len(alone) > 0
        assert (found.boxes == alone.boxes).all() and (found.scores == alone.scores).all()
    assert frame == 6
    with pytest.raises(UsageError, match="every is 0"):
        next(model.predict_video(clip, every=0))


@pytest.mark.skipif(not REAL_DATA, reason="CHORDATE_REAL_DATA names no folder of real data")
def test_photographs_as_a_video_have_the_boxes_of_its_frames(weights: Path, tmp_path: Path) -> None:
    files = sorted((Path(REAL_DATA) / "coco-tiny" / "val2017").glob("*.jpg"))[:4]
    photographs = [Image.open(name).convert("RGB").resize((320, 240)) for name in files]
    path = tmp_path / "photographs.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for photograph in photographs:
            file.mux(stream.encode(av.VideoFrame.from_image(photograph)))
        file.mux(stream.encode(None))
    model = chordate.load(weights, device="cpu")
    for place, (frame, seconds, found) in enumerate(model.predict_video(path, 0.0)):
        assert frame == place and seconds == pytest.approx(place * 1001 / 30000, abs=1e-4)
        Image.fromarray(found.image).save(tmp_path / "frame.png")
        alone = model.predict(tmp_path / "frame.png", 0.0)
        assert len(found) == len(alone) > 0 and (found.boxes == alone.boxes).all()
        apart = [np.abs(found.image.astype(int) - np.asarray(photograph)).mean() for photograph in photographs]
        assert int(np.argmin(apart)) == place
    assert frame == 3


def test_several_videos_have_a_folder_each(clip: Path, weights: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "clip.mkv", frames=3)
    words = ["predict", str(clip), str(other), "--weights", str(weights), "--device", "cpu", "--every", "6"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01-clip", "02-clip"]
    assert all(json.loads(path.read_text()) is not None for path in (tmp_path / "out").rglob("*.json"))


def test_an_error_on_the_way_leaves_no_half_file(
    clip: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, seen = video_page.upright, []

    def breaks(frame: Any) -> Any:
        seen.append(frame)
        if len(seen) == 3:
            raise DataError("the disk is gone; find it")
        return turn(frame)

    monkeypatch.setattr(video_page, "upright", breaks)
    words = ["predict", str(clip), "--weights", str(weights), "--device", "cpu", "--csv", "--annotated-video"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 3
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["CLIP", "a.jpg"], 2, "a.jpg is no video"),
        (["a.jpg", "--every", "2"], 2, "are for videos, and none is given"),
        (["https://example.org/a.mp4"], 2, "download https://example.org/a.mp4 and give the file"),
        (["CLIP", "--save", "coco"], 2, "are for photographs"),
        (["gone.mp4"], 3, "there is no file gone.mp4"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    words: list[str],
    code: int,
    says: str,
    clip: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given = [str(clip) if word == "CLIP" else word for word in words]
    out = tmp_path / "out"
    assert main(["predict", *given, "--weights", str(weights), "--device", "cpu", "-o", str(out)]) == code
    told = capsys.readouterr().err
    assert says in told and not out.exists()
