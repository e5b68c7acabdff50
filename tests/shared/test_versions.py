"""Releases that do not fit are named in one sentence before a command runs; --version imports nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shared import versions
from shared.recipes import commands

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAM = "import sys; from {}.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Metadata of a release, found before that of the one which is installed."""

    def write(name: str, version: str, *requires: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    return write


def run(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(package), *words], capture_output=True, text=True)


def test_what_is_installed_here_fits() -> None:
    versions.check()


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.11.0a0+git0123abc", (2, 11)),  # built from source, or in a vendor's container
        ("2.14.1+cu130", (2, 14, 1)),
        ("1.0.20.dev0", (1, 0, 20)),
        ("1!3.0.post1", (3,)),
        ("0.6.2", (0, 6, 2)),
        ("source", ()),
    ],
)
def test_release_is_the_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert versions.release(version) == numbers


def test_bounds_are_those_of_pyproject() -> None:
    found = {bound.name: bound for bound in versions.bounds(versions.own()[1])}
    assert len(found) == len(PROJECT["dependencies"]) and all(bound.lowest for bound in found.values())
    assert str(found["timm"]).endswith(",<2") and versions.own()[0] == PROJECT["version"]
    assert versions.bounds(["a>=1.2,<3", "b >= 1", "c", "d>=1; extra == 'x'"]) == [
        ("a", "1.2", "3"),
        ("b", "1", ""),
        ("c", "", ""),
    ]


@pytest.mark.parametrize(
    ("package", "command"), [("pretrain", ["train", "--data-path", "x"]), ("detection", ["eval", "x"])]
)
@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("timm", "1.0.3", "timm 1.0.3 is installed, needed is >={}; install what fits with pip install 'timm>={}'"),
        ("timm", "2.0.0", "timm 2.0.0 is installed, needed is >={}"),
        ("torch", "2.1.0+cu118", "torch 2.1.0+cu118 is installed, needed is >={}"),
        ("pillow", "9.0", "pillow 9.0 is installed, needed is >={}"),
    ],
)
def test_release_that_does_not_fit_is_named_before_anything_is_read(
    pretend, package: str, command: list[str], name: str, version: str, sentence: str
) -> None:
    pretend(name, version)
    done = run(package, *command)
    needed = next(text.removeprefix(f"{name}>=") for text in PROJECT["dependencies"] if text.startswith(f"{name}>="))
    assert sentence.replace("{}", needed) in done.stderr and done.stderr.count("\n") == 1
    assert done.returncode == 1 and not done.stdout
    assert run(package, command[0], "--help").returncode == 0, "help is given at any rate"


def test_all_that_does_not_fit_stands_in_one_sentence(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("timm", "1.0.3")
    pretend("scipy", "1.2")
    monkeypatch.setattr(versions, "own", lambda: ("1", ["timm>=1.0.20", "scipy>=1.13", "no-such-package>=3"]))
    with pytest.raises(
        versions.VersionError, match=r"timm 1.0.3 .*; scipy 1.2 .*; no-such-package is not installed"
    ) as told:
        versions.check()
    assert str(told.value).endswith("pip install 'timm>=1.0.20' 'scipy>=1.13' 'no-such-package>=3'")


def test_package_that_is_there_without_metadata_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda name: None)
    versions.check()


def test_torchvision_of_another_torch_is_named(pretend) -> None:
    pretend("torchvision", "0.98.0", "numpy", "torch==2.98.0")
    with pytest.raises(
        versions.VersionError,
        match="torchvision 0.98.0 is built for torch 2.98.0, and torch .* is installed; install the pair",
    ):
        versions.check()


@pytest.mark.parametrize("requires", [["torch"], ["torch>=1.3"], []])
def test_torchvision_that_asks_for_no_release_is_believed(pretend, requires: list[str]) -> None:
    pretend("torchvision", "0.98.0", *requires)
    versions.check()


def test_operators_that_do_not_load_are_answered_with_the_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: list[str]) -> int:
        raise RuntimeError("operator torchvision::nms does not exist" if argv else "another")

    monkeypatch.setattr(commands, "collect", lambda package: {"train": commands.Command("", run)})
    main = commands.program("detect", "detection")
    assert main(["train", "x"]) == 1
    told = capsys.readouterr().err
    assert "detect: torchvision 0." in told and "cannot load its operators beside torch 2." in told
    assert "pip install --force-reinstall torch torchvision" in told and "nms" not in told
    assert main(["train"]) == 1 and "RuntimeError: another" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pretrain", "detection"])
@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_version_names_what_runs_and_imports_none_of_it(package: str, words: list[str]) -> None:
    loaded = "sorted({'torch', 'timm'} & {*sys.modules})"
    program = f"import sys; from {package}.cli import main; main({words}); print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    told, loaded = done.stdout.splitlines()
    assert told.startswith(f"chordate {PROJECT['version']} (Python 3.") and loaded == "[]"
    assert all(f"{name} {versions.installed(name)}" in told for name in versions.SHOWN)


def test_unknown_version_of_chordate_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PYPROJECT", tmp_path / "none")
    monkeypatch.setattr(versions, "installed", lambda name: None)
    assert versions.summary().startswith("chordate unknown (") and "torch missing" in versions.summary()
