"""What is registered and what shall be: GENOME's word goes before ENGRAM's objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemos.engram.errors import BucketNotFoundError
from mnemos.genome.errors import ModelConflictError

from ..errors import Conflict
from ..output import ago, note, size
from .registry import GenomeClient, find_model, told_plainly

if TYPE_CHECKING:
    from mnemos.engram.store import ObjectStore


class Published(NamedTuple):
    """A model that is registered; `fresh` is False when it already was."""

    model: dict[str, Any]
    fresh: bool


def digest_of(model: Mapping[str, Any]) -> str:
    """The digest of a registered model's files, "sha256:<hex>"."""
    return str(model["artifact"]["checksum"])


def check_free(known: Mapping[str, Any], digest: str, *, replace: bool) -> None:
    """Raise Conflict if the version is registered with other files and nobody said --replace."""
    if digest_of(known) != digest and not replace:
        raise _conflict(known, digest)


def tell_what_is_replaced(known: Mapping[str, Any], digest: str) -> None:
    """Say out loud which files lose their name."""
    name = f"{known['family']}:{known['version']}"
    if digest_of(known) == digest:
        note(f"--replace: {name} has these very files; they are sent again, and described anew.")
        return
    what = f"{len(known['files'])} files, {size(known['artifact']['size_bytes'])}"
    note(
        f"--replace: {name} was {digest_of(known)} ({what}, registered {ago(known['created_at'])}) "
        f"and becomes {digest}. Workers that hold the old files keep them until the model is "
        "loaded again; `mnemos models prune` removes them from ENGRAM a day from now."
    )


async def register(
    genome: GenomeClient, store: ObjectStore, body: Mapping[str, Any], *, replace: bool
) -> Published:
    """Register a model whose files are uploaded. Raises CliError.

    Where somebody else registered the version meanwhile, with other files, their objects stay
    untouched and ours are removed.
    """
    try:
        with told_plainly(ModelConflictError):
            done = await genome.register(body, replace=replace)
    except ModelConflictError as error:
        return await _give_way(genome, store, body, error)
    return Published(done.model.model_dump(mode="json"), fresh=True)


async def _give_way(
    genome: GenomeClient, store: ObjectStore, body: Mapping[str, Any], error: ModelConflictError
) -> Published:
    known = await find_model(genome, body["family"], body["version"])
    digest = digest_of(body)
    if known is not None and digest_of(known) == digest:
        return Published(known, fresh=False)
    with told_plainly():
        await store.delete_prefix(body["artifact"]["bucket"], body["artifact_path"])
    if known is None:
        raise Conflict(error.message) from error
    raise _conflict(known, digest) from error


def _conflict(known: Mapping[str, Any], digest: str) -> Conflict:
    return Conflict(
        f"{known['family']}:{known['version']} is registered with other files: "
        f"{digest_of(known)}, not {digest}.",
        hint="choose another version, or take the place of this one with --replace",
    )


async def complete(store: ObjectStore, model: Mapping[str, Any]) -> bool:
    """Whether ENGRAM holds every file of a registered model, by size. Raises CliError."""
    artifact = model["artifact"]
    with told_plainly():
        try:
            listed = await store.list(artifact["bucket"], artifact["path"])
        except BucketNotFoundError:
            return False
    held = {info.key: info.size for info in listed}
    return all(
        held.get(f"{artifact['path']}/{file['path']}") == file["size"] for file in model["files"]
    )
