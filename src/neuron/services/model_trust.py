"""Which models this worker takes: signed ones, if its operator says so, and pickles only if."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from mnemos.engram.errors import EngramError, MissingExtraError, SigningKeyError
from mnemos.engram.errors import UntrustedModelError as NobodyVouchesError
from mnemos.engram.manifest import ManifestFile
from mnemos.engram.signing import SignedFile, check_public_keys, verify_manifest

from ..errors import ConfigurationError, InvalidInputError, UntrustedModelError

logger = structlog.get_logger(__name__)

PICKLE = "pickle"


class ModelTrust:
    """Judges a model by what GENOME says of it, before anything of it is downloaded or run.

    Models that are in the cache already are judged as well: whoever put them there may have
    trusted others.
    """

    def __init__(
        self, *, allow_pickle: bool, require_signatures: bool, keys: Sequence[Path]
    ) -> None:
        """Reads the keys where signatures are required. Blocks.

        Raises:
            ConfigurationError: signatures are required, and no key or no package can judge them.
        """
        self._allow_pickle = allow_pickle
        self._required = require_signatures
        self._keys = tuple(keys)
        self._vouched: dict[str, str] = {}
        if require_signatures:
            try:
                check_public_keys(self._keys)
            except (SigningKeyError, MissingExtraError) as error:
                raise ConfigurationError(f"NEURON_SIGNATURE_KEYS: {error.message}") from error
            logger.info("signatures_required", keys=[str(key) for key in self._keys])
        elif keys:
            logger.warning("signatures_not_required", hint="NEURON_REQUIRE_SIGNATURES is not set")

    async def judge(
        self,
        model: str,
        metadata: Mapping[str, Any],
        files: Iterable[ManifestFile],
        digest: str,
    ) -> None:
        """Return if this worker takes the model, `family:version`, with these files.

        Raises:
            InvalidInputError: it is a pickle.
            UntrustedModelError: no trusted key vouches for it.
        """
        artifact = metadata.get("artifact")
        if (
            isinstance(artifact, Mapping)
            and artifact.get("format") == PICKLE
            and not self._allow_pickle
        ):
            raise InvalidInputError(
                f"{model} is a pickle, which can run any code when it is loaded "
                "(this worker's operator can allow pickles with NEURON_ALLOW_PICKLE=true)"
            )
        if not self._required or self._vouched.get(model) == digest:
            return
        bundle = metadata.get("signature")
        signed = [SignedFile(file.path, file.sha256) for file in files]
        try:
            await asyncio.to_thread(
                verify_manifest,
                signed,
                model,
                bundle if isinstance(bundle, Mapping) else None,
                self._keys,
            )
        except EngramError as error:
            logger.error("model_not_trusted", model=model, error=error.message)
            reason = error.message.rstrip(".")
            if isinstance(error, NobodyVouchesError):
                raise UntrustedModelError(
                    f"{reason}, and this worker takes only models that its keys vouch for"
                ) from error
            raise ConfigurationError(f"NEURON_SIGNATURE_KEYS: {reason}") from error
        self._vouched[model] = digest

    def takes_cached(self, model: str, digest: str) -> bool:
        """Whether a model in the cache may be used while GENOME cannot be asked."""
        return not self._required or self._vouched.get(model) == digest
