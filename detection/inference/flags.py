"""Flags that commands of this room share or that need a look at each other. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.flags import Parser
from shared.recipes.values import number, whole

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts"),
    *(".3gp", ".ogv", ".mxf"),
)


def is_video(source: object) -> bool:
    """Whether a file is a video, by its ending."""
    return str(source).lower().endswith(VIDEOS)


def video_flags(parser: Parser) -> None:
    """Add the flags of `detect predict` for videos."""
    parser.add_argument(
        "--every", type=whole(1, 1_000_000), metavar="N", help="of a video, look at every N-th frame (default: 1)"
    )
    parser.add_argument(
        "--annotated-video", action="store_true", help="of a video, also write it with boxes and names drawn"
    )


def asks_for_videos(args: Any) -> bool:
    """Whether `detect predict` is given videos. Raises UsageError if they go with the other flags in no way."""
    videos = [source for source in args.images if is_video(source)]
    if not videos and (args.every is not None or args.annotated_video):
        raise UsageError("--every and --annotated-video are for videos, and none is given; remove them")
    if videos and (len(videos) < len(args.images)):
        other = next(source for source in args.images if not is_video(source))
        raise UsageError(f"{other} is no video, and {videos[0]} is; give videos in a command of their own")
    for source in videos:
        if source.lower().startswith(("http://", "https://")):
            raise UsageError(f"videos are read from files; download {source.partition('?')[0]} and give the file")
    if videos and (args.coco_json_path is not None or args.save == "coco"):
        raise UsageError("--coco-json-path and --save coco are for photographs; remove them for videos")
    return bool(videos)


def vocabulary_flags(parser: Parser, about: str) -> None:
    """Add --vocabulary, described so, and --text-weights."""
    parser.add_argument("--vocabulary", metavar="NAMES", help=about)
    parser.add_argument(
        "--text-weights",
        type=Path,
        metavar="FILE",
        help="CLIP's weights, for names that have no vector yet; needs pip install 'chordate[text]'",
    )


def score_flags(parser: Parser, otherwise: str) -> None:
    """Add the flags of networks on stored proposals; `otherwise` says what calibrates without --prior."""
    parser.add_argument(
        "--beta",
        type=number(low=0, high=1),
        help="exponent of a name's probability in the score, the rest is the proposal's score (default: 1, or 0.3 for "
        "names that were not trained)",
    )
    parser.add_argument(
        "--best-proposals",
        type=whole(1, 1_000_000),
        help="proposals of an image to use, by their score (default: all, or 100 with --beta below 1)",
    )
    parser.add_argument(
        "--calibrate",
        type=number(low=0, high=10),
        metavar="GAMMA",
        help="divide probabilities by the counts of a first pass to this power, such as 0.6",
    )
    parser.add_argument("--prior", type=Path, help=f"counts of `detect eval --counts` (default: {otherwise})")
    parser.add_argument(
        "--any-proposals", action="store_true", help="allow proposals of other weights than those of the training"
    )


def scores_of(args: Any) -> dict[str, Any]:
    """The values of `score_flags`, as `OpenWorld` takes them."""
    names = {"beta": "beta", "best": "best_proposals", "calibrate": "calibrate", "prior": "prior"}
    return {name: getattr(args, flag) for name, flag in {**names, "any_proposals": "any_proposals"}.items()}
