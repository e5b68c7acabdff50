"""Photographs are decoded once: what is damaged, and what the others look like, in their order."""

from __future__ import annotations

import threading

import pytest
import torch

from detection.doctor import pixels
from detection.doctor.pixels import look_at_pixels
from shared.feeding.fingerprint import fingerprints
from tests.shared.feeding.of_pictures import jpeg, picture


class Files:
    """Seventy pictures in memory, of which some are damaged and one is gone; counts how often each is read."""

    def __init__(self) -> None:
        self.data: list[bytes | None] = [jpeg(picture(number % 7)) for number in range(70)]
        self.data[3], self.data[40], self.data[69] = self.data[3][:200], b"no picture", None  # type: ignore[index]
        self.reads, self.lock = [0] * 70, threading.Lock()

    def __len__(self) -> int:
        return len(self.data)

    def name(self, row: int) -> str:
        return f"{row}.jpg"

    def read(self, row: int) -> bytes:
        with self.lock:
            self.reads[row] += 1
        data = self.data[row]
        if data is None:
            raise FileNotFoundError(2, "No such file")
        return data


def test_every_file_is_read_once_and_the_damaged_ones_are_named() -> None:
    files = Files()
    looked = look_at_pixels(files, [5, 6], prints=True, pictures=True)
    assert files.reads == [0 if row in (5, 6) else 1 for row in range(70)]
    assert sorted(looked.damaged) == [3, 40, 69]
    assert looked.damaged[69].startswith("69.jpg: ") and looked.damaged[3].startswith("3.jpg: ")
    assert looked.rows.tolist() == [row for row in range(70) if row not in (3, 5, 6, 40, 69)]
    assert looked.pictures.shape == (65, 64, 64) and (fingerprints(looked.pictures) == looked.prints).all()
    same = {row % 7: looked.prints[place] for place, row in enumerate(looked.rows.tolist())}
    assert all((looked.prints[place] == same[row % 7]).all() for place, row in enumerate(looked.rows.tolist()))


def test_what_is_not_asked_for_is_not_kept_and_no_file_is_no_fault() -> None:
    looked = look_at_pixels(Files(), prints=False, pictures=False)
    assert len(looked.rows) == 67 and len(looked.prints) == len(looked.pictures) == 0
    nothing = look_at_pixels(Files(), range(70), prints=True, pictures=True)
    assert not nothing.damaged and len(nothing.rows) == len(nothing.prints) == len(nothing.pictures) == 0


def test_the_threads_of_torch_are_as_before_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, within = torch.get_num_threads(), []

    def broken(data: bytes) -> None:
        within.append(torch.get_num_threads())
        raise ZeroDivisionError

    monkeypatch.setattr(pixels, "decode_luminance", broken)
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError):
            look_at_pixels(Files(), prints=True, pictures=False)
        assert torch.get_num_threads() == 3 and set(within) == {1}
    finally:
        torch.set_num_threads(threads)
