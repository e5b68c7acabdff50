"""Every kind of finding of `detect doctor`, how bad it is, and what to do about it."""

from __future__ import annotations

from shared.findings import Kind

FIXED = "--fix mends it"

# fmt: off
KINDS = {
    # the file
    "file": Kind("error", ""),
    "image-entry": Kind("error", f"correct them; {FIXED} with the file's size, or by leaving out"),
    "image-id-twice": Kind("error", "give each image its own id"),
    "category-entry": Kind("error", "correct it"),
    "category-id-twice": Kind("error", f"give each category its own id; {FIXED} where a file tells them apart"),
    "category-name-twice": Kind("error", f"merge the two, or give them different names; {FIXED} if all else is equal"),
    "skeleton": Kind("error", ""),
    "annotation-entry": Kind("error", f"correct them; {FIXED} by leaving them out"),
    "annotation-id-twice": Kind("error", f"give each annotation its own id; {FIXED}"),
    "annotation-without-image": Kind("error", f"list the images, or remove the annotations; {FIXED} by leaving out"),
    "category-not-listed": Kind("error", f"list the categories; {FIXED}, as the other file has them or by leaving out"),
    "no-objects": Kind("error", "give annotations of objects ('instances')"),
    # objects
    "box-format": Kind("error", FIXED),
    "point-format": Kind("error", ""),
    "mask": Kind("error", f"correct them; {FIXED} by leaving the annotations out"),
    "keypoints": Kind("error", f"correct them; {FIXED} by marking them as not labeled"),
    "box-outside": Kind("warning", f"training clips them; {FIXED} by clipping"),
    "box-degenerate": Kind("warning", f"training drops them, evaluation counts them; {FIXED} by leaving them out"),
    "object-twice": Kind("warning", f"training drops the copies, evaluation counts them; {FIXED} by leaving them out"),
    "area": Kind("warning", f"{FIXED} by removing the areas"),
    "mask-outside": Kind("warning", "it is clipped; check that sizes and polygons belong together"),
    "mask-empty": Kind("warning", "networks with masks drop these objects; correct their masks"),
    "mask-not-in-box": Kind("warning", "check whether box and mask are of the same object"),
    "keypoint-outside": Kind("warning", f"correct them; {FIXED} by marking them as not labeled"),
    "keypoint-count": Kind("warning", f"training counts for itself, pycocotools believes the number; {FIXED}"),
    "only-crowds": Kind("warning", "crowds are neither trained on nor counted; set iscrowd to 0 if each is one object"),
    # classes
    "class-without-objects": Kind("warning", "remove the category, or annotate some; it costs an output and has no AP"),
    "classes-alike": Kind("warning", "give them one name if they are one class"),
    "class-not-in-training": Kind("error", "use the same classes for training and validation"),
    "class-not-learned": Kind("warning", "their AP will be 0; add training images that show them"),
    "class-order": Kind("warning", "classes are matched by name here; other programs match them by id or position"),
    "ids-with-holes": Kind("note", "ids are kept as they are in results; labels are numbered without holes"),
    # photographs
    "image-missing": Kind("error", f"check the image folder, or remove the entries; {FIXED} by leaving them out"),
    "file-name": Kind("error", ""),
    "image-unreadable": Kind("error", f"repair or remove the files; {FIXED} by leaving the images out"),
    "image-size": Kind("error", f"give the images that were annotated; {FIXED} where the objects prove the file's"),
    "image-listed-twice": Kind("warning", "merge the two entries: half of the objects are missing in each"),
    "image-twice": Kind("warning", "remove the copies, or they count twice"),
    "image-not-listed": Kind("note", "they are not used"),
    "orientation": Kind("warning", "say which way the labels were drawn, with --upright or --as-stored"),
    "turned": Kind("note", ""),
    "object-too-small": Kind("warning", ""),
    # splits
    "overlap": Kind("error", f"remove them from training: metrics on them say little; {FIXED} by leaving out"),
    "near-overlap": Kind("warning", "look at both: one may be the other, encoded again, resized or cropped"),
    "no-validation": Kind("note", "give --val-path to have them compared"),
}
# fmt: on
