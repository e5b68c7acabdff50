"""Shards on a web server, read as they arrive: for data that does not fit on the disk.

    addresses, shuffled anew each epoch -> this process's and worker's share -> curl, as webdataset starts it
        -> tar members, every byte accounted for -> samples -> a shuffling buffer -> decode -> view

A stream has no positions, so a run resumes at the start of an epoch only. Where there is room, copy the shards and
read them with `ShardSet`, which resumes at any step. Of webdataset's decoders none is used: some of them execute what
they decode.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pretrain.data.shard_index import parse_class
from pretrain.data.shards import IMAGES, is_remote, outside, stacked
from shared.errors import DataError
from shared.feeding.feed import plainly, start_worker
from shared.feeding.image import BadImage, decode_image
from shared.feeding.plan import rng_for
from shared.feeding.tar import BLOCK, damaged, split_name

log = logging.getLogger(__name__)
ORDER = 2**63 - 1  # the index whose random numbers order the shards; no sample has it
BAD_AT_LEAST = 10  # damaged images that are stepped over before the share allowed is looked at


class RemoteShards(IterableDataset):
    """Samples (view, label) of shards behind http(s) addresses; damaged images are logged and stepped over.

    Every worker of every process yields the same number of samples, going through its shards again if they run out,
    so that no process ends its epoch before another.

    Args:
        urls: http(s) addresses of tars, at least one per worker of every process.
        view: (3, H, W) uint8 pixels and random numbers -> a tensor or a tuple of them.
        seed: of order and augmentation.
        epoch_samples: in one epoch over all processes; rounded down to a multiple of the workers.
        num_classes: above the largest label allowed; not looked at by default.
        labelled: insist on a class for every image; otherwise labels may be missing and are -1.
        rank, world: this process, and how many share the work.
        buffer: samples kept as bytes to shuffle among.
        max_bad: share of the images that may turn out damaged.
    """

    def __init__(
        self,
        urls: Sequence[str],
        view: Callable[[Tensor, np.random.Generator], Any],
        *,
        seed: int,
        epoch_samples: int,
        num_classes: int | None = None,
        labelled: bool = True,
        rank: int = 0,
        world: int = 1,
        buffer: int = 1000,
        max_bad: float = 0.001,
    ) -> None:
        for url in urls:
            if not is_remote(url):
                raise DataError(f"shards are streamed from http(s) addresses only, not from '{url}'; name a local path")
        if shutil.which("curl") is None:
            raise DataError("streaming shards needs the program curl; install it, or copy the shards here")
        self.urls, self.view, self.seed, self.epoch_samples = list(urls), view, seed, epoch_samples
        self.num_classes, self.labelled, self.buffer, self.max_bad = num_classes, labelled, buffer, max_bad
        self.rank, self.world, self.epoch = rank, world, 0
        self.sizes, self.classes = [epoch_samples], None
        self.fingerprint = hashlib.sha256("\n".join(self.urls).encode()).hexdigest()  # all that is known beforehand

    def stream_feed(self, **shares: int) -> StreamFeed:
        """The feed that suits a stream; `shared.runs.session` asks for it."""
        return StreamFeed(self, **shares)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is; before the workers start, as they hold copies."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of one epoch, over all processes, before rounding."""
        return self.epoch_samples

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        worker, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        part, parts = self.rank * workers + worker, self.world * workers
        if parts > min(len(self.urls), self.epoch_samples):
            raise DataError(f"{len(self.urls)} shards cannot be shared out over {parts} workers; take fewer --workers")
        order = rng_for(self.seed, self.epoch, ORDER).permutation(len(self.urls))
        mixed = self.endlessly([self.urls[i] for i in order[part::parts]], f"{self.seed} {self.epoch} {part}")
        good = bad = 0
        for n, (name, data, label) in enumerate(mixed):
            try:
                image = decode_image(data, upright=True)
            except BadImage as error:
                bad += 1
                log.warning("stepped over %s: %s", name, error)
                if bad > BAD_AT_LEAST + self.max_bad * n:
                    what = f"{bad} of {n + 1} images cannot be read, the last being {name}: {error}"
                    raise DataError(f"{what}; mend them or allow more with --max-bad-samples") from None
                continue
            rng = rng_for(self.seed, self.epoch, part + parts * n)
            torch.default_generator.manual_seed(int(rng.integers(2**62)))  # for torchvision's own random transforms
            yield self.view(image, rng), label
            good += 1
            if good == self.epoch_samples // parts:
                return

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Samples -> (views stacked to (B, 3, H, W) uint8, tuples staying tuples; labels (B,) int64)."""
        return stacked([view for view, _ in samples]), torch.tensor([label for _, label in samples])

    def endlessly(self, urls: list[str], seed: str) -> Iterator[tuple[str, bytes, int]]:
        """(name, bytes of the image file, label) of these shards, over and over, shuffled within each round."""
        from webdataset.filters import shuffle  # slow to import

        rng = random.Random(seed)
        while True:
            yield from shuffle(self.buffer, rng=rng)(sample for url in urls for sample in self.samples(url))

    def samples(self, url: str) -> Iterator[tuple[str, bytes, int]]:
        """What one shard holds, in its order."""
        from webdataset.tariterators import group_by_keys

        count = 0
        try:
            for sample in group_by_keys(files(url)):
                name = f"{url}:{sample['__key__']}"
                image = next((sample[extension] for extension in IMAGES if extension in sample), None)
                if image is None:
                    raise DataError(f"{name} has a class but no image beside it; write both next to each other")
                yield name, image, self.label(sample, name)
                count += 1
        except ValueError as error:  # two members of one name
            raise DataError(f"shard {url}: {error.args[0]}; keep one of them") from None
        if not count:
            raise DataError(f"shard {url} holds no {', '.join(IMAGES)}; take it out of the list")

    def label(self, sample: dict[str, Any], name: str) -> int:
        if "cls" not in sample:
            if self.labelled:
                raise DataError(f"{name} has no class next to it; add its .cls member")
            return -1
        label = parse_class(sample["cls"], name)
        if self.num_classes is not None and label >= self.num_classes:
            raise outside(label, name, self.num_classes)
        return label


class StreamFeed:
    """Micro batches of remote shards, by optimizer step, as `shared.feeding.feed.Feed` gives those of local ones.

    An epoch is a whole number of steps here, and a run can only be taken up where one begins.

    Args:
        samples: the stream.
        batch_size, micro_batches, rank, world, workers: as for `shared.feeding.feed.Feed`.
    """

    whole_epochs = True

    def __init__(
        self, samples: RemoteShards, *, batch_size: int, micro_batches: int, rank: int, world: int, workers: int
    ) -> None:
        self.samples, self.batch_size, self.micro_batches = samples, batch_size, micro_batches
        self.world, self.workers = world, min(workers, len(samples.urls) // world)
        self.steps_per_epoch = samples.epoch_samples // self.step_size
        if self.steps_per_epoch == 0:
            raise DataError(f"--samples {samples.epoch_samples} is less than a step of {self.step_size}; give more")
        mine = self.steps_per_epoch * micro_batches // world  # micro batches an epoch that this process takes
        each = math.ceil(mine / max(self.workers, 1))
        samples.rank, samples.epoch_samples = rank, each * batch_size * max(self.workers, 1) * world
        samples.world = world
        self.bad: set[str] = set()

    @property
    def step_size(self) -> int:
        """Samples in one optimizer step."""
        return self.batch_size * self.micro_batches

    def steps(self, first: int, stop: int) -> Iterator[list[Any]]:
        """This process's micro batches of each step; `first` is the first step of an epoch."""
        every, mine = self.steps_per_epoch, self.micro_batches // self.world
        for epoch in range(first // every, math.ceil(stop / every)):
            self.samples.set_epoch(epoch)
            batches = plainly(
                DataLoader(
                    self.samples,
                    batch_size=self.batch_size,
                    num_workers=self.workers,
                    collate_fn=self.samples.collate,
                    worker_init_fn=start_worker,
                )
            )
            for _ in range(every):
                yield [next(batches) for _ in range(mine)]


class Watched:
    """A stream that knows how many bytes came out of it, and where the last one was that is not zero."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.count, self.last = stream, 0, 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        filled = len(data.rstrip(b"\0"))
        if filled:
            self.last = self.count + filled
        self.count += len(data)
        return data


def files(url: str) -> Iterator[dict[str, Any]]:
    """The images and classes of one remote tar as webdataset hands them on; then {}, which ends its last sample.

    Raises:
        DataError: not there, cut or damaged.
    """
    # not webdataset.gopen, which lets an environment variable turn an address into a command
    from webdataset.gopen import gopen_curl

    pipe: Any = gopen_curl(url)
    stream = Watched(pipe)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
            for member in tar:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or they pile up
                if member.isdir() or split_name(member.name)[1] not in (*IMAGES, "cls"):
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise DataError(f"'{member.name}' in shard {url} is a link; write it as a plain file")
                yield {"fname": member.name, "data": content.read(), "__url__": url}
            while stream.read(1 << 20):
                pass
            if stream.last > tar.offset:
                raise damaged(url, tar.offset, "a header is damaged")
            if stream.count - tar.offset < 2 * BLOCK:
                raise damaged(url, stream.count, "it is cut, the two empty blocks that end a tar are missing")
        pipe.close()  # curl may have more to say
        yield {}
    except (tarfile.TarError, OSError, EOFError) as error:
        with suppress(OSError):
            pipe.close()
        if pipe.status:
            raise DataError(f"curl ended with code {pipe.status} on shard {url}; look at the address") from None
        raise damaged(url, stream.count, str(error)) from None
    finally:
        with suppress(OSError):
            pipe.close()
