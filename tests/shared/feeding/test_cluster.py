"""--engine ray: what is refused before anything is sent. What happens on a cluster: tests/end_to_end/test_on_ray.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.feeding import cluster
from shared.feeding.parts import add_part_flags
from shared.recipes.flags import Parser


def given(*words: str) -> str | None:
    flags = Parser(prog="pack")
    add_part_flags(flags)
    cluster.add_engine_flags(flags)
    return cluster.cluster_of(flags.parse_exactly(list(words)))


@pytest.fixture(autouse=True)
def as_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: name)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_an_address_is_taken_from_the_flag_or_from_rays_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given() is None and given("--engine", "processes") is None
    assert given("--engine", "ray", "--ray-address", "head:6379") == "head:6379"
    assert given("--engine", "ray", "--ray-address", "local") == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert given("--engine", "ray") == "10.0.0.1:6379" and given() is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--engine", "ray"], "needs the address HOST:PORT of a cluster, and there is none; give --ray-address"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "and 'ray://head:10001' is none"),
        (["--engine", "ray", "--ray-address", "auto"], "and 'auto' is none"),
        (["--engine", "ray", "--ray-address", "head:"], "and 'head:' is none"),
        (["--ray-address", "head:6379"], "goes with --engine ray; add it, or remove"),
        (
            ["--engine", "ray", "--ray-address", "local", "--part", "1/2"],
            "shards to nodes by itself; remove --part",
        ),
        (["--engine", "spark"], "invalid choice: 'spark'"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = [str(tmp_path / name) for name in ("in", "out", "shards")]
    for main, places in ((pretrain, place[:2]), (detect, place)):
        assert main(["pack", *places, *words]) == 2
        assert why in capsys.readouterr().err


def test_without_ray_the_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert pretrain(["pack", str(tmp_path), str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "--engine ray needs a package; pip install 'chordate[cluster]'" in capsys.readouterr().err


def test_jobs_are_those_of_one_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--engine", "ray", "--ray-address", "local", "--jobs", "3"]
    assert pretrain(["pack", str(tmp_path), str(tmp_path / "out"), *words]) == 2
    assert "--jobs is for processes; remove it" in capsys.readouterr().err


def test_somebody_listens_or_nobody_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert cluster.answers(address)
    assert not cluster.answers(address)
    assert not cluster.answers("127.0.0.1:99999")


def test_a_call_that_takes_too_long_is_left_alone() -> None:
    assert cluster.within(20, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        cluster.within(20, lambda: 1 / 0)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        cluster.within(0.01, lambda: server.accept())
