#!/usr/bin/env bash
# Pascal VOC XML: Datumaro (and with it CVAT) counts pixels from 0, hotcoco and supervision from 1; no file tells which.
#
# VOC counts pixels from 1, and xmax is the last pixel of a box. hotcoco 1.3.0 and supervision 0.31.2 write and read
# that. Datumaro 1.13.12 writes and reads x and x + width as they are. So what one writes and the other reads is moved by a
# pixel and a pixel wider or narrower, and nothing is logged.
#
# Seen 2026-11-30: a box x y width height of 10 20 30 40
#   written by Datumaro    xmin 10 xmax 40     read by hotcoco as x 9 width 31
#   written by hotcoco     xmin 11 xmax 40     read by Datumaro as x 11 width 29
#
# Fails if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "hotcoco==1.3.0" "datumaro==1.13.12"
cd "$place"
env/bin/python - << 'PYTHON' 2> /dev/null
import json
import re
import shutil
import sys
from pathlib import Path

import datumaro
import hotcoco
from PIL import Image

Path("coco/images/train").mkdir(parents=True)
Path("coco/annotations").mkdir()
Image.new("RGB", (100, 100)).save("coco/images/train/a.jpg")
truth = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}],
}
Path("coco/annotations/instances_train.json").write_text(json.dumps(truth))
datumaro.Dataset.import_from("coco", "coco_instances").export("of_datumaro", "voc_detection", save_media=True)
hotcoco.COCO("coco/annotations/instances_train.json").to_voc("of_hotcoco")


def sides(folder):
    text = Path(folder, "Annotations", "a.xml").read_text()
    return [float(re.search(f"<{side}>([^<]*)<", text)[1]) for side in ("xmin", "xmax")]


written = sides("of_datumaro"), sides("of_hotcoco")
by_hotcoco = hotcoco.COCO.from_voc("of_datumaro").dataset["annotations"][0]["bbox"][::2]
shutil.copy("of_hotcoco/Annotations/a.xml", "of_datumaro/Annotations/a.xml")
read = datumaro.Dataset.import_from("of_datumaro", "voc_detection")
by_datumaro = [[one.x, one.w] for item in read for one in item.annotations if hasattr(one, "w")][0]
print(f"written by Datumaro   xmin, xmax {written[0]}   read by hotcoco as x, width {by_hotcoco}")
print(f"written by hotcoco    xmin, xmax {written[1]}   read by Datumaro as x, width {by_datumaro}")
sys.exit([*written, by_hotcoco, by_datumaro] != [[10, 40], [11, 40], [9, 31], [11, 29]])
PYTHON
