"""Push and pull: the same digest on the other side, nothing of anybody's replaced unasked, refusals in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import RepositoryNotFoundError
from torch import nn

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.weights import hub
from shared.weights.card import Card, Exported
from shared.weights.seen import digests_of, write_digests
from shared.weights.store import Store

REPO = "somebody/net"


def a_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def put(root: Path, seed: int, aside: Path, **facts: Any) -> Exported:
    """An export of a network that timm does not have, with digests of its images."""
    import numpy as np

    stats = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    told = {"kind": "detector", "arch": "fcos-tiny", "tag": "mine", "epoch": seed, "pixels": stats} | facts
    aside.mkdir(exist_ok=True)
    seen = write_digests(aside, digests_of(np.arange(1, 9)), kind="detector", arch="fcos-tiny", tag="mine")
    return Store(root).put(a_network(seed), Card(**told), seen=seen)


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """A detector, its backbone under a license of others, and what that was made from, which is not here."""
    root, lost = tmp_path / "weights", {"arch": "tiny", "tag": "old", "digest": "0" * 12}
    parent = Store(root).put(
        a_network(7), Card(arch="tiny", tag="base", epoch=3, licence="CC BY-NC 4.0", parents=[lost])
    )
    return put(root, 1, tmp_path / "aside", parents=[parent.reference], licence="MIT")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a command with the store of the test: exit code and everything it printed."""

    def run(main: Callable[..., int], *words: object, weights: Path = tmp_path / "weights") -> tuple[int, str]:
        code = main([*map(str, words), "--weights-dir", str(weights)])
        told = capsys.readouterr()
        assert not code or told.err.count("\n") == 1, told.err
        return code, told.out + told.err

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The hub's API with the signatures of the installed release; `server.files` is its only repository, or None."""
    api: Any = create_autospec(huggingface_hub.HfApi, instance=True)
    api.endpoint, api.files, api.private, api.parents = "https://hub.test", None, False, []

    def repo_info(repo: str) -> Any:
        if api.files is None:
            gone: Any = SimpleNamespace(headers={}, request=None, status_code=404)
            raise RepositoryNotFoundError("404", response=gone)
        names = [str(p.relative_to(api.files)) for p in api.files.rglob("*") if p.is_file()]
        siblings = [SimpleNamespace(rfilename=name) for name in names]
        return SimpleNamespace(private=api.private, siblings=siblings, sha="c0ffee")

    def create_repo(repo: str, *, private: bool, exist_ok: bool) -> None:
        api.files, api.private = tmp_path / "served", private
        api.files.mkdir()
        (api.files / ".gitattributes").touch()

    def upload_folder(*, repo_id: str, folder_path: str, **more: Any) -> None:
        api.parents.append(more["parent_commit"])
        if more["delete_patterns"]:
            shutil.rmtree(api.files)
        shutil.copytree(folder_path, api.files, dirs_exist_ok=True)

    api.repo_info.side_effect, api.create_repo.side_effect = repo_info, create_repo
    api.upload_folder.side_effect = upload_folder
    api.hf_hub_download.side_effect = lambda repo, name, revision: str(api.files / name)
    api.snapshot_download.side_effect = lambda repo, **more: str(api.files)
    monkeypatch.setattr(hub, "the_api", lambda: api)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    return api


def front(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_what_is_pulled_is_what_was_pushed(exported: Exported, tmp_path: Path, said: Any) -> None:
    assert said(detect, "push", "mine", "--to-folder", tmp_path / "out")[0] == 0
    code, text = said(detect, "pull", "--from-folder", tmp_path / "out", weights=tmp_path / "new")
    assert code == 0 and "pulled fcos-tiny mine@" in text
    there = Store(tmp_path / "new").find(None, "mine")
    assert there.digest == exported.digest and there.card == exported.card
    for file in [path for path in exported.path.rglob("*") if path.is_file()]:
        assert (there.path / file.name).read_bytes() == file.read_bytes()
    assert Store(tmp_path / "new").lineage(there) == Store(tmp_path / "weights").lineage(exported)
    assert len(Store(tmp_path / "new").all()) == 1, "the ancestor's card came along, its weights did not"
    code, text = said(detect, "verify", "mine", weights=tmp_path / "new")
    assert code == 0 and "as it was written" in text
    assert "already there" in said(detect, "pull", "--from-folder", tmp_path / "out", weights=tmp_path / "new")[1]
    # what was pulled can be pushed again, ancestors and all
    assert said(detect, "push", "mine", "--to-folder", tmp_path / "again", weights=tmp_path / "new")[0] == 0
    assert (tmp_path / "again" / "README.md").read_bytes() == (tmp_path / "out" / "README.md").read_bytes()


def test_the_readme_names_the_licenses_of_all_ancestors(exported: Exported, tmp_path: Path, said: Any) -> None:
    said(detect, "push", "mine", "--to-folder", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert front(tmp_path / "out")["license"] == "mit"
    for words in ("license MIT", "from **tiny base", "license CC BY-NC 4.0", "tiny old", "mean 0.5, 0.4, 0.3"):
        assert words in text
    said(detect, "push", "mine", "--to-folder", tmp_path / "own", "--license", "Our Own: v1")
    assert {"license": "other", "license_name": "our-own-v1"}.items() <= front(tmp_path / "own").items()


def test_a_push_makes_the_repository_and_pushes_the_same_only_once(
    exported: Exported, server: Any, tmp_path: Path, said: Any
) -> None:
    code, text = said(detect, "push", "mine", REPO, "--private")
    assert code == 0 and f"https://hub.test/{REPO}" in text and server.private
    assert "already" in said(detect, "push", "mine", REPO)[1] and server.upload_folder.call_count == 1
    assert said(detect, "pull", REPO, "--tag", f"mine@{exported.digest[:6]}", weights=tmp_path / "new")[0] == 0
    assert Store(tmp_path / "new").find(None, "mine").digest == exported.digest


@pytest.mark.parametrize("there", ["other weights", "other files"])
def test_what_a_repository_has_is_replaced_only_on_request(
    exported: Exported, server: Any, tmp_path: Path, said: Any, there: str
) -> None:
    server.create_repo(REPO, private=False, exist_ok=False)
    (server.files / "notes.txt").write_text("mine")
    if there == "other weights":
        assert said(detect, "push", "mine", REPO, "--replace")[0] == 0
        put(tmp_path / "weights", 2, tmp_path / "aside")
    before = {path: path.read_bytes() for path in server.files.rglob("*") if path.is_file()}
    code, text = said(detect, "push", "mine", REPO)
    assert code == 4 and "--replace" in text and "nothing was changed" in text
    assert {path: path.read_bytes() for path in server.files.rglob("*") if path.is_file()} == before
    assert said(detect, "push", "mine", REPO, "--replace")[0] == 0
    assert not (server.files / "notes.txt").exists() and server.parents[-1] == "c0ffee"


def test_private_is_never_pushed_to_a_public_repository(exported: Exported, server: Any, said: Any) -> None:
    server.create_repo(REPO, private=False, exist_ok=False)
    code, text = said(detect, "push", "mine", REPO, "--private")
    assert code == 2 and "public" in text and not server.upload_folder.called


def test_offline_pushes_nothing_and_pulls_from_the_cache(
    exported: Exported, server: Any, tmp_path: Path, said: Any
) -> None:
    code, text = said(detect, "push", "mine", REPO, "--offline")
    assert code == 2 and "--to-folder" in text and not server.mock_calls
    said(detect, "push", "mine", REPO)
    assert said(detect, "pull", REPO, "--offline", weights=tmp_path / "new")[0] == 0
    assert server.snapshot_download.call_args.kwargs["local_files_only"] is True


def test_without_a_network_there_is_one_sentence(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Any
) -> None:
    """The installed huggingface_hub against a port that nobody listens on."""
    nobody = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9", token=False)
    monkeypatch.setattr(hub, "the_api", lambda: nobody)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(nobody, "snapshot_download", lambda *_, **more: nobody.repo_info(REPO))
    code, text = said(detect, "push", "mine", REPO)
    assert code == 1 and "--to-folder" in text
    code, text = said(detect, "pull", REPO, weights=tmp_path / "new")
    assert code == 4 and "--from-folder" in text


@pytest.mark.parametrize(
    ("words", "code", "saying"),
    [
        (["push", "mine"], 2, "give a repository"),
        (["push", "mine", REPO, "--to-folder", "x"], 2, "not both"),
        (["push", "mine", "--to-folder", "x", "--private"], 2, "--private"),
        (["push", "mine", "--to-folder", "."], 2, "not empty"),
        (["push", "mine", "a/b/c"], 2, "USER/NAME"),
        (["push", "other", "--to-folder", "x"], 4, "no weights tagged"),
        (["pull"], 2, "give a repository"),
        (["pull", "--from-folder", "nowhere"], 4, "card.json"),
        (["pull", "--from-folder", "out", "--tag", "mine@abcdef"], 4, "not mine@abcdef"),
        (["pull", "--from-folder", "out", "--revision", "main"], 2, "--revision"),
    ],
)
def test_what_cannot_be_is_refused(
    exported: Exported, tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch, words: Any, code: int, saying: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    if "out" in words:
        assert said(detect, "push", "mine", "--to-folder", "out")[0] == 0
    found, text = said(detect, *words, weights=tmp_path / ("new" if words[0] == "pull" else "weights"))
    assert found == code and saying in text, text
    assert not (tmp_path / "x").exists() and not list((tmp_path / "new").rglob("*"))


def test_each_program_has_its_own_kind(exported: Exported, tmp_path: Path, said: Any) -> None:
    code, text = said(pretrain, "push", "mine", "--to-folder", tmp_path / "x")
    assert code == 4 and "`detect push`" in text
    said(detect, "push", "mine", "--to-folder", tmp_path / "out")
    code, text = said(pretrain, "pull", "--from-folder", tmp_path / "out")
    assert code == 4 and "`detect pull`" in text


def spoil(folder: Path, how: str) -> None:
    card = json.loads((folder / "card.json").read_text())
    if how == "weights":
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "seen":
        (folder / card["seen"][0]["file"]).write_bytes(b"other")
    else:
        changed: dict[str, Any] = {
            "arch": {"arch": "../../x"},
            "tag": {"tag": ["a"]},
            "parent": {"parents": [{"arch": "a", "tag": "b", "digest": "../../../etc"}]},
            "no parent": {"parents": ["x"]},
            "file": {"seen": [{"file": "../../x.npy", "sha256": ""}]},
        }[how]
        (folder / "card.json").write_text(json.dumps(card | changed))


@pytest.mark.parametrize("how", ["weights", "no weights", "seen", "arch", "tag", "parent", "no parent", "file"])
def test_what_was_spoilt_on_its_way_does_not_enter_the_store(
    exported: Exported, tmp_path: Path, said: Any, how: str
) -> None:
    said(detect, "push", "mine", "--to-folder", tmp_path / "out")
    spoil(tmp_path / "out", how)
    code, _ = said(detect, "pull", "--from-folder", tmp_path / "out", weights=tmp_path / "new")
    assert code == 4 and not list((tmp_path / "new").rglob("*"))
