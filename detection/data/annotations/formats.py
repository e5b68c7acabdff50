"""Annotation formats by name, and which one a path holds.

One page in this folder adds a format:

    @annotation_format("voc", recognizes=holds_xml)
    def read_voc(annotations, images, finds): ...

A path is read by the first format that recognizes it. `coco` takes any file and `custom` any folder, so they are asked
last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.data.annotations.coco_json import CocoTable, read_coco
from detection.data.annotations.other_layouts import other_layout
from shared.errors import DataError
from shared.recipes.registry import Registry

annotation_format: Registry[CocoTable] = Registry("annotation format", "detection.data.annotations")


def read_annotations(annotations: Path, images: Path, finds: Sequence[str] | None = ()) -> CocoTable:
    """Read and check annotations in any format of this folder.

    Args:
        annotations: a file or a folder.
        images: the folder of the images.
        finds: "masks", "keypoints", both or neither: fields that annotations must have; None reads those there are.

    Raises:
        DataError: no format recognizes the path, or the annotations are wrong.
    """
    names = annotation_format.names()
    for name in sorted(names, key=lambda name: annotation_format.facts(name).get("asked_last", False)):
        facts = annotation_format.facts(name)
        if facts["recognizes"](annotations):
            other = other_layout(annotations, images) if facts.get("asked_last") else None
            if other is not None:
                raise DataError(other)
            return annotation_format.build(name, annotations, images, finds)
    raise DataError(f"cannot read the annotations {annotations}; give a file or a folder of {', '.join(names)}")


@annotation_format("coco", recognizes=lambda path: not path.is_dir(), asked_last=True)
def coco(annotations: Path, images: Path, finds: Sequence[str] | None) -> CocoTable:
    """COCO JSON: instances, person_keypoints, Objects365; a file that is missing is reported by the reader."""
    return read_coco(annotations, finds)
