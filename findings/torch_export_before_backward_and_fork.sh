#!/usr/bin/env bash
# On a machine without a GPU: after torch.export, forked children of the process cannot run a backward pass.
#
# Exporting traces with pretended tensors and registers a pretended GPU for the whole process. If the first backward
# pass comes after that, autograd starts a thread for that device, and from then on every forked child that trains ends
# with "Unable to handle autograd's threading in combination with fork-based multiprocessing", though no GPU was ever
# there. One backward pass before the export prevents it, since the threads are started once for a process. It shows
# in test suites that fork, where it depends on which test a worker happens to run first.
#
# Seen 2026-11-30 with torch 2.14.1:
#   no export: child trains
#   export, then the first backward: child raises RuntimeError
#   backward, then the export: child trains
#
# Fails if one of the three does otherwise.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy
cat > "$place/fork.py" << 'PYTHON'
import os
import sys

import torch


def backward():
    torch.ones(2, requires_grad=True).sum().backward()


def child():
    pid = os.fork()
    if pid == 0:
        try:
            backward()
        except RuntimeError as error:
            os._exit(3 if "fork-based multiprocessing" in str(error) else 4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


for step in sys.argv[1:]:
    backward() if step == "backward" else torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
print({0: "child trains", 3: "child raises RuntimeError"}.get(child(), "something else"))
PYTHON
run() { CUDA_VISIBLE_DEVICES="" "$place/env/bin/python" -W ignore "$place/fork.py" "$@"; }
plain=$(run backward); after=$(run export backward); before=$(run backward export backward)
printf 'no export: %s\nexport, then the first backward: %s\nbackward, then the export: %s\n' "$plain" "$after" "$before"
[ "$plain|$after|$before" = "child trains|child raises RuntimeError|child trains" ]
