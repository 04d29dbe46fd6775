"""A run's model as a repository on the Hugging Face hub.

upload(opened, "me/walks", private=True)      # the address of the repository
"""

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx; since 2.0 of httpx2
)
from huggingface_hub.utils import validate_repo_id

from leff.errors import ConfigError, RunError
from leff.exports.opened import FinishedRun
from leff.models.quiet import quiet


def check_repository(name: str) -> None:
    """Raise ConfigError for a name that no repository can have."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--hub must be a repository such as me/walks: {error}") from None


def upload(opened: FinishedRun, repository: str, private: bool = True) -> str:
    """Upload a run's model, tokenizer and card; return the address of the repository.

    The repository is made if it is not there; one that is there keeps who may see it.  The account
    is that of `hf auth login` or HF_TOKEN, the hub that of HF_ENDPOINT.

    Raises ConfigError for a name that cannot be, RunError if the hub refuses or is not reached.
    """
    check_repository(repository)
    hub, name = HfApi(), opened.folder.path.name
    try:
        with quiet():
            made = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=made.repo_id,
                folder_path=opened.model_folder,
                commit_message=f"A model fine-tuned with LEFF ({name})",
            )
    except (HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{repository} was not uploaded: {reason}; `hf auth login` sets the account"
        ) from None
    return str(made)
