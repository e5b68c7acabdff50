"""`pretrain train`, `replay` and `launch`: their flags. Imports no torch."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from pretrain.recipe import FIXED, PretrainRecipe, run_stem, tiny
from shared.devices.launcher import adopt
from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, Under, from_args, recipe_parser, replay_flags, settled
from shared.recipes.recipe import Resolved
from shared.recipes.submit import submission, submit
from shared.recipes.usual import fitted
from shared.recipes.values import whole
from shared.runs.audit import Prepared, audit_flags
from shared.runs.resume import layered
from shared.text import say


def train(argv: list[str]) -> int:
    if (asked := submission(argv)) is not None:
        runtime = resolve(asked.argv).recipe.runtime
        say(*submit("pretrain", asked, runtime.output_dir / "submitted", runtime.name).lines())
        return 0
    adopt(os.environ)
    resolved = resolve(argv)
    from pretrain.training.train import train as run

    run(resolved)
    return 0


def train_flags() -> Parser:
    return recipe_parser(PretrainRecipe, "pretrain train", scales=True, own="method_args")


def resolve(argv: list[str]) -> Resolved:
    """The flags of `pretrain train` as a recipe, with the origin of each value.

    defaults < the method's (no recipe, demo or resumed run) < demo's settings (no data given) < resumed run's
    < --recipe < --scale < flags
    """

    def read(under: Under) -> Resolved:
        return from_args(
            PretrainRecipe, argv, prog="pretrain train", folder="pretrain", own="method_args", under=under, tiny=tiny
        )

    def over_the_method(under: Under) -> Resolved:
        given = read(under)
        follows = any(origin.startswith("recipe ") for origin in given.origins.values())
        if under or follows or given.recipe.data.data_path is None:
            return given
        from pretrain.methods import trained_as

        name = given.recipe.model.method
        _, values = trained_as(name)
        flags = {key for key, origin in given.origins.items() if origin == "flag"}
        usual = fitted(values, given.recipe, flags) if values else {}
        return read([(f"method {name}", usual)]) if usual else given

    supervised = read([]).recipe.model.method == "supervised"
    demo = "demo_pretrain" if supervised else "demo_unlabeled"
    return layered(
        over_the_method, stem=run_stem, demo=demo, fixed=FIXED, settle=lambda found: settled(found, "method_args")
    )


def replay(argv: list[str]) -> int:
    file = replay_flags("pretrain replay").parse_exactly(argv).file
    from pretrain.training.replay import task_of
    from shared.loop.replay import replay_with

    say(*replay_with(task_of, file, "pretrain train"))
    return 0


def launch(argv: list[str]) -> int:
    cut = argv.index("--") if "--" in argv else len(argv)
    own, train_flags = argv[:cut], argv[cut + 1 :]
    options = vars(launch_parser().parse_exactly(own))
    if not options.pop("dry_run"):
        raise UsageError("pretrain launch only writes the job file, and the AWS command line sends it; add --dry-run")
    own = "method_args"
    settled(from_args(PretrainRecipe, train_flags, prog="pretrain train", folder="pretrain", own=own, tiny=tiny), own)
    from pretrain.training.launch import Job, sagemaker_job, write_job

    out = options.pop("out")
    options.pop("where")
    write_job(sagemaker_job(Job(**options), train_flags), out)
    say(f"wrote {out}; send it with `aws sagemaker create-training-job --cli-input-json file://{out}`")
    return 0


def launch_parser() -> Parser:
    parser = Parser(
        prog="pretrain launch",
        usage="pretrain launch sagemaker --dry-run [flags] -- [flags of pretrain train]",
        description="Write the description of a training job as JSON; nothing is submitted.",
    )
    parser.add_argument("where", choices=["sagemaker"], help="the service that runs the job")
    parser.add_argument("--dry-run", action="store_true", help="write the description (required)")
    parser.add_argument("--name", required=True, help="name of the job and of its run")
    parser.add_argument("--image", required=True, help="address of the container, built from the Dockerfile")
    parser.add_argument("--role", required=True, help="ARN of the role the job runs under")
    parser.add_argument("--data", required=True, metavar="S3", help="folder of the shards")
    parser.add_argument("--output", required=True, metavar="S3", help="folder for runs and weights")
    parser.add_argument("--instance-type", default="ml.p4d.24xlarge", help="(default: ml.p4d.24xlarge)")
    parser.add_argument("--instances", type=whole(1, 10_000), default=1, help="hosts (default: 1)")
    parser.add_argument(
        "--gpus", type=whole(1, 1024), help="processes per host (default: the GPUs of the instance type)"
    )
    parser.add_argument("--volume-gb", type=whole(1, 1_000_000), default=200, help="disk per host (default: 200)")
    parser.add_argument("--max-hours", type=whole(1, 100_000), default=120, help="time limit of the job (default: 120)")
    parser.add_argument("--spot", action="store_true", help="use spot instances, and resume when one is taken away")
    parser.add_argument("--out", type=Path, default=Path("job.json"), help="file to write (default: job.json)")
    return parser


def audit(argv: list[str]) -> int:
    from shared.runs.audit import audit as run

    def prepare(resolved: Resolved) -> Prepared:
        from pretrain.training.audit import prepare as build

        return build(resolved)

    return run("pretrain", argv, resolve, prepare)


COMMANDS = {
    "train": Command("train a backbone on shards and export it under a tag", train, train_flags),
    "replay": Command(
        "find the module and the image behind a loss that was NaN or Inf",
        replay,
        partial(replay_flags, "pretrain replay"),
    ),
    "audit": Command(
        "take random steps of a run again, and compare their bits", audit, partial(audit_flags, "pretrain")
    ),
    "launch": Command("write a SageMaker training job as JSON", launch, launch_parser),
}
