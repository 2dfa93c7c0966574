"""Files from a Hugging Face hub: what is on disk is taken as it is, and only what is missing is asked for.

The parts of a model fit each other only within one commit: what is missing of a repository comes from the commit that
the rest of it on disk is of.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging as hf_logging

from clipcls.encoders.download import download, is_unreachable, newest_commit, note_commit
from clipcls.encoders.ondisk import cache_folder, commit_on_disk
from clipcls.errors import ModelError, UsageError

logger = logging.getLogger("clipcls")

# A line on stderr for every attempt that failed; the last one's reason comes with the ModelError.
if "HF_HUB_VERBOSITY" not in os.environ:
    hf_logging.set_verbosity_error()

_BRING = "bring the model from another machine with clipcls models export and import"
_ADVICE = f"name a mirror by --endpoint or HF_ENDPOINT, such as https://hf-mirror.com, or {_BRING}"


def use_hub(endpoint: str | None, *, offline: bool = False) -> None:
    """Ask another hub, or none at all, from now on.

    Raises:
        UsageError: the address is none.
    """
    if endpoint:
        if not _is_address(endpoint):
            raise UsageError(f"{endpoint!r} is no address of a hub: write it like https://hf-mirror.com")
        # huggingface_hub reads its environment once, when it is imported, and that has happened.
        constants.ENDPOINT = endpoint.rstrip("/")
        constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    if offline:
        constants.HF_HUB_OFFLINE = True


def fetch(repo: str, name: str) -> Path:
    """The local path of one file of a hub repository, downloaded if it is not on disk.

    Raises:
        ModelError: it is neither on disk nor to be had.
    """
    path = fetch_if_there(repo, name)
    if path is None:
        raise ModelError(f"the hub repository {repo} holds no {name}, which an open_clip model needs")
    return path


def fetch_if_there(repo: str, name: str) -> Path | None:
    """Like ``fetch``, but None where the repository has no such file.

    Raises:
        ModelError: it is not on disk, and the repository does not exist or cannot be reached.
    """
    try:
        known = hf.try_to_load_from_cache(repo, name)
        if known is None:
            if not constants.HF_HUB_OFFLINE:
                _announce(repo)
            return download(repo, name, commit_on_disk(repo))
    except errors.RemoteEntryNotFoundError:
        return None
    except ModelError:
        raise
    except Exception as exc:  # the errors of the HTTP library come through too, and which one that is has changed
        raise ModelError(_explain(exc, repo, name)) from exc
    return Path(known) if isinstance(known, str) else None


def fetch_any(repo: str, names: Sequence[str]) -> Path | None:
    """The first of several files that is on disk, else the first that the repository has; None where it has none.

    Raises:
        ModelError: none is on disk, and the repository does not exist or cannot be reached.
    """
    found = on_disk(repo, names)
    for name in names:
        found = found or fetch_if_there(repo, name)
    return found


def on_disk(repo: str, names: Sequence[str]) -> Path | None:
    """The first of several files of a repository that needs no download; None where there is none."""
    with suppress(errors.HFValidationError):  # no name of a repository, hence nothing on disk
        for name in names:
            if isinstance(known := hf.try_to_load_from_cache(repo, name), str):
                return Path(known)
    return None


def renew(repos: Iterable[str]) -> None:
    """Take repositories that are on disk to their newest commits; files that did not change are not downloaded again.

    Nothing changes before the hub has answered for each of them. One that it no longer shows stays as it is.

    Raises:
        UsageError: no network is wanted.
        ModelError: the hub cannot be reached.
    """
    if constants.HF_HUB_OFFLINE:
        raise UsageError("--renew has to ask the hub, and --offline or HF_HUB_OFFLINE is set: leave one of them out")
    newest = {}
    for repo in filter(commit_on_disk, repos):
        _announce(repo)
        try:
            newest[repo] = newest_commit(repo)
        except ModelError:
            raise
        except Exception as exc:  # as in fetch_if_there
            problem = _explain(exc, repo, "the newest version")
            if not isinstance(exc, errors.RepositoryNotFoundError):
                raise ModelError(problem) from exc
            logger.warning("%s stays as it is: %s", repo, problem)
    for repo, commit in newest.items():
        if commit != commit_on_disk(repo):
            note_commit(repo, commit)


@cache
def _announce(repo: str) -> None:
    """Said once, since a hub that cannot be reached is silent for half a minute."""
    if not _is_address(constants.ENDPOINT):
        raise ModelError(f"HF_ENDPOINT is no web address: {constants.ENDPOINT}; write it like https://hf-mirror.com")
    logger.info("getting %s from %s", repo, constants.ENDPOINT)


def _is_address(endpoint: str) -> bool:
    return endpoint.startswith(("http://", "https://"))


def _explain(exc: Exception, repo: str, name: str) -> str:
    """What went wrong and what to do next, in one line."""
    match exc:
        case errors.HFValidationError():
            return f"{repo!r} cannot be the name of a hub repository, which is ORGANISATION/REPOSITORY"
        case errors.GatedRepoError():
            page = f"{constants.ENDPOINT}/{repo}"
            return f"{repo} asks for consent: accept its terms on {page}, then log in with hf auth login"
        case errors.RepositoryNotFoundError():
            return f"no model {repo} on {constants.ENDPOINT}, or it is private (hf auth login)"
        case errors.RevisionNotFoundError():
            return (
                f"{constants.ENDPOINT} no longer has the version of {repo} that is partly on disk: "
                f"delete {cache_folder(repo)} and run the command again"
            )
        case errors.OfflineModeIsEnabled():
            return f"{name} of {repo} is not on disk, and --offline or HF_HUB_OFFLINE is set: leave it out, or {_BRING}"
        case errors.HfHubHTTPError() if exc.response.status_code in (401, 403):
            return (
                f"cannot download {name} of {repo}: {constants.ENDPOINT} refuses it ({exc.response.status_code}); "
                f"log in with hf auth login or set HF_TOKEN, or {_ADVICE}"
            )
        case OSError() if exc.filename:
            return f"cannot write {exc.filename}: {exc.strerror}; make it writable, or set HF_HOME to another folder"
    reason = next(iter(str(exc).strip().splitlines()), type(exc).__name__)
    if is_unreachable(exc):
        return f"cannot download {name} of {repo}, {constants.ENDPOINT} cannot be reached ({reason}): {_ADVICE}"
    return (
        f"cannot download {name} of {repo} from {constants.ENDPOINT}: {reason}; "
        f"run it again, and it goes on where it ended, or {_ADVICE}"
    )
