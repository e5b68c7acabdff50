"""One vocabulary for Python, YAML and shell: default < base < recipe < flag, and each value knows where it is from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shared.recipes.files
from detection.recipe import DetectRecipe
from pretrain.recipe import PretrainRecipe
from shared.errors import UsageError
from shared.recipes.files import load, read_yaml, recipe_names
from shared.recipes.flags import Parser, from_args, recipe_parser
from shared.recipes.recipe import Resolved, all_knobs, dump, flat, make, sections

RECIPES = {"detect": (DetectRecipe, "network_args"), "pretrain": (PretrainRecipe, "method_args")}


def resolve(*argv: str, half: str = "detect", under: Any = ()) -> Resolved:
    recipe, own = RECIPES[half]
    return from_args(recipe, list(argv), prog=f"{half} train", folder=half, own=own, under=under)


def value(name: str, *argv: str, half: str = "detect") -> Any:
    return flat(resolve(*argv, half=half).recipe)[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes: two bases, a recipe over both."""
    monkeypatch.setattr(shared.recipes.files, "recipe_folder", lambda: tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "detect").mkdir()
    (tmp_path / "base" / "data.yaml").write_text("size: 320\nepochs: 5\nlr: 0.5\n")
    (tmp_path / "base" / "family.yaml").write_text("lr: 0.25\nwd: 0.01\nnetwork_args: {width: 64}\n")
    (tmp_path / "detect" / "mine.yaml").write_text(
        "# a headline\nbase: [data, family]\nnetwork: fcos\nwd: 0.02\nlr_step_size: 3\n"
    )
    return tmp_path


# --- precedence -----------------------------------------------------------------------------


def test_flag_goes_before_recipe_before_later_base_before_earlier_base_before_default(folder: Path) -> None:
    resolved = resolve("--recipe", "mine", "--lr-step-size", "7")
    values = flat(resolved.recipe)
    expected = {
        "lr_step_size": (7.0, "flag"),
        "wd": (0.02, "recipe mine"),
        "network": ("fcos", "recipe mine"),
        "lr": (0.25, "base family"),
        "epochs": (5, "base data"),
        "size": ((320,), "base data"),
        "momentum": (0.9, "default"),
    }
    got = {name: (values[name], resolved.origins.get(name, "default")) for name in expected}
    assert got == expected


def test_layers_below_the_recipe_lie_over_the_defaults(folder: Path) -> None:
    under = [("run old", {"epochs": 99, "momentum": 0.5})]
    resolved = resolve("--recipe", "mine", under=under)
    values = flat(resolved.recipe)
    assert (values["epochs"], resolved.origins["epochs"]) == (5, "base data")
    assert (values["momentum"], resolved.origins["momentum"]) == (0.5, "run old")


def test_flag_that_repeats_the_default_counts_as_a_flag(folder: Path) -> None:
    resolved = resolve("--recipe", "mine", "--wd", "0.0001")
    assert resolved.recipe.optim.wd == 0.0001 and resolved.origins["wd"] == "flag"


def test_options_of_the_network_are_merged_word_by_word(folder: Path) -> None:
    resolved = resolve("--recipe", "mine", "--depth", "2")
    assert resolved.recipe.model.network_args == {"width": 64, "depth": 2}
    assert resolve("--recipe", "mine", "--width", "32").recipe.model.network_args == {"width": 32}


def test_options_of_a_network_go_over_its_bases_one_by_one(folder: Path) -> None:
    (folder / "detect" / "wide.yaml").write_text("base: family\nnetwork_args: {depth: 3}\n")
    values, origins = load("wide", "detect")
    assert values["network_args"] == {"width": 64, "depth": 3} and origins["network_args"] == "recipe wide"
    (folder / "detect" / "wide.yaml").write_text("base: family\nnetwork_args: {width: 32}\n")
    assert load("wide", "detect")[0]["network_args"] == {"width": 32}


def test_base_of_a_base_is_refused(folder: Path) -> None:
    (folder / "base" / "family.yaml").write_text("base: data\n")
    with pytest.raises(UsageError, match="is a base and has a `base:` of its own; bases have one level"):
        resolve("--recipe", "mine")


def test_recipe_can_be_a_path_and_home_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.yaml").write_text("lr: 0.125\n")
    assert resolve("--recipe", str(folder / "other.yaml")).recipe.optim.lr == 0.125
    monkeypatch.setenv("HOME", str(folder))
    assert resolve("--recipe", "~/other.yaml").origins["lr"] == "recipe other"


# --- the words of the seeds -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name", "expected"),
    [
        ("--schedule cosine", "lr_scheduler", "cosine"),
        ("--lr-scheduler cosineannealinglr", "lr_scheduler", "cosine"),
        ("--lr-scheduler multisteplr", "lr_scheduler", "multistep"),
        ("--lr_scheduler=steplr", "lr_scheduler", "step"),
        ("-b 128", "batch_size", 128),
        ("--batch_size 128", "batch_size", 128),
        ("--batch-size=128", "batch_size", 128),
        ("--lr_drop 40", "lr_step_size", 40.0),
        ("--lr-gamma 0.5", "lr_step_gamma", 0.5),
        ("--lr-steps 16 22", "lr_steps", (16.0, 22.0)),
        ("--lr_backbone 1e-5", "backbone_lr", 1e-5),
        ("--lr 2e-5", "lr", 2e-5),
        ("--weight-decay 0.05", "wd", 0.05),
        ("--norm-weight-decay 0.0", "norm_wd", 0.0),
        ("--clip_max_norm 0.1", "clip_grad_norm", 0.1),
        ("--clip-grad-norm none", "clip_grad_norm", None),
        ("--opt sgd_nesterov", "opt", "nesterov"),
        ("--opt-betas 0.8 0.9", "betas", (0.8, 0.9)),
        ("--amp-dtype bf16", "amp_dtype", "bfloat16"),
        ("--amp", "amp", True),
        ("--no-amp", "amp", False),
        ("--no-backbone-pretrained", "backbone_pretrained", False),
        ("-j 4", "num_workers", 4),
        ("--workers 4", "num_workers", 4),
        ("--print-freq 5", "log_every", 5),
        ("--num_epochs 3", "epochs", 3),
        ("--model fcos", "network", "fcos"),
        ("--coco_path /data/coco", "data_path", Path("/data/coco")),
        ("--data-augmentation hflip", "aug_type", "hflip"),
        ("--size 480 800", "size", (480, 800)),
        ("--size 640", "size", (640,)),
        ("--freeze-backbone-stages 2", "freeze_backbone_stages", 2),
        ("--resume", "resume", "newest"),
        ("--resume runs/a", "resume", "runs/a"),
        ("-t coco", "tag", "coco"),
        ("--allow-missing head.* neck.*", "allow_missing", ("head.*", "neck.*")),
    ],
)
def test_words_of_the_seeds_mean_what_they_meant(argv: str, name: str, expected: Any) -> None:
    got = value(name, *argv.split())
    assert got == expected and type(got) is type(expected)


def test_tags_and_names_that_look_like_numbers_stay_words() -> None:
    assert value("tag", "--tag", "2024") == "2024"
    assert value("backbone_tag", "--backbone-tag", "1e3") == "1e3"
    assert value("name", "--name", "none") == "none"


def test_flags_are_never_guessed_from_abbreviations() -> None:
    with pytest.raises(UsageError, match="did you mean"):
        resolve("--batch-siz", "3")


# --- YAML -----------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "written.yaml"
    path.write_text(text)
    return path


def test_numbers_that_yaml_reads_as_words_are_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "lr: 2e-5\nwd: 1E-4\nepochs: 3e1\nwarmup_steps: 10.0\n")
    recipe = resolve("--recipe", str(path)).recipe
    assert (recipe.optim.lr, recipe.optim.wd, recipe.schedule.epochs, recipe.schedule.warmup_steps) == (
        2e-5,
        1e-4,
        30,
        10,
    )


def test_keys_may_wear_dashes_and_values_their_other_spellings(tmp_path: Path) -> None:
    recipe = resolve("--recipe", str(written(tmp_path, "lr-scheduler: steplr\nsize: [480, 800]\n"))).recipe
    assert recipe.schedule.lr_scheduler == "step" and recipe.data.size == (480, 800)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: 0.1\nepochs: 3\nlr: 0.2\n", "'lr' appears twice; keep one"),
        ("lr: 0.1\nnetwork_args: {width: 1, width: 2}\n", "'width' appears twice; keep one"),
        ("lr: [0.1\nepochs: 3\n", "line [123] is not YAML: .*; fix that line"),
        ("lr: 0.1\n\tepochs: 3\n", "line 2 is not YAML: .*; fix that line"),
        ("just words\n", "is not a recipe: it should hold lines such as `epochs: 26`"),
        ("- lr\n- epochs\n", "is not a recipe"),
        ("lr: !!python/object/apply:os.getcwd []\n", "is not YAML: could not determine a constructor"),
        ("epochz: 3\n", "no key 'epochz', did you mean 'epochs'"),
        ("epochs: three\n", "epochs is 'three'; give a whole number"),
        ("epochs: 2.5\n", "epochs is 2.5; give a whole number"),
        ("epochs: true\n", "epochs is True; give a whole number"),
        ("amp: 1\n", "amp is 1; give true or false"),
        ("lr: .nan\n", "lr is nan; give a number"),
        ("lr: .inf\n", "lr is inf; give a number"),
        ("lr: [1, 2]\n", r"lr is \[1, 2\]; give a number"),
        ("lr: -0.1\n", "lr is -0.1; it must be from 0 to 1000"),
        ("momentum: 1.5\n", "momentum is 1.5; it must be from 0 to below 1"),
        ("layer_decay: 0\n", "layer_decay is 0.0; it must be greater than 0 and up to 1"),
        ("batch_size: 0\n", "batch_size is 0; it must be from 1 to 1000000"),
        ("betas: [0.9, 1.5]\n", "betas is 1.5; it must be from 0 to below 1"),
        ("lr_scheduler: cosin\n", "lr_scheduler is 'cosin', did you mean 'cosine'.; it can be constant, step"),
        ("network_args: 3\n", "network_args is 3; give options by name"),
        ("base: nothing\n", "no recipe 'nothing'"),
    ],
)
def test_recipe_that_cannot_be_understood_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as told:
        resolve("--recipe", str(written(tmp_path, text)))
    assert "\n" not in str(told.value) and told.value.exit_code == 2


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00lr")
    with pytest.raises(UsageError, match="is not YAML"):
        read_yaml(path)


def test_empty_recipe_changes_nothing(tmp_path: Path) -> None:
    assert resolve("--recipe", str(written(tmp_path, "# nothing yet\n"))).recipe == resolve().recipe


def test_unknown_recipe_is_answered_with_the_nearest_and_with_all(folder: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'mien', did you mean 'mine'.; recipes/detect has mine"):
        resolve("--recipe", "mien")
    with pytest.raises(UsageError, match="there is no file .*gone.yaml"):
        resolve("--recipe", str(folder / "gone.yaml"))


# --- flags ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--epochz 3", "detect train has no flag --epochz, did you mean '--epochs'"),
        ("--lr_schedulr step", "has no flag --lr-schedulr, did you mean '--lr-scheduler'"),
        ("--epochs three", "flags: epochs is 'three'; give a whole number"),
        ("--epochs -1", "flags: epochs is -1; it must be from 0 to 1000000"),
        ("--lr nan", "flags: lr is 'nan'; give a number"),
        ("--size 16", "flags: size is 16; it must be from 32 to 16384"),
        ("--opt adam", "flags: opt is 'adam', did you mean 'adamw'"),
        ("--epochs", "expected one argument; `detect train --help` shows the flags"),
        ("fcos", "'fcos' follows no flag"),
    ],
)
def test_command_line_that_cannot_be_understood_is_refused_in_one_sentence(argv: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as told:
        resolve(*argv.split())
    assert "\n" not in str(told.value) and told.value.exit_code == 2


def test_options_of_the_network_or_the_method_are_flags() -> None:
    argv = [
        "--num_queries",
        "300",
        "--dynamic-scale",
        "type2",
        "--query_mixture",
        "--head-mixture",
        "false",
        "--width=64",
        "--network",
        "smca_detr",
    ]
    expected = {
        "num_queries": 300,
        "dynamic_scale": "type2",
        "query_mixture": True,
        "head_mixture": False,
        "width": 64,
    }
    assert value("network_args", *argv) == expected
    assert value("method_args", "--label-smoothing", "0.2", half="pretrain") == {"label_smoothing": 0.2}


def test_options_can_be_given_as_pairs_and_flags_go_before_them() -> None:
    assert value("network_args", "--network-args", "width=64", "min-score=0.1") == {"width": 64, "min_score": 0.1}
    assert value("network_args", "--network-args", "width=64", "--width", "32") == {"width": 32}


def test_parser_of_small_commands_suggests_and_takes_underscores() -> None:
    parser = Parser(prog="prog")
    parser.add_argument("--shard-size", type=int)
    assert parser.parse_exactly(["--shard_size", "3"]).shard_size == 3
    with pytest.raises(UsageError, match="prog has no flag --shard-sise, did you mean '--shard-size'"):
        parser.parse_exactly(["--shard-sise", "3"])
    with pytest.raises(UsageError, match="invalid int value"):
        parser.parse_exactly(["--shard-size", "x"])


# --- there and back -------------------------------------------------------------------------


@pytest.mark.parametrize("half", RECIPES)
def test_defaults_survive_the_file_and_the_way_back(half: str, tmp_path: Path) -> None:
    recipe = resolve(half=half).recipe
    assert resolve("--recipe", str(written(tmp_path, dump(recipe))), half=half).recipe == recipe


@given(data=st.data())
def test_any_recipe_survives_the_file_and_the_way_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = st.text("abz09.-_ :#'{}[]!&*%@", max_size=8)
    numbers = st.floats(0.001, 0.999, allow_nan=False)
    values = {
        "lr": data.draw(numbers),
        "backbone_lr": data.draw(st.none() | numbers),
        "betas": tuple(data.draw(st.lists(numbers, min_size=2, max_size=2))),
        "lr_steps": tuple(data.draw(st.lists(st.floats(0, 1e9), max_size=3))),
        "epochs": data.draw(st.integers(0, 10**6)),
        "amp": data.draw(st.booleans()),
        "tag": data.draw(st.none() | words),
        "output_dir": Path(data.draw(st.text("abc/.", min_size=1, max_size=8))),
        "network_args": data.draw(st.dictionaries(st.sampled_from(["width", "depth"]), st.integers() | words)),
        "allow_missing": tuple(data.draw(st.lists(words, max_size=3))),
    }
    recipe = make(DetectRecipe, values)
    path = written(tmp_path_factory.mktemp("recipes"), dump(recipe))
    assert make(DetectRecipe, read_yaml(path)) == recipe
    assert flat(recipe)["lr"] == values["lr"]


# --- the vocabulary -------------------------------------------------------------------------


@pytest.mark.parametrize("half", RECIPES)
def test_every_knob_has_one_name_in_one_section_and_a_line_of_help(half: str) -> None:
    recipe, _ = RECIPES[half]
    table = all_knobs(recipe)
    assert sum(len(fields(cls)) for cls in sections(recipe).values()) == len(table) > 40
    flags: list[str] = []
    for name, (_, field, _) in table.items():
        flags += ["--" + name.replace("_", "-"), *field.metadata["aliases"]]
        assert field.metadata["help"].strip() and not field.metadata["help"].endswith("."), name
    assert len(flags) == len(set(flags)), "a flag means one thing"


def test_knob_in_two_sections_is_noticed() -> None:
    from dataclasses import dataclass

    from shared.recipes.recipe import OptimConfig, knob

    @dataclass(frozen=True, kw_only=True)
    class Twin:
        lr: float = knob(0.1, "again")

    class Doubled:
        optim: OptimConfig
        twin: Twin

    Doubled.__annotations__ = {"optim": OptimConfig, "twin": Twin}
    with pytest.raises(TypeError, match="'lr' is in both optim and twin"):
        all_knobs(Doubled)


@pytest.mark.parametrize("half", RECIPES)
def test_help_shows_every_flag_and_its_default(half: str) -> None:
    recipe, _ = RECIPES[half]
    text = recipe_parser(recipe, f"{half} train").format_help()
    for name in all_knobs(recipe):
        assert f"--{name.replace('_', '-')}" in text
    assert "(default: 0.02)" in text and "(default: 0.9 0.999)" in text and "(default: 10m)" in text
    assert "MISSING" not in text and "==SUPPRESS==" not in text and "<" not in text


def test_recipes_and_their_bases_lie_where_the_command_looks() -> None:
    assert {"demo_detect", "demo_pretrain"} <= set(recipe_names("base"))
    values, origins = load("demo_detect", "base")
    assert values["epochs"] and origins["epochs"] == "base demo_detect"
