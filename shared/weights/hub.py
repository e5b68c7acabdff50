"""A folder to and from a repository of the Hugging Face hub, through huggingface_hub, which timm brings.

    upload(folder, "user/name")       a new repository, or an empty one; another content is never replaced unasked
    download("user/name")             the folder in the hub's cache; offline, what is there already

The token is that of the login or of HF_TOKEN, the server that of HF_ENDPOINT, as huggingface_hub has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import Refusal, UsageError, WeightsError
from shared.weights.card import digest_of

HARMLESS = {".gitattributes"}  # of a new repository
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may"


def the_api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


def upload(folder: Path, repo: str, *, private: bool, replace: bool, message: str) -> str | None:
    """Upload an export to a repository, which is created if missing; its address, or None if it has it already.

    Args:
        private: only its owner may read it.
        replace: other files there are deleted; the repository's history keeps them.

    Raises:
        UsageError: no such name, no login, or offline.
        WeightsError: the repository has something else.
        Refusal: no network, or the hub refuses.
    """
    api = the_api()
    with explained(f"{repo} cannot be pushed to", "push"):
        there, names, digest = info_of(api, repo), set[str](), None
        if there is not None:
            if private and not there.private:
                raise UsageError(
                    f"{repo} is public, and --private does not change that; make it private in its settings, or leave "
                    f"--private out"
                )
            names = {file.rfilename for file in there.siblings or []} - HARMLESS
            if "card.json" in names:
                digest = digest_of(Path(api.hf_hub_download(repo, "card.json", revision=there.sha)))
                if digest == digest_of(folder / "card.json") and not replace:
                    return None
        if names and not replace:
            what = f"other weights, {digest}" if digest else f"other files, such as {min(names)}"
            raise WeightsError(
                f"{repo} has {what}, and nothing was changed there; push to another repository, or add --replace (its "
                f"history keeps the old files)"
            )
        if there is None:
            api.create_repo(repo, private=private, exist_ok=False)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            commit_message=message,
            delete_patterns=["*"] if names else None,
            parent_commit=None if there is None else there.sha,  # what somebody else pushed meanwhile is refused
        )
    return f"{api.endpoint}/{repo}"


def download(repo: str, patterns: Sequence[str], *, revision: str | None = None, offline: bool = False) -> Path:
    """The repository's files of these patterns, in the hub's cache.

    Raises:
        UsageError: no such name.
        WeightsError: no such repository or revision, no network, or not in the cache.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    api, offline = the_api(), offline or is_offline()
    with explained(f"{repo} cannot be pulled", "pull"):
        try:
            told = {"revision": revision, "allow_patterns": list(patterns), "local_files_only": offline}
            return Path(api.snapshot_download(repo, **told))
        except LocalEntryNotFoundError:
            if not offline:
                raise
            raise WeightsError(
                f"{repo} is not in the hub's cache, and this is offline; pull it with a network"
            ) from None


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def info_of(api: Any, repo: str) -> Any:
    """What the hub says of a repository; None if there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.repo_info(repo)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


@contextmanager
def explained(what: str, doing: str) -> Iterator[None]:
    """One sentence for an error of the hub or of the network; the classes of the latter differ between releases."""
    from huggingface_hub import errors

    try:
        yield
    except Refusal:
        raise
    except errors.HFValidationError:
        raise UsageError(f"{what}, since that is not the name of a repository; give USER/NAME") from None
    except errors.LocalTokenNotFoundError:
        raise UsageError(f"{what} without a token; {LOGIN}") from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{what}: it has no such --revision; leave it out for the newest") from None
    except (errors.RepositoryNotFoundError, errors.GatedRepoError):
        raise WeightsError(
            f"{what}: there is no such repository, or you may not read it; check it, or {LOGIN}"
        ) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UsageError(f"{what}: the hub does not accept the token; {LOGIN} {doing}") from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        if doing == "push":
            raise Refusal(f"{what} ({reason}); push again, or use --to-folder and upload the folder later") from None
        raise WeightsError(f"{what} ({reason}); pull again with a network, or use --from-folder with a copy") from None
