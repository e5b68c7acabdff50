"""`pretrain doctor`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_pixel_limit
from shared.recipes.values import whole
from shared.text import say


def doctor_flags() -> Parser:
    parser = Parser(
        prog="pretrain doctor",
        description="Everything that is wrong with shards, on one page, before they are trained on. Exit code 3 if "
        "training or a probe would stop, or their numbers would be wrong. Nothing is written beside the shards.",
    )
    parser.add_argument(
        "data_path", metavar="SHARDS", help="a folder of shards, a tar, or a range, as --data-path of train"
    )
    parser.add_argument("--val-path", help="validation shards (default: the validation split of SHARDS)")
    parser.add_argument("--verify-shards", action="store_true", help="compare each shard with the sha256 of its index")
    parser.add_argument(
        "--pixels", action="store_true", help="decode every image, which finds damage behind the header; minutes"
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="also train a small network on eight images: its loss at the start is what theory says, and halves; and "
        "stop and resume it, to the same bits; a minute or two",
    )
    parser.add_argument(
        "--self-test-size",
        type=whole(32, 2048),
        default=64,
        help="height and width of the images of --self-test (default: 64)",
    )
    parser.add_argument("--strict", action="store_true", help="exit code 3 for warnings, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the page as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page as HTML")
    add_pixel_limit(parser)
    return parser


def doctor(argv: list[str]) -> int:
    args = doctor_flags().parse_exactly(argv)
    from pretrain.doctor.examine import examine
    from shared.feeding.image import limit_pixels
    from shared.files import write_aside, write_json

    limit_pixels(args.max_pixels)
    title = f"pretrain doctor {args.data_path}"
    sheet, classes = examine(args.data_path, args.val_path, title, verify=args.verify_shards, pixels=args.pixels)
    if args.self_test and classes is not None:
        from pretrain.doctor.self_test import train_on_some

        train_on_some(args.data_path, classes, args.self_test_size, sheet)
    say(*sheet.lines())
    if args.json is not None:
        write_json(args.json, sheet.as_json())
    if args.html is not None:
        write_aside(args.html, sheet.as_html())
    return sheet.exit_code(strict=args.strict)


COMMANDS = {"doctor": Command("everything that is wrong with shards, on one page", doctor, doctor_flags)}
