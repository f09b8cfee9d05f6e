"""Which versions of a model and of adapters a submitted job means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mnemos.http import ApiError, invalid_input, unavailable

from ..genome_lookup import (
    CatalogModel,
    CatalogUnavailableError,
    ModelCatalog,
    ModelUnknownError,
)
from .schemas import ModelChoice

ECHO = "echo"
"""The runtime that measures the path alone: it runs no model, so the catalogue has none for it."""
ECHO_VERSION = "1"


async def resolve(model: ModelChoice, catalog: ModelCatalog | None) -> CatalogModel:
    """Return the version of a model that a job means, with the runtime it is to run on.

    A tag is followed here, so that a retry runs the same version. The catalogue's settings come
    with it where that runtime is the model's own. A job that names everything goes through while
    the catalogue is away. Raises ApiError.
    """
    if model.runtime == ECHO:
        return CatalogModel(model.family, model.version or ECHO_VERSION, ECHO)
    given = None
    if model.version is not None and model.runtime is not None:
        given = CatalogModel(model.family, model.version, model.runtime)
    if catalog is None:
        if given is None:
            missing = "model.version" if model.version is None else "model.runtime"
            raise invalid_input(
                f"{missing}: must be given, because this CORTEX has no GENOME to ask.", missing
            )
        return given
    version = None if model.version == "latest" else model.version
    try:
        known = await catalog.find(model.family, version)
    except ModelUnknownError as error:
        raise ApiError(404, "model_not_found", error.message, "model") from error
    except CatalogUnavailableError as error:
        if given is not None and version is not None:
            return given
        raise unavailable(f"{error.message} Give model.version and model.runtime.") from error
    if model.runtime in (None, known.runtime):
        return known
    return replace(known, runtime=model.runtime, runtime_config={})


async def name_adapters(names: Sequence[str], catalog: ModelCatalog | None) -> dict[str, str]:
    """Return the versions that adapters' tags stand for, by the names that have one.

    Raises ApiError 404 for an adapter that is not registered; without a catalogue none is.
    """
    if catalog is None:
        return {}
    meant = {}
    for name in names:
        family, _, version = name.partition(":")
        try:
            known = await catalog.find(family, version)
        except ModelUnknownError as error:
            message = f"The adapter {name} is not registered: {error.message}"
            raise ApiError(404, "model_not_found", message, "input.parameters.adapter") from error
        except CatalogUnavailableError:
            continue  # the worker will find out
        meant[name] = f"{known.family}:{known.version}"
    return {name: told for name, told in meant.items() if told != name}
