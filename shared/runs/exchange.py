"""`push` and `pull`, of both programs: an export to a repository of the hub or to a folder, and back, digest and all.

    push TAG USER/NAME         the export, cards of its ancestors, README.md; what other libraries need (`Layout`)
    push TAG --to-folder DIR   the same into a new folder
    pull USER/NAME             into --weights-dir, under the tag and the digest it had

Imports no torch at the top.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import UsageError, WeightsError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.runs.ancestry import find
from shared.text import say

if TYPE_CHECKING:
    from shared.weights.card import Exported
    from shared.weights.store import Store

KINDS = {"pretrain": "backbone", "detect": "detector"}
# writes weights and config of another library to a folder; a sentence on why that is not possible, or None
Layout = Callable[["Exported", "Store", Path], str | None]


def commands(program: str, layout: Layout | None = None) -> dict[str, Command]:
    """The two commands, for the COMMANDS of a program."""
    push_words = f"a {KINDS[program]} to a repository of the Hugging Face hub, or to a folder"
    pull_words = f"a pushed {KINDS[program]} from a repository or a folder, with its digest and lineage"
    return {
        "push": Command(push_words, partial(push, program, layout), partial(push_flags, program)),
        "pull": Command(pull_words, partial(pull, program), partial(pull_flags, program)),
    }


def push_flags(program: str) -> Parser:
    parser = Parser(prog=f"{program} push", description=f"Push a {KINDS[program]} to the Hugging Face hub.")
    parser.add_argument("weights", metavar="TAG", help="a tag, tag@digest, arch/tag, an export folder or a run folder")
    parser.add_argument("repo", nargs="?", help="the repository, USER/NAME; created if missing")
    parser.add_argument("--to-folder", type=Path, metavar="DIR", help="write it to this new folder instead")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--replace", action="store_true", help="replace what the repository has; its history keeps it")
    parser.add_argument("--license", "--licence", dest="licence", help="license for the README (default: on the card)")
    shared_flags(parser, "an error unless with --to-folder")
    return parser


def pull_flags(program: str) -> Parser:
    parser = Parser(prog=f"{program} pull", description=f"Pull a {KINDS[program]} that was pushed.")
    parser.add_argument("repo", nargs="?", help="the repository, USER/NAME")
    parser.add_argument("--from-folder", type=Path, metavar="DIR", help="take it from this folder instead")
    parser.add_argument("--tag", help="the tag, or tag@digest, that it must have")
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: the newest)")
    shared_flags(parser, "only what the hub's cache has")
    return parser


def shared_flags(parser: Parser, offline: str) -> None:
    parser.add_argument("--offline", action="store_true", help=f"no network: {offline}")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")


def one_of(repo: str | None, folder: Path | None, flag: str) -> str | None:
    """The repository; None where a folder is given. Raises UsageError unless one of both is."""
    if (repo is None) == (folder is None):
        raise UsageError(f"give a repository, USER/NAME, or {flag} DIR" + (", not both" if repo else ""))
    return repo


def push(program: str, layout: Layout | None, argv: list[str]) -> int:
    args = push_flags(program).parse_exactly(argv, intermixed=True)
    repo = one_of(args.repo, args.to_folder, "--to-folder")
    target: Path = args.to_folder or Path()
    for flag in ("private", "replace"):
        if repo is None and getattr(args, flag):
            raise UsageError(f"--{flag} is for a repository, and --to-folder writes a new folder; remove one")
    from shared.graphs.folder import new_folder
    from shared.weights.hub import is_offline, upload
    from shared.weights.store import Store

    if repo is None and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is not empty, and nothing is overwritten; give another --to-folder")
    if repo is not None and (args.offline or is_offline()):
        raise UsageError("a push needs the network, and this is offline; use --to-folder and upload the folder later")
    store = Store(args.weights_dir)
    exported = find(args.weights, args.weights_dir)
    check_kind(exported, program)
    if repo is None:
        with new_folder(target) as folder:
            lines = write(exported, store, folder, layout, "USER/NAME", args.licence)
        say(*lines, f"wrote {exported} to {target}")
        return 0
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        lines = write(exported, store, Path(folder), layout, repo, args.licence)
        message = f"{exported.card.arch} {exported.card.tag}"
        address = upload(Path(folder), repo, private=args.private, replace=args.replace, message=message)
    if address is None:
        say(f"{repo} has {exported} already; nothing was changed (--replace writes its README again)")
    else:
        say(*lines, f"pushed {exported} to {address}")
    return 0


def write(
    exported: Exported, store: Store, folder: Path, layout: Layout | None, repo: str, licence: str | None
) -> list[str]:
    """Write all files of a push; lines about what a person would want to know before others see it."""
    from shared.runs.model_card import model_card
    from shared.weights.carried import carry_out

    reason = "" if layout is None else layout(exported, store, folder)
    if reason is not None:
        carry_out(exported, store, folder)
    nodes = store.lineage(exported)
    text = model_card(exported, nodes, repo, licence=licence, timm=reason is None)
    (folder / "README.md").write_text(text, encoding="utf-8")
    lines = [f"timm does not load it: {reason}; `pull` does"] if reason else []
    lines += ["timm loads it, with the same outputs"] if reason is None else []
    if not (licence or exported.card.licence):
        lines.append("license: not given; add it with --license")
    path = exported.card.data.get("path")
    if path not in (None, "None"):  # as the demo data has it
        lines.append(f"card.json goes along as it is, and names the folder of the data, {path}")
    return lines


def pull(program: str, argv: list[str]) -> int:
    args = pull_flags(program).parse_exactly(argv, intermixed=True)
    repo = one_of(args.repo, args.from_folder, "--from-folder")
    from shared.weights.carried import FILES, opened, take_in
    from shared.weights.hub import download
    from shared.weights.store import Store

    folder = args.from_folder
    if repo is not None:
        folder = download(repo, FILES, revision=args.revision, offline=args.offline)
    elif args.revision:
        raise UsageError("--revision is for a repository, and --from-folder has none; remove it")
    name = repo or str(folder)
    card, _ = opened(folder, name)
    if card.kind != KINDS[program]:
        raise WeightsError(f"{name} is a {card.kind}; {instead(card.kind, 'pull')}")
    exported, new = take_in(folder, Store(args.weights_dir), name, wanted=args.tag)
    say(f"{'pulled' if new else 'already there:'} {exported} {'to' if new else 'in'} {exported.path}")
    return 0


def check_kind(exported: Exported, program: str) -> None:
    if exported.card.kind != KINDS[program]:
        arch = ", or name it with its architecture as ARCH/TAG" if program == "detect" else ""
        raise WeightsError(f"{exported} is a {exported.card.kind}; {instead(exported.card.kind, 'push')}{arch}")


def instead(kind: str, word: str) -> str:
    programs = {kind: program for program, kind in KINDS.items()}
    return f"use `{programs[kind]} {word}`" if kind in programs else "use other weights"
