"""From a job's input to a row that the batcher can run."""

from __future__ import annotations

import secrets

from ...errors import InvalidInputError
from ...models.job import JobInput, ResumeState
from ...models.sampling import SamplingParameters
from .guide import GuideMaker
from .loading import LoadedCheckpoint
from .prompt import PromptBuilder, check_tokens
from .row import Row
from .tokens import Tokens


class RowMaker:
    """Knows what the model can be asked; one thread at a time."""

    def __init__(self, checkpoint: LoadedCheckpoint, tokens: Tokens, name: str) -> None:
        self._checkpoint = checkpoint
        self._tokens = tokens
        self._name = name
        self._prompts = PromptBuilder(
            checkpoint.tokenizer,
            name,
            checkpoint.context_tokens,
            checkpoint.vocabulary,
            checkpoint.tool_parser,
        )
        self._guides = GuideMaker(
            checkpoint.tokenizer, name, checkpoint.vocabulary, checkpoint.end_tokens
        )

    def make(self, job_input: JobInput, resume: ResumeState | None) -> Row:
        """Tokenize and check a request; blocks. A guided answer begins anew, `resume` or not.

        Raises:
            InvalidInputError: the model cannot be asked this.
        """
        parameters = job_input.sampling
        self._check(parameters)
        prompt = self._prompts.build(job_input)
        room = self._checkpoint.context_tokens - len(prompt)
        return Row(
            prompt,
            parameters,
            max_tokens=min(parameters.max_tokens, room),
            end_tokens=self._checkpoint.end_tokens,
            seed=secrets.randbits(63) if parameters.seed is None else parameters.seed,
            tokenizer=self._tokens.with_calls if parameters.tools else self._tokens,
            resume=None if parameters.is_guided else resume,
            target=self._target(parameters, room),
            guide=self._guides.make(parameters),
            scored=parameters.logprobs is not None or parameters.target is not None,
        )

    def text_of(self, prompt: list[int]) -> str:
        """The text of a prompt that was given as tokens."""
        return self._prompts.text_of(prompt)

    def _check(self, parameters: SamplingParameters) -> None:
        check_tokens(parameters, self._name, self._checkpoint.vocabulary)
        if parameters.adapter is not None:
            raise InvalidInputError(
                "adapter: LoRA adapters run on the vllm runtime; load the model there, or leave "
                "adapter out"
            )

    def _target(self, parameters: SamplingParameters, room: int) -> list[int] | None:
        if parameters.target is None:
            return None
        tokens: list[int] = self._checkpoint.tokenizer.encode(
            parameters.target, add_special_tokens=False
        )
        if not tokens:
            raise InvalidInputError("target: the text has no tokens")
        if len(tokens) > room:
            context = self._checkpoint.context_tokens
            raise InvalidInputError(
                f"the target has {len(tokens)} tokens, and beside the prompt's {context - room} "
                f"{self._name} reads {room} more: shorten the prompt or the target",
                context_tokens=context,
            )
        return tokens
