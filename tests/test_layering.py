"""The arrows between the packages point one way, help needs no torch, nothing read from disk can run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "shared": set(),
    "backbones": {"shared"},
    "pretrain": {"shared", "backbones"},
    "detection": {"shared", "backbones"},
}
HEAVY = {"torch", "torchvision", "timm", "webdataset", "lightly", "pycocotools", "numpy", "PIL", "matplotlib", "yaml"}
LIGHT = [
    "shared/recipes/flags.py",
    "shared/recipes/recipe.py",
    "shared/recipes/registry.py",
    "shared/errors.py",
    "shared/runs/catalogue.py",
    "pretrain/recipe.py",
    "pretrain/cli.py",
    "detection/recipe.py",
    "detection/cli.py",
]
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


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


def modules(path: Path) -> set[str]:
    """Modules a file imports, wherever in the file it does so."""
    return imported(ast.walk(ast.parse(path.read_text())))


def at_the_top(path: Path) -> set[str]:
    """Modules that are imported as soon as the file is."""
    return imported(ast.parse(path.read_text()).body)


def page(module: str) -> Path | None:
    """The file of one of our own modules."""
    path = ROOT / Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] in MAY_IMPORT and file.is_file():
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
        for package, allowed in MAY_IMPORT.items()
        for path in (ROOT / package).rglob("*.py")
        if (extra := {m.split(".")[0] for m in modules(path)} & (MAY_IMPORT.keys() - allowed - {package}))
    ]
    assert not wrong, "\n".join(wrong)


def test_sources_import_no_tests_and_no_recipes() -> None:
    wrong = [name_of(path) for path in SOURCES if {m.split(".")[0] for m in modules(path)} & {"tests", "recipes"}]
    assert not wrong, wrong


def test_inside_detection_nets_stand_on_parts_and_never_on_each_other() -> None:
    pages = {path.stem for path in (ROOT / "detection" / "nets").glob("*.py")} - {"__init__"}
    assert {"fcos", "rcnn"} <= pages
    wrong = [
        f"{name_of(path)} imports {name}"
        for folder in ("nets", "parts")
        for path in (ROOT / "detection" / folder).rglob("*.py")
        for name in modules(path)
        if (name.startswith("detection.nets.") and name.split(".")[2] in pages)
        or (folder == "parts" and name.startswith("detection.nets"))
        or (name.startswith("detection.") and name.split(".")[1] not in ("nets", "parts", "types"))
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_do_not_know_each_other() -> None:
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


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """(line, dotted name, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_nothing_read_from_disk_or_typed_by_a_person_can_run() -> None:
    wrong = []
    for path in SOURCES:
        strict = {node.name for node in ast.walk(ast.parse(path.read_text())) if is_safe_loader(node)}
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
        for node in ast.walk(ast.parse(path.read_text())):
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
