"""The commands of `pretrain`, as its usage lists them. Imports no torch: --help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pretrain.packing.commands import pack
from pretrain.probing import recipe as eval_recipe
from pretrain.recipe import PretrainRecipe, run_stem, tiny
from pretrain.weights.commands import convert, import_weights
from shared.devices.launcher import adopt
from shared.errors import UsageError, guarded
from shared.recipes.flags import Parser, Under, from_args, recipe_parser, replay_file
from shared.recipes.recipe import Resolved
from shared.recipes.registry import suggest
from shared.runs.resume import layered

USAGE = """usage: pretrain COMMAND [flags]

  train    train a backbone on shards and export it under a tag
  eval     what a backbone's representation knows: nearest neighbours, linear probe, health
  pack     turn images of folders, lists or TFRecords into shards with an index
  import   bring in a checkpoint of timm, torchvision, DINO, MAE and others under a tag
  convert  make a tag of one backbone serve another, or another image size
  replay   where a step whose loss was not finite broke
  launch   describe a training job for SageMaker
  list     what there is: methods, backbones, recipes, weights

`pretrain COMMAND --help` shows the flags of each."""


@guarded("pretrain")
def main(argv: list[str]) -> int:
    """Run one command; the exit code."""
    commands = {
        "train": train,
        "eval": evaluate,
        "pack": pack,
        "import": import_weights,
        "convert": convert,
        "replay": replay,
        "launch": launch,
        "list": show,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in commands:
        raise UsageError(f"no command '{argv[0]}'{suggest(argv[0], list(commands))}; there is {', '.join(commands)}")
    return commands[argv[0]](argv[1:])


def train(argv: list[str]) -> int:
    adopt(os.environ)
    resolved = resolve(argv)
    from pretrain.training.train import train as run

    return run(resolved)


def resolve(argv: list[str]) -> Resolved:
    """The recipe of a command line, over the demo's settings without data, over the run's when resumed."""

    def read(under: Under) -> Resolved:
        return from_args(
            PretrainRecipe, argv, prog="pretrain train", folder="pretrain", own="method_args", under=under, tiny=tiny
        )

    labelled = read([]).recipe.model.method == "supervised"
    return layered(read, stem=run_stem, demo="demo_pretrain" if labelled else "demo_unlabelled")


def evaluate(argv: list[str]) -> int:
    adopt(os.environ)
    parser = recipe_parser(eval_recipe.EvalRecipe, "pretrain eval", scales=True)
    parser.parse_exactly(argv)  # there is no method to take what it does not know

    def read(under: Under) -> Resolved:
        recipe, tiny = eval_recipe.EvalRecipe, eval_recipe.tiny
        return from_args(recipe, argv, prog="pretrain eval", folder="eval", own="", under=under, tiny=tiny)

    resolved = layered(read, stem=eval_recipe.eval_stem, demo="demo_eval")
    from pretrain.probing.evaluate import evaluate as run

    return run(resolved)


def replay(argv: list[str]) -> int:
    file = replay_file(argv, "pretrain replay")
    from pretrain.training.replay import task_of
    from shared.loop.replay import replay_with

    print("\n".join(replay_with(task_of, file, "pretrain train")))
    return 0


def launch(argv: list[str]) -> int:
    cut = argv.index("--") if "--" in argv else len(argv)
    own, train_flags = argv[:cut], argv[cut + 1 :]
    parser = Parser(
        prog="pretrain launch",
        usage="pretrain launch sagemaker --dry-run [flags] -- [flags of pretrain train]",
        description="Describe a training job as JSON; nothing is sent from here.",
    )
    parser.add_argument("where", choices=["sagemaker"], help="what runs the job")
    parser.add_argument("--dry-run", action="store_true", help="write the description; the only thing there is")
    parser.add_argument("--name", required=True, help="of the job and of its run")
    parser.add_argument("--image", required=True, help="address of the container, built from the Dockerfile")
    parser.add_argument("--role", required=True, help="ARN of the role the job runs under")
    parser.add_argument("--data", required=True, metavar="S3", help="folder of the shards")
    parser.add_argument("--output", required=True, metavar="S3", help="where runs and weights go")
    parser.add_argument("--instance-type", default="ml.p4d.24xlarge", help="(default: ml.p4d.24xlarge)")
    parser.add_argument("--instances", type=int, default=1, help="hosts (default: 1)")
    parser.add_argument("--gpus", type=int, help="processes per host (default: what the type has)")
    parser.add_argument("--volume-gb", type=int, default=200, help="disk per host (default: 200)")
    parser.add_argument("--max-hours", type=int, default=120, help="end it after this long (default: 120)")
    parser.add_argument("--spot", action="store_true", help="on instances that may be taken away, and resume")
    parser.add_argument("--out", type=Path, default=Path("job.json"), help="file to write (default: job.json)")
    told = vars(parser.parse_exactly(own))
    if not told.pop("dry_run"):
        raise UsageError("jobs are described here and sent by the AWS command line; add --dry-run")
    from_args(PretrainRecipe, train_flags, prog="pretrain train", folder="pretrain", own="method_args", tiny=tiny)
    from pretrain.training.launch import Job, sagemaker_job, write_job

    out = told.pop("out")
    told.pop("where")
    write_job(sagemaker_job(Job(**told), train_flags), out)
    print(f"wrote {out}; send it with `aws sagemaker create-training-job --cli-input-json file://{out}`")
    return 0


def show(argv: list[str]) -> int:
    parser = Parser(prog="pretrain list", description="What there is.")
    parser.add_argument("what", nargs="?", default="all", help="methods, backbones, recipes, weights, or all")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    told = parser.parse_exactly(argv)
    from backbones import backbone
    from pretrain.methods import method
    from shared.runs import catalogue

    return catalogue.show(
        told.what,
        {
            "methods": lambda: catalogue.builders(method),
            "backbones": backbone.names,
            "recipes": lambda: catalogue.recipes("pretrain"),
            "weights": lambda: catalogue.weights(told.weights_dir),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
