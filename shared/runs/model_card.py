"""README.md of a pushed export: what it is, how to load it, where it comes from, and under which licenses.

---                         the hub's header: library, license, tags
# resnet50 vicreg
timm | pull                 the lines that load it
Origin                      method, data, metrics; of every ancestor its license and source
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shared.runs.ancestry import facts_of
from shared.weights.card import Exported

# license names that the hub knows; others are written as `other` with their name
LICENSES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0")
LICENSES += ("agpl-3.0", "lgpl-3.0", "mpl-2.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail", "unlicense")
TASKS = {"backbone": "image-feature-extraction", "detector": "object-detection"}


def model_card(
    exported: Exported, nodes: Sequence[dict[str, Any]], repo: str, *, licence: str | None, timm: bool
) -> str:
    """The text of README.md.

    Args:
        nodes: the export and its ancestors, as `Store.lineage` gives them.
        repo: name of the repository, for the lines that load it.
        licence: of the export; None for that on its card.
        timm: whether timm loads it.
    """
    import yaml

    card = exported.card
    licence = licence or card.licence
    program = "pretrain" if card.kind == "backbone" else "detect"
    head: dict[str, Any] = {"library_name": "timm" if timm else "chordate", **license_of(licence)}
    head |= {"tags": ["chordate", card.arch, *([card.method] if card.method else [])]}
    head |= {"pipeline_tag": TASKS[card.kind]} if card.kind in TASKS else {}
    if timm:
        head["tags"].insert(0, "timm")
    lines = [f"---\n{yaml.safe_dump(head, sort_keys=False)}---", f"# {card.arch} {card.tag}", ""]
    lines += [
        f"A {card.kind} trained with chordate.",
        "",
        "```bash",
        f"{program} pull {repo} --tag {card.tag}@{exported.digest}",
        "```",
        "",
    ]
    if timm:
        lines += [
            "```python",
            "import timm",
            "",
            f'net = timm.create_model("hf-hub:{repo}", pretrained=True)',
            "```",
            "",
        ]
    mean, std = ([f"{value:.4g}" for value in card.pixels.get(key, [])] for key in ("mean", "std"))
    lines += [f"Pixels from 0 to 1 are normalized with mean {', '.join(mean)} and std {', '.join(std)}.", ""]
    lines += ["## Origin and licenses", ""]
    for number, node in enumerate(nodes):
        title, *facts = facts_of({**node, "licence": licence} if number == 0 else node)
        lines += [
            f"- {'' if number == 0 else 'from '}**{title}**",
            *(f"  - {re.sub(' +', ' ', fact)}" for fact in facts),
        ]
    if len(nodes) > 1:
        lines += ["", "The licenses of what it was made from apply too."]
    return "\n".join([*lines, ""])


def license_of(licence: str | None) -> dict[str, str]:
    """The hub's keys for a license: {} if none is given."""
    if not licence:
        return {}
    slug = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    return {"license": slug} if slug in LICENSES else {"license": "other", "license_name": slug[:96] or "other"}
