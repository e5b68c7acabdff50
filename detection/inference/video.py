"""Frames of a video file, one after the other, by PyAV: as many as wanted, upright, with their number and time.

    clip.mp4 -> packets -> frames, every N-th as RGB -> turned as the container says -> Frame: number, seconds, pixels
             -> one sentence: no video, empty, damaged; damage on the way is counted and left out

A frame is let go when the next one is asked for, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError, UsageError

log = logging.getLogger(__name__)
QUARTER = 90  # degrees


class Frame(NamedTuple):
    """A frame of a video.

    number: from 0, in the order in which frames are shown.
    seconds: since the first one.
    pixels: (3, H, W) uint8 RGB, upright.
    """

    number: int
    seconds: float
    pixels: Tensor


def package() -> Any:
    """PyAV. Raises UsageError if it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError("videos need PyAV; install it with pip install 'chordate[video]'") from None
    return av


class Video:
    """A video file: `for frame in Video(path)`, as often as wanted.

    rate: frames per second on average; None if the file does not tell.
    damaged: packets that could not be decoded, of the last time.

    Raises:
        DataError: there is no such file, or it is no video.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        self.path, self.every, self.damaged = Path(path).expanduser(), every, 0
        with self.opened() as file:
            rate = file.streams.video[0].average_rate
            self.rate = None if not rate else float(rate)

    def opened(self) -> Any:
        """The container, to be closed. Raises DataError."""
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give a video")
        av = package()
        if not self.path.stat().st_size:
            raise DataError(f"{self.path} is empty; give a video")
        try:
            file = av.open(str(self.path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(f"{self.path} cannot be read as a video ({reason(error)}); it may be damaged") from None
        if not file.streams.video:
            file.close()
            raise DataError(f"{self.path} has no moving pictures; give a video")
        return file

    def __iter__(self) -> Iterator[Frame]:
        """Every N-th frame. Raises DataError if there is none that can be decoded."""
        number, first, self.damaged = -1, None, 0
        with self.opened() as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in self.decoded(file, stream):
                number += 1
                time = frame.time if frame.time is not None else number / (self.rate or 1)
                first = time if first is None else first
                if number % self.every == 0:
                    yield Frame(number, max(0.0, time - first), upright(frame))
        if number < 0:
            raise DataError(f"{self.path} has no frame that can be decoded; it may be damaged or cut off")
        if self.damaged:
            log.warning("%s: %d damaged pieces left out", self.path, self.damaged)

    def decoded(self, file: Any, stream: Any) -> Iterator[Any]:
        """All frames in the order in which they are shown; damaged packets are counted."""
        av = package()
        packets = file.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):  # cut off in the middle: what is inside the decoder comes out still
                self.damaged += 1
                packet = None
            try:
                frames = stream.codec_context.decode(packet)
            except (av.error.FFmpegError, OSError) as error:
                if isinstance(error, av.error.EOFError):
                    return
                self.damaged += 1
                frames = []
            yield from frames
            if packet is None:
                return


def upright(frame: Any) -> Tensor:
    """A frame -> (3, H, W) uint8 RGB, turned as the container says."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / QUARTER) % 4
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)


def reason(error: Exception) -> str:
    """What FFmpeg says, without its number and the path."""
    return (getattr(error, "strerror", None) or str(error)).lower()
