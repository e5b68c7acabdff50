#!/usr/bin/env bash
# safetensors 0.8.0 writes files that only their owner can read, and takes the permissions of a file it overwrites away.
#
# Releases up to 0.7.0 write as open() does: the umask decides. Since 0.8.0 a temporary file is renamed into place and
# keeps the mode of temporary files. Nothing is said, and the other files of the same export stay readable: weights on
# a shared disk cannot be read by colleagues, by another user's server or by a container without root.
#
# Seen 2026-11-30, umask 022:
#   safetensors 0.7.0  new file 644, file of mode 640 overwritten 640
#   safetensors 0.8.0  new file 600, file of mode 640 overwritten 600
#
# Fails if either release does something else.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
umask 022
python3 -m venv "$place/env"
for release in "0.7.0 644 640" "0.8.0 600 600"; do
  read -r version new over <<< "$release"
  "$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "safetensors==$version" "numpy==2.2.6"
  "$place/env/bin/python" - "$place" "$version" "$new" "$over" << 'PYTHON'
import os
import stat
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

place, version, *expected = Path(sys.argv[1]), *sys.argv[2:]
assert safetensors.__version__ == version
old = place / "old.safetensors"
old.write_bytes(b"")
old.chmod(0o640)
modes = []
for path in (place / f"new-{version}.safetensors", old):
    save_file({"weight": np.ones(4, np.float32)}, path)
    modes.append(f"{stat.S_IMODE(os.stat(path).st_mode):o}")
print(f"safetensors {version}  new file {modes[0]}, file of mode 640 overwritten {modes[1]}")
sys.exit(modes != expected)
PYTHON
done
