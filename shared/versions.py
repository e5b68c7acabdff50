"""Installed releases against those that pyproject.toml allows, from package metadata; no package is imported.

pyproject.toml  torch>=2.11        torch 2.9.1 installed         -> one sentence before anything is loaded
torchvision's   torch==2.11.0      torch 2.14.1 installed        -> the two that do not belong together
metadata
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import tomllib
import warnings
from pathlib import Path
from typing import NamedTuple

from shared.errors import Refusal

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"  # there in a checkout, not in an installed wheel
SHOWN = ("torch", "torchvision", "timm")
MODULES = {"pyyaml": "yaml", "pillow": "PIL"}  # packages that are imported under another name
PAIR = "install the pair that belongs together with pip install --force-reinstall torch torchvision, from one index"


class VersionError(Refusal):
    """A package is missing, or its release is none that this program was made for."""


class Bound(NamedTuple):
    """A requirement such as `timm>=1.0.20,<2`: name, lowest release, first release that is too new ("" for none)."""

    name: str
    lowest: str
    below: str

    def __str__(self) -> str:
        return ",".join(filter(None, (self.lowest and f">={self.lowest}", self.below and f"<{self.below}")))


def release(version: str) -> tuple[int, ...]:
    """'2.11.0a0+git1234' -> (2, 11): the numbers that order releases, without trailing zeros."""
    found = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version.strip())
    numbers = [int(part) for part in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def bounds(requirements: list[str]) -> list[Bound]:
    """The requirements that hold for every installation: those without a marker."""
    found = []
    for text in requirements:
        name = re.match(r"[\w.-]+", text.strip())
        if name and ";" not in text:
            limits = dict(re.findall(r"(>=|<)\s*([\w.]+)", text))
            found.append(Bound(name[0], limits.get(">=", ""), limits.get("<", "")))
    return found


def own() -> tuple[str, list[str]]:
    """(version, requirements) of chordate: from pyproject.toml in a checkout, otherwise from what pip installed."""
    if PYPROJECT.is_file():
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "chordate":
            return project["version"], project["dependencies"]
    try:
        return installed("chordate") or "unknown", importlib.metadata.requires("chordate") or []
    except importlib.metadata.PackageNotFoundError:
        return "unknown", []


def installed(name: str) -> str | None:
    """The version of an installed package; None without metadata of that name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check() -> None:
    """Compare what is installed with what is required, and torchvision with torch.

    Raises:
        VersionError: names every package that is missing, too old or too new, with what is allowed.
    """
    wrong, fit = [], []
    for bound in bounds(own()[1]):
        version = installed(bound.name)
        if version is None:
            if importlib.util.find_spec(MODULES.get(bound.name, bound.name)) is None:
                wrong.append(f"{bound.name} is not installed, needed is {bound}")
                fit.append(f"'{bound.name}{bound}'")
        elif release(version) < release(bound.lowest) or (bound.below and release(version) >= release(bound.below)):
            wrong.append(f"{bound.name} {version} is installed, needed is {bound}")
            fit.append(f"'{bound.name}{bound}'")
    if wrong:
        raise VersionError(f"{'; '.join(wrong)}; install what fits with pip install {' '.join(fit)}")
    reason = apart()
    if reason:
        raise VersionError(f"{reason}; {PAIR}")


def apart() -> str | None:
    """Why torch and torchvision do not belong together; None if they do, or torchvision does not say."""
    torch, torchvision = installed("torch"), installed("torchvision")
    if torch is None or torchvision is None:
        return None
    for text in importlib.metadata.requires("torchvision") or []:
        asked = re.fullmatch(r"torch\s*\(?==\s*([\w.+]+)\)?", text.split(";")[0].strip())
        if asked and release(asked[1]) != release(torch):
            return f"torchvision {torchvision} is built for torch {asked[1]}, and torch {torch} is installed"
    return None


def torchvision_without_operators(error: BaseException) -> VersionError | None:
    """The refusal for "operator torchvision::nms does not exist", whose compiled part was built for another torch."""
    if "operator torchvision::" not in str(error):
        return None
    pair = f"torchvision {installed('torchvision')} cannot load its operators beside torch {installed('torch')}"
    return VersionError(f"{pair}: one is built for another release, or for other hardware, than the other; {PAIR}")


def summary() -> str:
    """One line for `--version` and for reports of errors."""
    parts = [f"Python {platform.python_version()}", *(f"{name} {installed(name) or 'missing'}" for name in SHOWN)]
    return f"chordate {own()[0]} ({', '.join(parts)})"


def ignore_known_warnings() -> None:
    """Do not show warnings of libraries that say nothing to our users. For programs: a library keeps the filters."""
    # Pillow warns of large images, where our limit is stricter, and of damage, which raises BadImage if it matters
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", message="(?s).*decoding and encoding capabilities of TorchVision")
    # torch warns once about sparse CSR; the two operations that are used are public and tested
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
