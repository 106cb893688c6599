"""A hub's id in; out, the folder in huggingface_hub's own cache that holds what is needed of it.

Only one process of a machine fetches a repository at a time; the next one finds it there. HF_HOME,
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from krona.base.hub_files import Choose, pipeline_files
from krona.errors import KronaError
from krona.storage.lock import locked

_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
_FILES = (".safetensors", ".ckpt", ".bin", ".pt")
_ANSWER_S = 10.0
_REPO = re.compile(r"models--(.+?)--(.+)")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ORG/NAME or ORG/NAME@REVISION."""
    return _ID.fullmatch(name) is not None and not name.endswith(_FILES)


def hub_name(path: Path) -> str | None:
    """ORG/NAME@COMMIT of a folder in a hub's cache; None for any other."""
    path = path.absolute()
    if path.parent.name != "snapshots" or not (repo := _REPO.fullmatch(path.parents[1].name)):
        return None
    return f"{repo[1]}/{repo[2]}@{path.name}"


def fetch(hub_id: str, choose: Choose = pipeline_files, *, is_at_hand: bool = False) -> Path:
    """The folder of a repository's snapshot with the chosen files, fetched where they are missing.

    Args:
        hub_id: ORG/NAME, or ORG/NAME@REVISION: a branch, a tag or a commit.
        is_at_hand: only what was fetched before counts, and nobody is asked.
    Raises: KronaError if there is no such repository or revision, it is not open to this user, it
        does not hold what is to be chosen, or it cannot be fetched now.
    """
    return _fetch(hub_id, choose, is_at_hand)


@cache
def _fetch(hub_id: str, choose: Choose, is_at_hand: bool) -> Path:
    """As fetch(); a process asks once."""
    from huggingface_hub import constants

    match = _ID.fullmatch(hub_id)
    assert match
    repo, revision = match[1], match[2] or "main"
    if is_at_hand:
        return _at_hand(repo, revision, choose, "is not asked here")
    try:
        commit, names = _listing(repo, revision)
    except ConnectionError as error:
        return _at_hand(repo, revision, choose, str(error))
    chosen = _chosen(repo, names, choose)
    folder = _folder(repo)
    with locked(Path(constants.HF_HUB_CACHE) / ".locks" / folder / "krona.lock"):
        snapshot = Path(constants.HF_HUB_CACHE) / folder / "snapshots" / commit
        is_there = all((snapshot / name).exists() for name in chosen)
        return snapshot if is_there else _download(repo, revision, chosen)


def _folder(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"


def _listing(repo: str, revision: str) -> tuple[str, list[str]]:
    """The commit of a repository's revision, and the names of its files.

    Raises: KronaError if the hub does not give it, ConnectionError if it cannot be asked.
    """
    from huggingface_hub import HfApi, errors

    try:
        with _refusals_told(repo, revision):
            info = HfApi().model_info(repo, revision=revision, timeout=_ANSWER_S)
        return str(info.sha), [file.rfilename for file in info.siblings or ()]
    except KronaError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError("is not asked (HF_HUB_OFFLINE)") from error
    except Exception as error:  # a network's or a server's, of several libraries
        said = str(error).partition("\n")[0]
        raise ConnectionError(f"does not answer ({type(error).__name__}: {said})") from error


def _download(repo: str, revision: str, chosen: list[str]) -> Path:
    """Fetch what is missing of the chosen files."""
    from huggingface_hub import constants, snapshot_download

    try:
        with _refusals_told(repo, revision):
            return Path(snapshot_download(repo, revision=revision, allow_patterns=chosen))
    except KronaError:
        raise
    except Exception as error:  # a network's, a server's or a disk's, of several libraries
        raise KronaError(
            f"{repo} could not be fetched whole from {constants.ENDPOINT}: {error}. The same "
            "command goes on where this one ended"
        ) from error


@contextmanager
def _refusals_told(repo: str, revision: str) -> Iterator[None]:
    """Raise KronaError where the hub says no; a gated repository is listed, and then not given."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise KronaError(
            f"{repo} is gated: accept its terms at {page}, then `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise KronaError(
            f"{repo} has no revision '{revision}'; give a branch, a tag or a commit of {page}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise KronaError(
            f"'{repo}' is no file or folder here, and no model at {page} that is open to you; "
            "check how it is written, and for a private one `hf auth login` or set HF_TOKEN"
        ) from error


def _at_hand(repo: str, revision: str, choose: Choose, silence: str) -> Path:
    """The snapshot that was fetched before, if it holds what is chosen.

    Args:
        silence: why the hub does not say what is in it.
    """
    from huggingface_hub import constants, errors, snapshot_download

    told = f"{constants.ENDPOINT} {silence}"
    try:
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=[], local_files_only=True)
        )
    except errors.LocalEntryNotFoundError as error:
        raise KronaError(
            f"{repo}@{revision} was never fetched to {constants.HF_HUB_CACHE}, and {told}; give a "
            f"folder, or bring it there from a machine that reaches the hub: hf download {repo}"
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        _chosen(repo, names, choose)
    except KronaError as error:
        raise KronaError(f"{error}. {folder} was not fetched whole, and {told}") from error
    return folder


def _chosen(repo: str, names: Sequence[str], choose: Choose) -> list[str]:
    try:
        return choose(names)
    except KronaError as error:
        raise KronaError(f"{repo} cannot be used: {error}") from error
