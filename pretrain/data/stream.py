"""Streaming of remote shards, for data that does not fit on the disk.

    addresses, shuffled per epoch -> this process's and worker's share -> their bytes (remote.py)
        -> tar members, every byte checked -> samples -> shuffle buffer -> decode -> view

A stream has no positions, so a run resumes at the start of an epoch only. If there is space, copy the shards and
read them with `ShardSet`, which resumes at any step. webdataset's decoders are not used, since some of them execute
content.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pretrain.data.classes import NAMES, joined, names_of
from pretrain.data.contents import Contents
from pretrain.data.remote import Streamed, by_curl, is_remote, text_at
from pretrain.data.shard_index import parse_class
from pretrain.data.shards import IMAGES, outside, stacked
from shared.errors import DataError
from shared.feeding.feed import handed_over, plainly, start_worker
from shared.feeding.image import BadImage, decode_image
from shared.feeding.plan import rng_for
from shared.feeding.tar import BLOCK, damaged

log = logging.getLogger(__name__)
ORDER = 2**63 - 1  # random stream index for the order of shards; no sample has it
BAD_AT_LEAST = 10  # damaged images to skip before the allowed fraction is checked


class RemoteShards(IterableDataset):
    """Samples (view, label) of shards at addresses; damaged images are logged and skipped.

    Every worker of every process yields the same number of samples and restarts its shards if they run out, so that all
    processes end an epoch together.

    Args:
        urls: addresses of tars, at least one per worker of every process.
        view: (3, H, W) uint8 pixels and random numbers -> a tensor or a tuple of them.
        seed: of order and augmentation.
        epoch_samples: samples per epoch over all processes; rounded down to a multiple of the workers.
        num_classes: labels must be below it; not checked by default.
        lists: class names by folder of the addresses, as `remote_classes` finds them; several are joined by name.
        labeled: insist on a class for every image; otherwise labels may be missing and are -1.
        rank, world: rank and number of processes.
        buffer: size of the shuffle buffer, in encoded samples.
        max_bad: fraction of the images that may be damaged.
    """

    def __init__(
        self,
        urls: Sequence[str],
        view: Callable[[Tensor, np.random.Generator], Any],
        *,
        seed: int,
        epoch_samples: int,
        num_classes: int | None = None,
        lists: Mapping[str, list[str] | None] | None = None,
        labeled: bool = True,
        rank: int = 0,
        world: int = 1,
        buffer: int = 1000,
        max_bad: float = 0.001,
    ) -> None:
        for url in urls:
            if not is_remote(url):
                raise DataError(f"shards are not streamed from '{url}', which is no address; give a local path")
        if any(map(by_curl, urls)):
            check_curl()
        self.urls, self.view, self.seed, self.epoch_samples = list(urls), view, seed, epoch_samples
        self.labeled, self.buffer, self.max_bad = labeled, buffer, max_bad
        self.rank, self.world, self.epoch = rank, world, 0
        self.lists, self.sizes = dict(lists or {}), [epoch_samples]
        self.classes, self.numbers = joined(self.lists)
        self.num_classes = num_classes or (len(self.classes) if self.classes else None)
        self.fingerprint = hashlib.sha256("\n".join(self.urls).encode()).hexdigest()  # all that is known beforehand

    def stream_feed(self, **shares: Any) -> StreamFeed:
        """The feed for a stream, used by `shared.runs.session`."""
        return StreamFeed(self, **shares)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; before the workers start, since they hold copies."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of one epoch, over all processes, before rounding."""
        return self.epoch_samples

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        worker, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        part, parts = self.rank * workers + worker, self.world * workers
        if parts > min(len(self.urls), self.epoch_samples):
            raise DataError(f"{len(self.urls)} shards cannot be distributed over {parts} workers; use fewer --workers")
        order = rng_for(self.seed, self.epoch, ORDER).permutation(len(self.urls))
        mixed = self.endlessly([self.urls[i] for i in order[part::parts]], f"{self.seed} {self.epoch} {part}")
        good = bad = 0
        for n, (name, data, label) in enumerate(mixed):
            try:
                image = decode_image(data, upright=True)
            except BadImage as error:
                bad += 1
                log.warning("skipped %s: %s", name, error)
                if bad > BAD_AT_LEAST + self.max_bad * n:
                    what = f"{bad} of {n + 1} images cannot be read, the last one is {name}: {error}"
                    raise DataError(f"{what}; fix them or allow more with --max-bad-samples") from None
                continue
            rng = rng_for(self.seed, self.epoch, part + parts * n)
            torch.default_generator.manual_seed(int(rng.integers(2**62)))  # for torchvision's own random transforms
            yield self.view(image, rng), label
            good += 1
            if good == self.epoch_samples // parts:
                return

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Samples -> (views stacked to (B, 3, H, W) uint8, or a tuple of such; labels (B,) int64)."""
        return stacked([view for view, _ in samples]), torch.tensor([label for _, label in samples])

    def endlessly(self, urls: list[str], seed: str) -> Iterator[tuple[str, bytes, int]]:
        """(name, bytes of the image file, label) of these shards, repeatedly, shuffled in each round."""
        from webdataset.filters import shuffle  # slow to import

        rng = random.Random(seed)
        while True:
            yield from shuffle(self.buffer, rng=rng)(sample for url in urls for sample in self.samples(url))

    def samples(self, url: str) -> Iterator[tuple[str, bytes, int]]:
        """The samples of one shard, in order, with the checks of an index."""
        contents = Contents(url)
        for key, sample in neighbors(files(url, contents)):
            name = f"{url}:{key}"
            image = next((sample[extension] for extension in IMAGES if extension in sample), None)
            if image is None:
                raise DataError(f"{name} has a class but no image next to it; write them as neighbors")
            yield name, image, self.label(sample, url, name)
        contents.complete()

    def label(self, sample: dict[str, bytes], url: str, name: str) -> int:
        if "cls" not in sample:
            if self.labeled:
                raise DataError(f"{name} has no class next to it; add its .cls member")
            return -1
        label, folder = parse_class(sample["cls"], name), folder_of(url)
        if label >= len(self.lists.get(folder) or ()) > 0:
            raise outside(label, name, len(self.lists[folder] or ()))
        if folder in self.numbers:
            label = int(self.numbers[folder][label])
        if self.num_classes is not None and label >= self.num_classes:
            raise outside(label, name, self.num_classes)
        return label


class StreamFeed:
    """Micro batches of remote shards by optimizer step, with the interface of `shared.feeding.feed.Feed`.

    An epoch is a whole number of steps, and a run can be resumed only at the start of one.

    Args:
        samples: the stream.
        batch_size, micro_batches, rank, world, workers, pin: as for `shared.feeding.feed.Feed`.
    """

    whole_epochs = True

    def __init__(
        self,
        samples: RemoteShards,
        *,
        batch_size: int,
        micro_batches: int,
        rank: int,
        world: int,
        workers: int,
        pin: bool = False,
    ) -> None:
        self.samples, self.batch_size, self.micro_batches = samples, batch_size, micro_batches
        self.world, self.workers = world, min(workers, len(samples.urls) // world)
        self.steps_per_epoch = samples.epoch_samples // self.step_size
        if self.steps_per_epoch == 0:
            raise DataError(f"--samples {samples.epoch_samples} is less than a step of {self.step_size}; give more")
        mine = self.steps_per_epoch * micro_batches // world  # micro batches per epoch of this process
        each = math.ceil(mine / max(self.workers, 1))
        samples.rank, samples.epoch_samples = rank, each * batch_size * max(self.workers, 1) * world
        samples.world = world
        self.bad: set[str] = set()
        self.pin = pin

    @property
    def step_size(self) -> int:
        """Samples in one optimizer step."""
        return self.batch_size * self.micro_batches

    def handed_over(self, samples: list[Any]) -> Any:
        """Samples -> a micro batch as it leaves the loader."""
        return handed_over(self.samples.collate(samples), self.pin)

    def steps(self, first: int, stop: int) -> Iterator[list[Any]]:
        """This process's micro batches of each step; `first` must be the first step of an epoch."""
        every, mine = self.steps_per_epoch, self.micro_batches // self.world
        for epoch in range(first // every, math.ceil(stop / every)):
            self.samples.set_epoch(epoch)
            batches = plainly(
                DataLoader(
                    self.samples,
                    batch_size=self.batch_size,
                    num_workers=self.workers,
                    collate_fn=self.handed_over,
                    worker_init_fn=start_worker,
                    pin_memory=self.pin and self.workers > 0,
                )
            )
            for _ in range(every):
                yield [next(batches) for _ in range(mine)]


def check_curl() -> None:
    if shutil.which("curl") is None:
        raise DataError("streaming shards needs the program curl; install it, or copy the shards here")


def folder_of(url: str) -> str:
    """The address of the folder that a shard is in."""
    return url.partition("?")[0].rpartition("/")[0]


def remote_classes(urls: Sequence[str]) -> dict[str, list[str] | None]:
    """Class names of the `classes.txt` next to remote shards, by folder; None where there is none.

    Raises:
        DataError: a server cannot be reached or fails, or the file is not text.
    """
    return {folder: _remote_names(f"{folder}/{NAMES}") for folder in dict.fromkeys(map(folder_of, urls))}


def _remote_names(url: str) -> list[str] | None:
    if not by_curl(url):
        return None if (found := text_at(url)) is None else names_of(found, url)
    check_curl()
    curl = ["curl", "-sSL", "--connect-timeout", "30", "--max-time", "60", "--retry", "3", "-w", "\n%{http_code}"]
    asked = subprocess.run(
        [*curl, "--proto", "=http,https", "--proto-redir", "=http,https", url], capture_output=True, check=False
    )
    content, _, status = asked.stdout.rpartition(b"\n")
    if asked.returncode or status not in (b"200", b"403", b"404", b"410"):
        what = f"code {asked.returncode}" if asked.returncode else f"status {status.decode()}"
        raise DataError(f"curl ended with {what} on {url}; check the address")
    if status != b"200" or content.lstrip()[:1] == b"<":  # some servers answer with a page instead of 404
        return None
    return names_of(content, url)


class Watched:
    """A stream that counts its bytes and remembers the position of the last nonzero one."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.count, self.last = stream, 0, 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        filled = len(data.rstrip(b"\0"))
        if filled:
            self.last = self.count + filled
        self.count += len(data)
        return data


def neighbors(found: Iterator[tuple[str, str, bytes]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members next to each other with the same key -> (key, content by extension)."""
    for key, group in groupby(found, key=lambda each: each[0]):
        yield key, {extension: content for _, extension, content in group}


def files(url: str, contents: Contents) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of the images and classes of one remote tar.

    Raises:
        DataError: not found, truncated or damaged, or a member that `contents` refuses.
    """
    # not webdataset.gopen, which lets an environment variable turn an address into a command
    from webdataset.gopen import gopen_curl

    pipe: Any = gopen_curl(url) if by_curl(url) else Streamed(url)
    stream = Watched(pipe)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
            for member in tar:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or they pile up
                if (named := contents.add(member)) is not None and (content := tar.extractfile(member)) is not None:
                    yield *named, content.read()
            while stream.read(1 << 20):
                pass
            if stream.last > tar.offset:
                raise damaged(url, tar.offset, "a header is damaged")
            if stream.count - tar.offset < 2 * BLOCK:
                raise damaged(url, stream.count, "it is cut, the two empty blocks that end a tar are missing")
        pipe.close()  # curl's exit status explains more
    except (tarfile.TarError, OSError, EOFError) as error:
        with suppress(OSError):
            pipe.close()
        if pipe.status:
            raise DataError(f"curl ended with code {pipe.status} on shard {url}; check the address") from None
        raise damaged(url, stream.count, str(error)) from None
    finally:
        with suppress(OSError):
            pipe.close()
