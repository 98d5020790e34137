"""An export on the hub: login and name are checked before the export, the files sent after it.

The token is that of the environment variable ``HF_TOKEN``, and is in no message.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers

from . import model_card

TOKEN = "HF_TOKEN"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_Result = TypeVar("_Result")


class Repository(NamedTuple):
    """Where an export goes, with a login that was tried.

    Attributes:
        api: of the hub, with the token.
        name: ``owner/name``.
        public: whether it is created for all to read.
        keeps_card: whether it has a ``README.md`` that is not ours, which stays.
    """

    api: HfApi
    name: str
    public: bool
    keeps_card: bool


def require_login(name: str, public: bool = False, endpoint: str | None = None) -> Repository:
    """Try the login, and look whether a repository can take an export; nothing is created.

    Args:
        name: ``owner/name``.
        public: whether all may read it.
        endpoint: of the hub; by default huggingface.co, or what ``HF_ENDPOINT`` says.

    Raises:
        ValueError: for another name, without ``HF_TOKEN``, for a token that the hub does not take,
            and where the repository is public and ``public`` is not given. When the hub cannot be
            reached.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"--push={name!r} is no name on the hub; give it as owner/name")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ValueError(
            f"--push={name} needs a login, and the environment variable {TOKEN} is not set; set it "
            "to a token of the hub that may write"
        )
    api = HfApi(endpoint=endpoint, token=token)
    _asked(api.whoami, f"the token in {TOKEN}", api)
    try:
        found = _asked(lambda: api.model_info(name), f"--push={name}", api)
    except RepositoryNotFoundError:
        return Repository(api, name, public, False)
    if found.private is not True and not public:
        raise ValueError(f"--push={name} is there and public; add --public, or choose another name")
    files = {file.rfilename for file in found.siblings or ()}
    keeps = model_card.FILE in files and not _asked(
        lambda: model_card.is_ours(_card(api, name, token)), f"--push={name}", api
    )
    return Repository(api, name, public, keeps)


def push(repository: Repository, directory: Path) -> str:
    """Send all files of an export in one commit, to a repository that is created if needed.

    A ``README.md`` there that is not ours stays.

    Returns:
        The address of the repository.

    Raises:
        ValueError: when the hub refuses or cannot be reached; the export is on this machine all the
            same.
    """
    api, name = repository.api, repository.name
    what = f"{directory} is written, but --push={name}"

    def send() -> str:
        url = api.create_repo(name, private=not repository.public, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=directory,
            commit_message="Export of TeRA-JAX",
            ignore_patterns=[model_card.FILE] if repository.keeps_card else None,
        )
        return str(url)

    try:
        return _asked(send, what, api)
    except RepositoryNotFoundError:
        raise ValueError(
            f"{what} is not there; create it on the hub, and push the directory"
        ) from None


def _card(api: HfApi, name: str, token: str) -> str:
    url = f"{api.endpoint}/{name}/resolve/main/{model_card.FILE}"
    answer = get_session().get(url, headers=build_hf_headers(token=token))
    answer.raise_for_status()
    return answer.text


def _asked(ask: Callable[[], _Result], what: str, api: HfApi) -> _Result:
    """The answer of the hub. What the library says of an error is left out: it may have headers."""
    try:
        return ask()
    except RepositoryNotFoundError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ValueError(
            f"{what} was refused by {api.endpoint} (status {status}); give a token that may write "
            "there"
        ) from None
    except Exception as error:
        raise ValueError(
            f"{what}: {api.endpoint} gave no answer ({type(error).__name__}); try again, and unset "
            "HF_HUB_OFFLINE"
        ) from None
