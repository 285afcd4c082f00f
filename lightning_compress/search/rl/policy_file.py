"""A learned policy in a file: its tensors (safetensors), with the kind of the policy and the schema of its features.

Features mean the same for every network, so a policy learned on one network can start a search on another. A policy of
another schema would read them wrongly, and is refused. A policy helps where layers of the same kind and depth are alike
in how much they bear; one that had not learned much, or had settled on a poor plan, holds the new search back
(``python benchmarks/transfer.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError
from lightning_compress.search.rl.features import COLUMNS, SCHEMA

NAME = "policy.safetensors"


def save_policy(folder: str | Path, kind: str, policy: nn.Module) -> Path:
    """Write ``policy.safetensors`` into a folder.

    Args:
        folder: is made where it is missing.
        kind: what the policy is; :func:`load_policy` accepts the same kind only.
        policy: whose tensors are written.

    Returns:
        The file.

    Raises:
        CompressError: it cannot be written.
    """
    path = Path(folder) / NAME
    tensors = {key: value.detach().contiguous() for key, value in policy.state_dict().items()}
    said = {"kind": kind, "features": str(SCHEMA), "columns": " ".join(COLUMNS)}
    try:
        with atomic_write(path) as part:
            save_file(tensors, part, {**said, "digest": _digest(said, tensors)})
    except (OSError, SafetensorError) as error:
        raise CompressError(f"policy: {str(path)!r} cannot be written ({error})") from error
    return path


def of_stage(path: str | Path, stage: str) -> Path:
    """Return where the policy for a stage is: in a run's folder that stage's folder, else the path itself.

    Args:
        path: as a user says it: of a run, of one of its stages, or of a policy file.
        stage: name of the stage.
    """
    inside = Path(path) / stage
    return inside if inside.is_dir() else Path(path)


def load_policy(path: str | Path, kind: str, policy: nn.Module) -> None:
    """Put the tensors of a file into a policy.

    Args:
        path: the file, or the folder that holds it.
        kind: what the policy is; a file of another kind is refused.
        policy: gets the tensors, in place.

    Raises:
        CompressError: there is no such file, it holds no policy or one of another kind, other features or another
            shape, it is damaged, or has values that are not finite.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CompressError(
            f"warm_start: there is no policy {str(file)!r}. A search writes {NAME} into its stage's folder "
            f"when it ends, if its searcher learns one: give RUN_DIR if it has a stage of that name, or RUN_DIR/STAGE"
        )
    try:
        with safe_open(file, "pt") as opened:
            found = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CompressError(f"warm_start: {str(file)!r} is no policy file ({error})") from error
    if not found.keys() >= {"kind", "features", "columns"}:
        raise CompressError(f"warm_start: {str(file)!r} holds tensors, but no policy; expected a {NAME} of a search")
    if found["kind"] != kind:
        raise CompressError(
            f"warm_start: {str(file)!r} is a policy of {found['kind']}, this searcher is {kind}; "
            f"choose the searcher that learned it"
        )
    if found["features"] != str(SCHEMA):
        raise CompressError(
            f"warm_start: {str(file)!r} was learned on features of schema {found['features']}, now they have schema "
            f"{SCHEMA}; run the search that made it again"
        )
    columns = found.get("columns", "").split()
    if columns != list(COLUMNS):
        raise CompressError(
            f"warm_start: {str(file)!r} was learned on the features {columns}, now they are {list(COLUMNS)}; run the "
            f"search that made it again"
        )
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise CompressError(
            f"warm_start: {broken[0]!r} of {str(file)!r} has values that are not finite; run the search that made it "
            f"again, or start without it"
        )
    if found.pop("digest", None) != _digest(found, tensors):
        raise CompressError(
            f"warm_start: {str(file)!r} is damaged: its values are not those that were written; run the search that "
            f"made it again, or start without it"
        )
    own = {key: tuple(value.shape) for key, value in policy.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in tensors.items()}
    if own != theirs:
        key = next(key for key in sorted({*own, *theirs}) if own.get(key) != theirs.get(key))
        raise CompressError(
            f"warm_start: {key!r} of {str(file)!r} has shape {theirs.get(key)}, here it has {own.get(key)}; "
            f"give the searcher the sizes it was learned with"
        )
    policy.load_state_dict(tensors)


def _digest(said: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    return digest_of([sorted(said.items()), sorted(tensors.items())])
