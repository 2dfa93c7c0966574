"""Files from a Hugging Face hub: what is on disk is taken as it is, and only what is missing is asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from clipcls.errors import ModelError

# Xet transfers go to their own hosts and so bypass a mirror; huggingface_hub reads this when it is imported.
if os.environ.get("HF_ENDPOINT"):
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import huggingface_hub as hf
from huggingface_hub import constants, errors

_ADVICE = (
    "for a mirror set HF_ENDPOINT, such as https://hf-mirror.com; without a network use --model starter "
    "or the path of a model folder"
)


def fetch(repo: str, name: str) -> Path:
    """The local path of one file of a hub repository, downloaded if it is not on disk.

    Raises:
        ModelError: it is neither on disk nor to be had.
    """
    path = fetch_if_there(repo, name)
    if path is None:
        raise ModelError(f"the hub repository {repo} has no file {name}, so it is no open_clip model")
    return path


def fetch_if_there(repo: str, name: str) -> Path | None:
    """Like ``fetch``, but None where the repository has no such file.

    Raises:
        ModelError: the repository cannot be reached or does not exist.
    """
    known = hf.try_to_load_from_cache(repo, name)
    if known is not None:
        return Path(known) if isinstance(known, str) else None
    if not sys.stderr.isatty():
        hf.utils.disable_progress_bars()
    try:
        return Path(hf.hf_hub_download(repo, name))
    except errors.GatedRepoError as exc:
        raise ModelError(
            f"{repo} asks for consent: accept its terms on the hub, then log in with hf auth login"
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise ModelError(f"no model {repo} on {constants.ENDPOINT}, or it is private (hf auth login)") from exc
    except errors.LocalEntryNotFoundError as exc:
        # Also the answer when HF_HUB_OFFLINE is set, so it comes before EntryNotFoundError, its parent.
        raise ModelError(f"{repo} is not on disk and {constants.ENDPOINT} cannot be reached: {_ADVICE}") from exc
    except errors.EntryNotFoundError:
        return None
    except errors.OfflineModeIsEnabled as exc:
        raise ModelError(f"{repo} is not on disk and HF_HUB_OFFLINE is set: {_ADVICE}") from exc
    except (errors.HfHubHTTPError, OSError) as exc:
        cause = str(exc).strip().splitlines()[0]
        raise ModelError(f"cannot download {name} of {repo} from {constants.ENDPOINT}: {cause}; {_ADVICE}") from exc


def revision_file(path: Path) -> Path:
    """The file in the hub's cache that names the commit in use: it changes when the repository is updated."""
    return path.parent.parent.parent / "refs" / "main"
