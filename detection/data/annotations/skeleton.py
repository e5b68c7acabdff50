"""The skeleton of keypoints: names, edges, flip pairs, OKS sigmas.

    category of a COCO file, or a YAML, or a number -> Skeleton: names, edges, mirrored order, sigmas

    keypoints: [nose, left_eye, right_eye]     names, or their number
    skeleton: [[1, 2], [nose, right_eye]]      pairs, by name or by index from 1 as in COCO
    flip_pairs: [[left_eye, right_eye]]        default: from the names
    sigmas: 0.05                               one number, one each, or coco; default: COCO's for its person, else 0.1

The keys are those of a COCO category, plus flip_pairs and sigmas; a YAML file has the same keys. The skeleton is
stored in the weights' card with the classes, so that results and pictures need no other file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from detection.data.annotations.json_values import whole_number
from shared.errors import DataError

PERSON = {  # COCO's person, with pycocotools' sigmas
    "nose": 0.026,
    **dict.fromkeys(("left_eye", "right_eye"), 0.025),
    **dict.fromkeys(("left_ear", "right_ear"), 0.035),
    **dict.fromkeys(("left_shoulder", "right_shoulder"), 0.079),
    **dict.fromkeys(("left_elbow", "right_elbow"), 0.072),
    **dict.fromkeys(("left_wrist", "right_wrist"), 0.062),
    **dict.fromkeys(("left_hip", "right_hip"), 0.107),
    **dict.fromkeys(("left_knee", "right_knee"), 0.087),
    **dict.fromkeys(("left_ankle", "right_ankle"), 0.089),
}
USUAL_SIGMA = 0.1
COCOS = "coco"  # the sigmas of COCO's person, by position
SIDE_WORD = re.compile(r"left|right", re.IGNORECASE)
SIDE_LETTER = re.compile(r"(?<![A-Za-z])[LlRr](?![A-Za-z])|(?<![A-Za-z])[LR](?=[A-Z][a-z])|(?<=[a-z])[LR](?![A-Za-z])")
OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True)
class Skeleton:
    """K keypoints of an object.

    Args:
        names: of keypoint 0, 1, ...
        edges: pairs of keypoint indices from 0, drawn as lines.
        mirrored: index of each keypoint after a horizontal flip: left elbow for right elbow.
        sigmas: OKS sigmas in pycocotools' units: 0.026 for the nose (its source has 0.26 / 10). Default 0.1, close to
            COCO's largest, the hip.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    mirrored: tuple[int, ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_person(self) -> bool:
        """True for the 17 keypoints of COCO's person."""
        return set(self.names) == set(PERSON)

    @property
    def named(self) -> bool:
        """True if names or flip pairs are known."""
        return self.names != _names(len(self), "") or self.mirrored != tuple(range(len(self)))

    @property
    def notes(self) -> list[str]:
        """That 17 keypoints have other sigmas than COCO's in COCO's order, which pycocotools would use; or []."""
        if len(self) != len(PERSON) or self.sigmas != usual_sigmas(self.names) or self.names == tuple(PERSON):
            return []
        if self.is_person:
            return [
                "its keypoints are COCO's in another order; OKS uses COCO's sigmas by name, pycocotools by position"
            ]
        return [
            f"its {len(self)} keypoints do not have COCO's names, so OKS uses the sigma {USUAL_SIGMA} for each, where "
            "pycocotools uses COCO's; if they are COCO's keypoints in COCO's order, add --oks-sigmas coco"
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Skeleton:
        return cls(
            tuple(saved["names"]),
            tuple((int(a), int(b)) for a, b in saved["edges"]),
            tuple(int(i) for i in saved["mirrored"]),
            tuple(float(s) for s in saved["sigmas"]),
        )

    @classmethod
    def numbered(cls, count: int) -> Skeleton:
        """Keypoints without names or flip pairs."""
        return cls.from_words({"keypoints": count}, "a skeleton")

    @classmethod
    def from_words(cls, entry: Mapping[str, Any], where: str) -> Skeleton:
        """From the keys of a COCO category, or of a YAML file.

        Args:
            where: file and category, for error messages.

        Raises:
            DataError: invalid or inconsistent values.
        """
        names = _names(entry.get("keypoints"), where)
        bare = cls(names, (), tuple(range(len(names))), usual_sigmas(names))
        edges = bare._pairs(entry.get("skeleton") or [], f"{where}: skeleton")
        if entry.get("flip_pairs") is None:
            mirrored = mirrored_by_name(names)
        else:
            mirrored = _exchanged(len(names), bare._pairs(entry["flip_pairs"], f"{where}: flip_pairs"), where)
        skeleton = replace(bare, edges=edges, mirrored=mirrored)
        sigmas = entry.get("sigmas")
        return skeleton if sigmas is None else skeleton.with_sigmas(sigmas, f"{where}: sigmas")

    @classmethod
    def from_yaml(cls, path: Path) -> Skeleton:
        """From a YAML file with the keys above."""
        content = _read_yaml(path)
        if not isinstance(content, dict):
            raise DataError(f"{path} has no skeleton; write 'keypoints:' and a list of names, or their number")
        return cls.from_words(content, str(path))

    def to_words(self) -> dict[str, Any]:
        """As keys of a COCO category; flip_pairs and sigmas only if they are not the defaults."""
        words: dict[str, Any] = {"keypoints": list(self.names), "skeleton": [[a + 1, b + 1] for a, b in self.edges]}
        if self.mirrored != mirrored_by_name(self.names):
            words["flip_pairs"] = [[a + 1, b + 1] for a, b in enumerate(self.mirrored) if a < b]
        if self.sigmas != usual_sigmas(self.names):
            words["sigmas"] = list(self.sigmas)
        return words

    def with_sigmas(self, given: float | str | Path | Sequence[Any] | Mapping[str, Any], where: str = "") -> Skeleton:
        """The same keypoints with other OKS sigmas, in pycocotools' units: 0.026 for a nose.

        Args:
            given: one number for all, one for each, numbers by name, a file of any of these as JSON, YAML or lines, or
                "coco" for those of COCO's 17 keypoints, in COCO's order.
            where: the file or the flag, for error messages.

        Raises:
            DataError: their number differs from that of the keypoints, or one is not positive.
        """
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 1 and len(self) != 1:
            return self.with_sigmas(given[0], where)
        if given == COCOS:
            if len(self) != len(PERSON):
                raise DataError(
                    f"{where or '--oks-sigmas'} asks for the sigmas of COCO's {len(PERSON)} keypoints, and there are "
                    f"{len(self)}; give one number, or one for each"
                )
            return replace(self, sigmas=usual_sigmas(self.names) if self.is_person else tuple(PERSON.values()))
        if isinstance(given, str | Path) and _number(given) is None:
            return self.with_sigmas(_listed(Path(given)), f"{given}")
        where = where or "--oks-sigmas"
        if isinstance(given, Mapping):
            if missing := [name for name in self.names if name not in given]:
                raise DataError(f"{where} has no sigma for {', '.join(missing[:5])}; give one for each keypoint")
            given = [given[name] for name in self.names]
        several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * len(self)
        if len(several) != len(self):
            raise DataError(
                f"{where} gives {len(several)} sigmas for {len(self)} keypoints; give one number, or one for each"
            )
        sigmas = tuple(_number(value) or 0.0 for value in several)
        if wrong := [value for value, sigma in zip(several, sigmas, strict=True) if not 0 < sigma < math.inf]:
            raise DataError(f"{where} has {str(wrong[0])[:40]!r} where a number above 0 is expected, such as 0.1")
        if self.is_person and all(abs(s - 10 * PERSON[n]) < 1e-6 for n, s in zip(self.names, sigmas, strict=True)):
            raise DataError(
                f"{where} are ten times those of pycocotools, which divides them by 10; give 0.026 for 0.26"
            )
        return replace(self, sigmas=sigmas)

    def _pairs(self, value: Any, where: str) -> tuple[tuple[int, int], ...]:
        """Pairs of names, or of numbers from 1 -> pairs of numbers from 0."""
        known = {name: number for number, name in enumerate(self.names)} | {
            number + 1: number for number in range(len(self))
        }
        try:
            return tuple((known[a], known[b]) for a, b in value)
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{where} has {str(value)[:60]}, not pairs of the {len(self)} keypoints, by name or from 1; "
                "correct or remove them"
            ) from None


def usable_lines(entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A COCO category whose lines are pairs of its keypoints counted from 1, and notes about what was changed.

    Programs also count from 0, or list lines of keypoints that the category does not have. Numbers count from 0 where
    that makes more pairs valid. Lines are only drawn, so the others are left out; flip pairs, which training uses,
    are checked by `Skeleton.from_words`.
    """
    lines, pairs, names = entry.get("skeleton") or [], entry.get("flip_pairs") or [], entry.get("keypoints")
    lines, pairs = (value if isinstance(value, list) else [value] for value in (lines, pairs))
    names = [str(number + 1) for number in range(names)] if type(names) is int and 0 < names < 10_000 else names
    if not isinstance(names, list):
        return dict(entry), []
    counted = {base: [_numbered(pair, names, base) for pair in (*lines, *pairs)] for base in (1, 0)}
    base = min(counted, key=lambda base: counted[base].count(None))
    usable = [pair for pair in counted[base][: len(lines)] if pair is not None]
    words = {**entry, "skeleton": usable}
    if base == 0 and pairs:
        words["flip_pairs"] = [new or old for new, old in zip(counted[0][len(lines) :], pairs, strict=True)]
    what, dropped = f"category '{entry.get('name')}'", len(lines) - len(usable)
    notes = [f"the skeleton of {what} counts its keypoints from 0"] if base == 0 else []
    if dropped:
        have = f"{dropped} skeleton line{' of ' if dropped == 1 else 's of '}{what} {'is' if dropped == 1 else 'are'}"
        notes.append(f"{have} not between two of its {len(names)} keypoints, not drawn")
    return words, notes


def _numbered(pair: Any, names: list[Any], base: int) -> list[int] | None:
    """A pair of names, or of numbers from `base` -> numbers from 1; None if it is no pair of these keypoints."""
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    places = [
        names.index(point) if isinstance(point, str) and point in names else _place(point, base) for point in pair
    ]
    return [place + 1 for place in places] if all(0 <= place < len(names) for place in places) else None


def _place(point: Any, base: int) -> int:
    number = whole_number(point)
    return -1 if number is None else number - base


def usual_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """COCO's sigmas for keypoints of COCO's person, else 0.1."""
    known = PERSON if set(names) == set(PERSON) else {}
    return tuple(known.get(name, USUAL_SIGMA) for name in names)


def mirrored_by_name(names: Sequence[str]) -> tuple[int, ...]:
    """(K,) index of each keypoint's other side: left_eye and right_eye, L_Eye and R_Eye, eye_l and eye_r, leftEye,
    eyeL.
    """
    plain = [name.casefold() for name in names]
    return tuple(
        plain.index(other) if (other := other_side(name).casefold()) in plain else number
        for number, name in enumerate(names)
    )


def other_side(name: str) -> str:
    """'left_eye' -> 'right_eye'; a name without a side is unchanged."""
    pattern = SIDE_WORD if SIDE_WORD.search(name) else SIDE_LETTER
    return pattern.sub(lambda side: OTHER[side[0].lower()], name)


def _exchanged(count: int, pairs: Sequence[tuple[int, int]], where: str) -> tuple[int, ...]:
    order = list(range(count))
    for a, b in pairs:
        if order[a] != a or order[b] != b:
            raise DataError(f"{where}: flip_pairs have a keypoint twice; give each at most one partner")
        order[a], order[b] = b, a
    return tuple(order)


def _names(value: Any, where: str) -> tuple[str, ...]:
    if type(value) is int and 0 < value < 10_000:
        return tuple(str(number) for number in range(1, value + 1))
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{where} has no list of names under 'keypoints'; write the names, or their number")
    if len(set(value)) < len(value):
        raise DataError(f"{where} has two keypoints with the same name; give each its own")
    return tuple(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _listed(path: Path) -> Any:
    """The content of a file of sigmas: JSON, YAML, or numbers separated by spaces or line breaks."""
    content = _read_yaml(path)
    return re.split(r"[\s,;]+", content.strip()) if isinstance(content, str) else content


def _read_yaml(path: Path) -> Any:
    """Read YAML or JSON, which is a subset of it."""
    try:
        return yaml.safe_load(Path(path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"cannot read {path} ({reason}); give a YAML or JSON file") from None
