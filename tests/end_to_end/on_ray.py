"""What happens on a small Ray cluster, told to test_on_ray.py in FOLDER/told.json: python -m ... FOLDER

The cluster has a head and a node of one processor each, later another in place of the node that is killed. At the end
all is killed, after which nothing can be shut down: what Ray started ends with this process.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.data.pack import pack as pack_annotated
from pretrain.packing.pack import pack
from shared.feeding import cluster
from tests.detection.data.of_coco import written
from tests.pretrain.packing.of_images import put

ROOT = Path(__file__).parents[2]
SHARDS = 24
KILLED = """
import os, signal, sys
from pretrain.packing.pack import pack
die = lambda done, total: done < 3 or os.kill(os.getpid(), signal.SIGKILL)
pack(sys.argv[1], sys.argv[2], shard_size=1, cluster=sys.argv[3], progress=die)
"""


def main(root: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=small)
    put(root / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat", "ant") for n in range(SHARDS // 3)))
    pack(root / "in", root / "straight", shard_size=1)
    told: dict[str, Any] = {}

    def tell(name: str, happen: Callable[[], Any]) -> None:
        try:
            told[name] = happen()
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
        (root / "told.json").write_text(json.dumps(told, indent=1))

    tell("killed program", lambda: subprocess.call([sys.executable, "-c", KILLED, *words(root, nodes.address)]))
    second = nodes.add_node(**small)
    ray.init(nodes.address, log_to_driver=False)

    def node_lost(done: int, total: int) -> None:
        if done == 12:
            nodes.remove_node(second, allow_graceful=False)

    def resumed() -> int:
        return pack(root / "in", root / "again", shard_size=1, cluster=nodes.address, progress=node_lost).kept

    tell("kept", resumed)
    nodes.add_node(**small)
    nodes.wait_for_nodes()
    tell("detection", lambda: detection(root, nodes.address))
    head = nodes.head_node.node_id
    tell("head cannot write", lambda: disks(root, nodes.address, full=[head]))
    tell("nobody can write", lambda: disks(root, nodes.address, full=[node.node_id for node in nodes.list_all_nodes()]))

    def all_lost(done: int, total: int) -> None:
        if done == 6:
            for node in nodes.list_all_nodes():
                node.kill_raylet(check_alive=False)
            nodes.head_node.kill_gcs_server(check_alive=False)

    cluster.LOOK = 0.5
    tell("ended", lambda: pack(root / "in", root / "late", shard_size=1, cluster=nodes.address, progress=all_lost).kept)
    tell("finished", lambda: pack(root / "in", root / "late", shard_size=1).kept)
    tell("end", lambda: True)
    os._exit(0)


def words(root: Path, address: str) -> list[str]:
    return [str(root / "in"), str(root / "again"), address]


def detection(root: Path, address: str) -> list[int]:
    place = written(root / "coco")
    pack_annotated(*place, root / "boxes", shard_size=1)
    return [pack_annotated(*place, root / "boxes_again", shard_size=1, cluster=address).images]


def disks(root: Path, address: str, full: list[str]) -> dict[str, Any]:
    """Twelve tasks where some nodes have a full disk: the results in order, and the nodes that gave them."""
    (root / "disks" / "shards").mkdir(parents=True, exist_ok=True)
    done: list[int] = []
    try:
        given: Any = cluster.on_cluster(
            on_a_disk, range(12), full, address=address, partial=root / "disks", done=done.append
        )
    except OSError as error:
        return {"refused": errno.errorcode[error.errno or 0]}
    return {"numbers": [number for number, _ in given], "nodes": len({node for _, node in given}), "done": sorted(done)}


def on_a_disk(task: int, full: list[str], tick: Callable[[], None]) -> tuple[int, str]:
    import ray

    tick()
    node = ray.get_runtime_context().get_node_id()
    time.sleep(0.1)  # both nodes get some
    if node in full:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    return task, node


if __name__ == "__main__":
    main(Path(sys.argv[1]))
