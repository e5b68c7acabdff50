"""What a doctor found in data: findings on one page, in one JSON, and the exit code.

error      training or evaluation stops, or its numbers would be wrong
warning    it runs, and something is left out or is probably not meant
note       a fact worth knowing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from shared.errors import DataError
from shared.text import printable

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
SHOWN = 3  # examples in a line


class Kind(NamedTuple):
    """What can be wrong: how bad it is, and what to do about it."""

    level: Level
    way_out: str


class Finding(NamedTuple):
    """One kind of thing that is wrong in one part of the data.

    kind: its name, such as "box-outside".
    where: the part: "training", "validation", a shard.
    what: a sentence without its end: "3 boxes reach outside their images".
    count: of things.
    examples: of them, such as "annotation 7 of image 2".
    """

    kind: str
    where: str
    what: str
    count: int = 1
    examples: tuple[str, ...] = ()


class Sheet:
    """All findings about some data.

    Args:
        title: what was looked at, such as "detect doctor coco".
        kinds: every kind of finding that there is, by name.
    """

    def __init__(self, title: str, kinds: Mapping[str, Kind]) -> None:
        self.title, self.kinds = title, kinds
        self.findings: list[Finding] = []
        self.looked_at: list[str] = []  # a line for each part
        self.facts: dict[str, list[str]] = {}  # lines by heading
        self.tests: list[tuple[str, bool, str]] = []  # self-tests: name, passed, what came out

    def add(self, kind: str, where: str, what: str, count: int = 1, examples: Sequence[str] = ()) -> None:
        """Add a finding; none if the count is 0. At most a hundred examples are kept."""
        assert kind in self.kinds, kind
        if count:
            self.findings.append(Finding(kind, where, what, int(count), tuple(examples[:100])))

    def refused(self, kind: str, where: str, refusal: DataError) -> None:
        """Add what a check at the door refused, in its own words."""
        self.add(kind, where, str(refusal))

    def level(self, finding: Finding) -> Level:
        return self.kinds[finding.kind].level

    def ordered(self) -> list[Finding]:
        """Errors first, each level in the order they were found."""
        return sorted(self.findings, key=lambda finding: LEVELS.index(self.level(finding)))

    def count(self, level: Level) -> int:
        """Findings of a level; self-tests that failed are errors."""
        failed = sum(not passed for _, passed, _ in self.tests) if level == "error" else 0
        return sum(self.level(finding) == level for finding in self.findings) + failed

    def exit_code(self, *, strict: bool = False) -> int:
        """3 if there are errors, or with `strict` warnings; else 0."""
        return DataError.exit_code if self.count("error") or (strict and self.count("warning")) else 0

    def verdict(self) -> str:
        """'1 error, 2 warnings', or that nothing was found."""
        words = [f"{n} {level}{'s' if n > 1 else ''}" for level in LEVELS[:2] if (n := self.count(level))]
        return ", ".join(words) or "nothing is wrong"

    def lines(self) -> list[str]:
        """The page as text."""
        lines = [self.title, *(f"  {line}" for line in self.looked_at)]
        for finding in self.ordered():
            lines.append(f"{self.level(finding):<7}  {finding.kind}  {finding.where}: {self.sentence(finding)}")
        for name, passed, came_out in self.tests:
            lines.append(f"{'passed' if passed else 'error':<7}  {name}: {came_out}")
        for heading, facts in self.facts.items():
            lines += [heading, *(f"  {line}" for line in facts)]
        return [*lines, self.verdict()]

    def sentence(self, finding: Finding) -> str:
        """What is wrong, some examples, and what to do."""
        some = ", ".join(finding.examples[:SHOWN])
        more = f" and {finding.count - SHOWN:,} more" if finding.count > SHOWN and some else ""
        such = f" ({some}{more})" if some else ""
        way_out = self.kinds[finding.kind].way_out
        return f"{finding.what}{such}{f'; {way_out}' if way_out else ''}"

    def as_json(self) -> dict[str, Any]:
        """The page for programs."""
        return {
            "title": self.title,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "looked_at": self.looked_at,
            "findings": [
                {"level": self.level(one), **one._asdict(), "way_out": self.kinds[one.kind].way_out}
                for one in self.ordered()
            ],
            "self_tests": [
                {"name": name, "passed": passed, "result": came_out} for name, passed, came_out in self.tests
            ],
            "facts": self.facts,
        }

    def as_html(self) -> str:
        """The page as one HTML file."""
        rows = [
            f"<tr class={self.level(one)}><td>{self.level(one)}<td>{cell(one.kind)}<td>{cell(one.where)}"
            f"<td>{one.count:,}<td>{cell(self.sentence(one))}"
            for one in self.ordered()
        ]
        rows += [
            f"<tr class={'note' if passed else 'error'}><td>{'passed' if passed else 'error'}<td>{cell(name)}<td>"
            f"self-test<td><td>{cell(came_out)}"
            for name, passed, came_out in self.tests
        ]
        facts = [
            f"<h2>{cell(heading)}</h2><pre>{escape(chr(10).join(map(printable, lines)))}</pre>"
            for heading, lines in self.facts.items()
        ]
        looked_at = "<br>".join(map(cell, self.looked_at))
        return (
            f"<!doctype html><meta charset=utf-8><title>{cell(self.title)}</title><style>{STYLE}</style>"
            f"<h1>{cell(self.title)}</h1><p>{looked_at}<p><b>{cell(self.verdict())}</b>"
            f"<table><tr><th>level<th>kind<th>where<th>count<th>what{''.join(rows)}</table>{''.join(facts)}\n"
        )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}"
    "table{border-collapse:collapse}"
    "td,th{text-align:left;vertical-align:top;padding:.3em .8em;border-top:1px solid #ddd}"
    ".error td:first-child{color:#b91c1c;font-weight:600}.warning td:first-child{color:#b45309;font-weight:600}"
)


def cell(text: object) -> str:
    return escape(printable(str(text)))
