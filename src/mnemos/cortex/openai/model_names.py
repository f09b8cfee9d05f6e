"""Names of models as OpenAI's clients give them."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from mnemos.http import ApiError

from ..api.schemas import Name

_NAME = TypeAdapter(Name)


def split_name(name: str) -> tuple[str, str | None]:
    """Return the family, and the version or tag of `family:version`.

    A name that no model can have is a name of nothing. Raises ApiError.
    """
    family, _, version = name.partition(":")
    try:
        return _NAME.validate_python(family), _NAME.validate_python(version) if version else None
    except ValidationError as error:
        raise unknown_model(name) from error


def unknown_model(name: str) -> ApiError:
    """A 404."""
    return ApiError(404, "model_not_found", f"There is no model {name}.", "model")
