"""The arrows between the packages point one way, help needs no torch, nothing read from disk can run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "shared": set(),
    "backbones": {"shared"},
    "pretrain": {"shared", "backbones"},
    "detection": {"shared", "backbones"},
}
# A room is a folder of Python files, or a single file beside such folders. Each room may import the rooms listed after
# it, and all of those are further up in the table, so there are no circles.
ROOMS = {
    # shared: time, files and flags
    "shared.neighbors": "",
    "shared.host": "",
    "shared.text": "",
    "shared.errors": "text",
    "shared.files": "",
    "shared.findings": "text errors",
    "shared.versions": "errors",
    "shared.graphs": "errors files versions",
    "shared.recipes": "errors text versions",
    "shared.logs": "errors files host text",
    "shared.devices": "errors recipes",
    "shared.feeding": "errors versions recipes devices",
    "shared.weights": "errors files recipes feeding",
    "shared.loop": "errors files recipes logs devices feeding",
    "shared.runs": "text errors files host graphs recipes logs devices feeding weights loop",
    # pretrain: shards -> backbone weights
    "pretrain.recipe": "",
    "pretrain.views": "",
    "pretrain.masked": "",
    "pretrain.joint": "views",
    "pretrain.methods": "views masked joint",
    "pretrain.data": "views",
    "pretrain.packing": "data",
    "pretrain.weights": "recipe views",
    "pretrain.probing": "recipe views methods data",
    "pretrain.doctor": "data",
    "pretrain.training": "recipe views methods data probing",
    "pretrain.commands": "methods",
    "pretrain.cli": "",
    "pretrain.__main__": "cli",
    # detection: backbone weights -> detector
    "detection.types": "",
    "detection.parts.known": "types",
    "detection.parts.fixed": "",
    "detection.parts.dense": "types parts.fixed",
    "detection.parts.roi": "types parts.known parts.fixed parts.dense",
    "detection.parts.query": "types parts.known parts.fixed parts.dense",
    "detection.nets": "types parts.known parts.fixed parts.dense parts.roi parts.query",
    "detection.recipe": "nets",
    "detection.data.masks": "",
    "detection.data.annotations": "data.masks",
    "detection.vocabulary": "data.annotations",
    "detection.data.augment": "types parts.dense data.masks",
    "detection.data.formats": "data.masks data.annotations",
    "detection.data": "types data.masks data.annotations data.augment data.formats",
    "detection.drawing": "types data.masks data.annotations",
    "detection.statistics": "",
    "detection.eval": "types parts.query data.masks data.annotations data drawing statistics",
    "detection.published": "nets recipe data.annotations",
    "detection.explaining": "types data drawing eval",
    "detection.training": "types nets recipe data.annotations vocabulary data.augment data drawing eval explaining "
    "published",
    "detection.inference": "types parts.roi parts.query nets recipe data.masks data.annotations vocabulary "
    "data.augment data drawing statistics eval training",
    "detection.exporting": "types parts.fixed nets recipe data.augment data training inference",
    "detection.doctor": "nets recipe data.masks data.annotations data.augment data eval training inference",
    "detection.comparing": "types recipe data.annotations drawing statistics eval explaining inference",
    "detection.ablation": "recipe data.annotations data statistics eval training inference comparing",
    "detection.commands": "nets data.augment published training inference",
    "detection.cli": "",
    "detection.__main__": "cli",
}
HEAVY = {"torch", "torchvision", "timm", "webdataset", "lightly", "pycocotools", "numpy", "PIL", "matplotlib", "yaml"}
SOURCES = [ROOT / "chordate.py", *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
LIGHT = [
    "chordate.py",
    "shared/recipes/recipe.py",
    "shared/recipes/files.py",
    "shared/recipes/flags.py",
    "shared/recipes/registry.py",
    "shared/runs/resume.py",
    "shared/runs/catalogue.py",
    "shared/errors.py",
    "shared/host.py",
    "shared/neighbors.py",
    "shared/versions.py",
    "pretrain/recipe.py",
    "pretrain/cli.py",
    "detection/recipe.py",
    "detection/cli.py",
    *sorted(str(path.relative_to(ROOT)) for path in SOURCES if path.name == "commands.py"),
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Modules that these statements import, `from a import b` as `a` and `a.b`."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative imports hide where an arrow points"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def modules(path: Path) -> set[str]:
    """Modules a file imports, wherever in the file it does so."""
    return imported(ast.walk(tree(path)))


def at_the_top(path: Path) -> set[str]:
    """Modules that are imported as soon as the file is."""
    return imported(tree(path).body)


def page(module: str) -> Path | None:
    """The file of one of our own modules."""
    path = ROOT / Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] in PACKAGES and file.is_file():
            return file
    return None


def reached(path: Path) -> dict[Path, Path]:
    """Every page of ours that importing this one imports, with the page that asks for it first."""
    asked_by, queue = {path: path}, [path]
    while queue:
        here = queue.pop()
        for module in at_the_top(here):
            parts = module.split(".")
            for depth in range(1, len(parts) + 1):  # importing a.b.c runs a, a.b and a.b.c
                there = page(".".join(parts[:depth]))
                if there is not None and there not in asked_by:
                    asked_by[there] = here
                    queue.append(there)
    return asked_by


def test_there_are_sources_to_look_at() -> None:
    assert len(SOURCES) > 40
    assert all((ROOT / light).is_file() for light in LIGHT)


def test_arrows_point_one_way() -> None:
    wrong = [
        f"{name_of(path)} imports {', '.join(sorted(extra))}"
        for package, allowed in PACKAGES.items()
        for path in (ROOT / package).rglob("*.py")
        if (extra := {m.split(".")[0] for m in modules(path)} & (PACKAGES.keys() - allowed - {package}))
    ]
    assert not wrong, "\n".join(wrong)


def room_of(module: str) -> str | None:
    """The room a module of ours belongs to: `detection.data.masks.rle` -> `detection.data.masks`."""
    parts = module.split(".")
    for depth in range(len(parts), 1, -1):
        if ".".join(parts[:depth]) in ROOMS:
            return ".".join(parts[:depth])
    return None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows() -> Iterator[tuple[Path, str, str, str]]:
    """(file, its room, the room it imports, the module of that room) for every import inside a package with rooms."""
    for path in SOURCES:
        here = room_of(module_of(path))
        for module in sorted(modules(path)):
            there = room_of(module) if page(module) is not None else None
            if here and there and here != there and here.split(".")[0] == there.split(".")[0]:
                yield path, here, there, module


def test_every_file_has_a_room() -> None:
    homeless = [
        name_of(path)
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "backbones" and len(path.relative_to(ROOT).parts) > 1
        if room_of(module_of(path)) is None and path.read_text().strip() and path.name != "__init__.py"
    ]
    assert not homeless, f"{', '.join(homeless)}: name the room in ROOMS"


def test_rooms_import_only_what_the_table_allows() -> None:
    allowed = {room: {f"{room.split('.')[0]}.{other}" for other in others.split()} for room, others in ROOMS.items()}
    wrong = [
        f"{name_of(path)} imports {module}, and {here} may not import {there}"
        for path, here, there, module in arrows()
        if there not in allowed[here]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_rooms_has_no_circle_and_no_arrow_that_nobody_uses() -> None:
    order = list(ROOMS)
    used = {(here, there) for _, here, there, _ in arrows()}
    for room, others in ROOMS.items():
        for other in (f"{room.split('.')[0]}.{name}" for name in others.split()):
            assert other in order[: order.index(room)], f"{room} stands above {other} in ROOMS, and imports it"
            assert (room, other) in used, f"{room} may import {other} and does not; take it out of ROOMS"


def test_sources_import_no_tests_and_no_recipes() -> None:
    wrong = [name_of(path) for path in SOURCES if {m.split(".")[0] for m in modules(path)} & {"tests", "recipes"}]
    assert not wrong, wrong


def test_nets_never_import_each_other() -> None:
    pages = {path.stem for path in (ROOT / "detection" / "nets").glob("*.py")} - {"__init__"}
    assert {"fcos", "rcnn"} <= pages
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in (ROOT / "detection" / "nets").glob("*.py")
        for name in modules(path)
        if name.startswith("detection.nets.") and name.split(".")[2] in pages
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_never_import_each_other() -> None:
    pages = {path.stem for path in (ROOT / "pretrain" / "methods").glob("*.py")} - {"__init__"}
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in (ROOT / "pretrain" / "methods").glob("*.py")
        for name in modules(path)
        if name.startswith("pretrain.methods.") and name.split(".")[2] in pages
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("light", LIGHT)
def test_light_pages_import_nothing_heavy_directly_or_through_each_other(light: str) -> None:
    wrong = [
        f"{name_of(there)} imports {', '.join(sorted(heavy))} at the top, asked for by {name_of(asker)}"
        for there, asker in reached(ROOT / light).items()
        if (heavy := {module.split(".")[0] for module in at_the_top(there)} & HEAVY)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_walk_over_imports_finds_torch_where_it_is() -> None:
    tops = {module for path in reached(ROOT / "detection" / "training" / "build.py") for module in at_the_top(path)}
    assert "torch" in tops and "detection.nets" in tops


@pytest.mark.parametrize("command", ["import pretrain.cli, detection.cli", "main(['train', '--help'])"])
def test_command_lines_answer_without_torch(command: str) -> None:
    lines = [
        "import sys, contextlib",
        "from detection.cli import main as detect",
        "from pretrain.cli import main as pretrain",
        "for main in (pretrain, detect):",
        "    with contextlib.suppress(SystemExit):",
        f"        {command}",
        f"heavy = sorted({HEAVY!r} & sys.modules.keys())",
        "print('LOADED', heavy)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-300:]


def test_lines_are_printed_only_by_say_which_escapes_what_a_terminal_would_obey() -> None:
    wrong = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if path != ROOT / "shared" / "text.py"
        for line, name, _ in calls(path)
        if name in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not wrong, f"{', '.join(wrong)}: use say of shared/text.py"


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """(line, dotted name, call) of every call in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_nothing_read_from_disk_or_typed_by_a_person_can_run() -> None:
    wrong = []
    for path in SOURCES:
        strict = {node.name for node in ast.walk(tree(path)) if is_safe_loader(node)}
        for line, name, call in calls(path):
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            loader = told.get("Loader", ast.unparse(call.args[1]) if len(call.args) > 1 else "")
            if (
                name in ("eval", "exec", "os.system", "os.popen")
                or name.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve")
                or (name in ("yaml.load", "yaml.load_all") and loader not in strict | {"yaml.SafeLoader"})
                or name in ("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all")
                or (name == "torch.load" and told.get("weights_only") != "True")
                or (name in ("np.load", "numpy.load") and told.get("allow_pickle") == "True")
                or told.get("shell") == "True"
            ):
                wrong.append(f"{name_of(path)}:{line} calls {ast.unparse(call)[:80]}")
    assert not wrong, "\n".join(wrong)


def is_safe_loader(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]


@pytest.mark.slow
def test_every_registered_name_stands_once() -> None:
    names: Counter[str] = Counter()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func) in ("backbone", "detector", "method"):
                        names[f"{ast.unparse(call.func)} {ast.literal_eval(call.args[0])}"] += 1
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("ZOO", "ROWS"):  # tables of backbones
                assert isinstance(node.value, ast.Dict)
                names.update(f"backbone {ast.literal_eval(key)}" for key in node.value.keys if key is not None)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "COMPOUND":  # a table of detectors
                assert isinstance(node.value, ast.Dict)
                names.update(f"detector {ast.literal_eval(key)}" for key in node.value.keys if key is not None)
    assert {"detector fcos", "detector faster_rcnn", "method supervised", "backbone hrnet_w32c"} <= names.keys()
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"offered twice: {', '.join(twice)}"
    from backbones import backbone
    from detection.nets import detector
    from pretrain.methods import method

    offered = {f"{r.kind} {name}" for r in (backbone, detector, method) for name in r.names()}
    assert offered == set(names)
