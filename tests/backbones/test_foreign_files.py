"""A file that is no checkpoint of the network is refused in a sentence, whole, and no code in it runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones.foreign import read_checkpoint, recognize
from shared.errors import WeightsError
from tests.backbones.of_foreign import behind, scrambled, taken, tiny_vit

# --- what does not fit ----------------------------------------------------------------------


def test_network_that_stands_twice_in_a_file_asks_for_one() -> None:
    net = tiny_vit()
    tensors = behind("base_encoder.", net.net.state_dict()) | behind("momentum_encoder.", net.net.state_dict())
    with pytest.raises(
        WeightsError, match="has some_net more than once, as base_encoder., momentum_encoder.; save only the one"
    ):
        recognize(tensors, "some_net", net)


def test_file_of_a_stranger_names_what_it_has_and_what_is_wanted() -> None:
    with pytest.raises(WeightsError, match="has no tensors of some_net: it has embed, expected .*; give its --model"):
        recognize({"embed": torch.ones(2)}, "some_net", tiny_vit())


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], None, {"state_dict": {"lr": 0.1}}])
def test_file_without_tensors_says_so(content: Any) -> None:
    with pytest.raises(WeightsError, match="has no named tensors; save the network's state_dict"):
        recognize(content, "some_net", tiny_vit())


@pytest.mark.parametrize("gone", ["norm.weight", "blocks.1.mlp.fc2.bias", "cls_token"])
def test_file_that_lacks_a_tensor_is_refused_whole(gone: str) -> None:
    theirs, ours = scrambled(tiny_vit()), tiny_vit()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    tensors = {name: value for name, value in theirs.net.state_dict().items() if name != gone}
    with pytest.raises(WeightsError, match=f"1 of {len(before)} missing .net.{gone}"):
        taken(tensors, ours)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    taken(tensors, ours, allow_missing=(f"net.{gone}",))


# --- reading --------------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when somebody opens it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def bombs(folder: Path) -> dict[str, Callable[[Path], Any]]:
    bomb = Bomb(folder / "executed")
    tensors = {"weight": torch.ones(2), "extra": bomb}
    return {
        "torch file": lambda path: torch.save(tensors, path),
        "old torch file": lambda path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
        "pickle": lambda path: path.write_bytes(pickle.dumps({"weight": bomb})),
        "old pickle": lambda path: path.write_bytes(pickle.dumps(bomb, 0)),
    }


@pytest.mark.parametrize("kind", ["torch file", "old torch file", "pickle", "old pickle"])
def test_pickle_with_code_in_it_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    bombs(tmp_path)[kind](path)
    with pytest.raises(WeightsError) as told:
        read_checkpoint(path)
    sentence = str(told.value)
    assert told.value.exit_code == 4 and "\n" not in sentence and not (tmp_path / "executed").exists()
    if kind != "old pickle":  # which begins like any text
        assert "is a pickle that contains code" in sentence and "it was not executed" in sentence


def test_the_bomb_of_these_tests_does_go_off(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    bombs(tmp_path)["torch file"](path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()


def cut(path: Path) -> None:
    torch.save({"weight": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


UNFIT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (
        lambda path: path.write_text("weights"),
        "is neither a complete safetensors file nor a torch file; download it again",
    ),
    "empty": (
        lambda path: path.write_bytes(b""),
        "is neither a complete safetensors file nor a torch file; download it again",
    ),
    "cut": (cut, "is neither a complete safetensors file nor a torch file; download it again"),
    "a program": (scripted, "is a TorchScript archive, which contains code; it was not executed; save its state_dict"),
    "cut safetensors": (lambda path: path.write_bytes(b"\xff\0\0\0\0\0\0\0{"), "is not a complete safetensors file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read .*; give a checkpoint file"),
    "nothing": (lambda path: None, "cannot be read .No such file.*; give a checkpoint file"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("kind", UNFIT)
def test_file_that_is_none_is_one_sentence(kind: str, tmp_path: Path) -> None:
    write, sentence = UNFIT[kind]
    write(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=sentence) as told:
        read_checkpoint(tmp_path / "weights.pth")
    assert "\n" not in str(told.value)


def test_safetensors_and_torch_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    tensors = {"weight": torch.arange(3.0)}
    save_file(tensors, tmp_path / "a.pth")
    torch.save(tensors, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name)["weight"], tensors["weight"])
