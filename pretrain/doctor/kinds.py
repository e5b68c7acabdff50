"""Every kind of finding of `pretrain doctor`, how bad it is, and what to do about it."""

from __future__ import annotations

from shared.findings import Kind

# fmt: off
KINDS = {
    "shard-damaged": Kind("error", ""),
    "shard-changed": Kind("error", ""),
    "shard-content": Kind("error", ""),
    "classes-file": Kind("error", ""),
    "class-outside": Kind("error", "check classes.txt: one name for each label, in the order of the labels"),
    "labels-of-some": Kind("error", "give every shard .cls members, or none; methods without labels take both"),
    "class-not-in-training": Kind("error", "give training and validation the same classes"),
    "image-unreadable": Kind("error", "pack them again without these; training skips a few (--max-bad-samples)"),
    "overlap": Kind("error", "pack them again without these: a probe on them says little"),
    "key-twice": Kind("warning", "an image may be in two shards; pack them again"),
    "image-twice": Kind("warning", "remove the copies, or they count twice"),
    "class-without-images": Kind("warning", "remove the name, or add images of it; it costs an output"),
    "class-order": Kind("warning", "they are matched by name here; other programs match them by number"),
    "names-missing": Kind("note", "put a classes.txt beside the shards, one name per line, to match them by name"),
    "no-labels": Kind("note", "methods without labels need none"),
    "no-validation": Kind("note", "give shards of a split val, or --val-path, to have them compared"),
    "unfinished": Kind("warning", "run the same `pretrain pack` again to finish it, or remove the folder"),
}
# fmt: on
