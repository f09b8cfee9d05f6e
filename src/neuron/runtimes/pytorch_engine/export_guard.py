"""Looks into a torch.export archive before torch.export.load does, which trusts it wholly.

The loader unpickles what the archive says is pickled, evaluates its shape expressions and guards
as Python, imports modules that its tree specs name, and resolves operators by name, among them
ones that write files. So an archive may hold plain tensors, known operators and arithmetic only;
anything else is left to the worker's operator.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...errors import ArtifactCorruptError, InvalidInputError
from ..base import EngineSettings

_CODE = "NEURON_ALLOW_REMOTE_CODE"
_PICKLE = "NEURON_ALLOW_PICKLE"
_WORD = re.compile(r"[\w.:+\-]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision|torchaudio)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(sym_\w+|_sym_\w+)|_operator\.(?!attrgetter|methodcaller|call)\w+|math\.\w+",
    re.ASCII,
)
_TOUCHES_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b")
_SYMBOLIC = re.compile(
    r"Symbol|Integer|Float|Rational|Max|Min|Mod|Abs|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Pow|floor|ceiling"
    r"|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift"
    r"|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|IsNonOverlappingAndDenseIndicator|TruncToFloat"
    r"|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|Add|Mul|Equality|Unequality|LessThan"
    r"|GreaterThan|StrictLessThan|StrictGreaterThan|Infinity|NegativeInfinity|Boolean(True|False)"
)
_TENSOR_FACTS = frozenset({"size", "shape", "dim", "ndim", "stride", "storage_offset", "numel"})
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.Subscript,
)  # fmt: skip
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_FREE_TEXT = frozenset({"metadata", "as_string", "as_strings"})
"""Only ever text: stack traces, and arguments such as "mean"."""
_STRICT = frozenset({"target", "expr_str", "guards_code", "in_spec", "out_spec"})


class _RefusedError(Exception):
    def __init__(self, what: str, setting: str) -> None:
        super().__init__(what)
        self.setting = setting


class _NotPlainError(Exception):
    """A type that torch.export.load could not rebuild from data."""


def check_exported(path: Path, model: str, settings: EngineSettings) -> None:
    """Let an archive pass that holds data only, or what the operator allows. Blocks.

    Raises:
        InvalidInputError: it holds more; the sentence names the operator's setting.
        ArtifactCorruptError: it cannot be read.
    """
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        _Archive(reader, settings).check()
    except _RefusedError as refusal:
        raise InvalidInputError(
            f"the torch.export archive of {model} {refusal}, which this worker does not accept "
            f"(its operator can with {refusal.setting}=true)"
        ) from refusal
    except _NotPlainError as error:
        raise InvalidInputError(
            f"{model} takes or answers with a {error}: export it again with tensors, tuples, lists "
            "and dicts only"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactCorruptError(
            f"the torch.export archive of {model} cannot be read: {error}"
        ) from error


class _Archive:
    def __init__(self, reader: Any, settings: EngineSettings) -> None:
        self._reader = reader
        self._settings = settings
        self._names: list[str] = reader.get_all_records()

    def check(self) -> None:
        if "models/model.json" not in self._names:
            raise ValueError("it holds no models/model.json; export it with torch 2.8 or newer")
        for name in self._names:
            self._check_member(name)

    def _check_member(self, name: str) -> None:
        if name.startswith(("data/aotinductor/", "data/executorch/")):
            self._code("holds compiled code")
        elif name.startswith("data/sample_inputs/"):
            self._check_sample_inputs(self._reader.get_record(name))
        elif name.startswith("models/"):
            self._check_program(json.loads(self._reader.get_record(name)))
        elif name.startswith(("data/weights/", "data/constants/")) and name.endswith(".json"):
            self._check_payload(json.loads(self._reader.get_record(name)))

    def _check_sample_inputs(self, data: bytes) -> None:
        """Torch falls back to a full unpickling where this fails, so it must not fail."""
        if not data:
            return
        try:
            torch.load(io.BytesIO(data), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            if not self._settings.allow_pickle:
                raise _RefusedError("has pickled objects as sample inputs", _PICKLE) from error

    def _check_payload(self, payload: dict[str, Any]) -> None:
        for name, entry in payload["config"].items():
            path = str(entry["path_name"])
            if path.startswith(("custom_obj_", "opaque_obj_")):
                self._code(f"holds the custom object {name!r}")
            if entry.get("use_pickle") and not self._settings.allow_pickle:
                raise _RefusedError(f"holds {name!r} as a pickle", _PICKLE)
            if not _WORD.fullmatch(path):
                raise ValueError(f"the file name {path!r}")

    def _check_program(self, program: dict[str, Any]) -> None:
        if program["graph_module"]["graph"].get("custom_obj_values"):
            self._code("holds custom objects")
        for key, value in _leaves(program):
            if not self._is_plain(key, value):
                self._code(f"has the {key or 'text'} {value[:80]!r}")

    def _is_plain(self, key: str, text: str) -> bool:
        match key:
            case "target":
                return bool(_OPERATOR.fullmatch(text)) and not _TOUCHES_FILES.match(text)
            case "expr_str":
                return is_arithmetic(text)
            case "guards_code":
                return is_arithmetic(text, guard=True)
            case "in_spec" | "out_spec":
                return not text or self._is_plain_tree(json.loads(text))
            case "free":
                return True
            case _:
                return bool(_WORD.fullmatch(text))

    def _is_plain_tree(self, tree: Any) -> bool:
        """Whether a tree spec is made of tuples, lists and dicts with plain keys."""
        if isinstance(tree, list):
            return all(isinstance(part, int) or self._is_plain_tree(part) for part in tree)
        kind = tree["type"]
        if kind not in _TREES:
            raise _NotPlainError(str(kind)[:100])
        keys = json.loads(tree["context"] or "null") or []
        return (
            isinstance(keys, list)
            and all(isinstance(key, str) and _WORD.fullmatch(key) for key in keys)
            and all(self._is_plain_tree(child) for child in tree["children_spec"])
        )

    def _code(self, what: str) -> None:
        if not self._settings.allow_remote_code:
            raise _RefusedError(what, _CODE)


def _leaves(value: Any, key: str = "", *, free: bool = False) -> Iterator[tuple[str, str]]:
    """Every text of a JSON document with what it is, and every key as a name.

    A tensor may be called "metadata", so what is dangerous anywhere is strict everywhere.
    """
    if isinstance(value, str):
        yield ("free" if free and key not in _STRICT else key), value
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key, free=free)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield "name", name
            yield from _leaves(item, name, free=free or name in _FREE_TEXT)


@lru_cache(maxsize=4096)
def is_arithmetic(text: str, *, guard: bool = False) -> bool:
    """Whether an expression can do nothing but count and compare.

    A guard also names its tensors: L['x'].size()[0].
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if not _is_known_call(node):
                return False
            allowed |= {*_symbol_name(node)}
        elif isinstance(node, ast.Subscript):
            allowed |= {*_plain_text(node.slice)} if guard else set()
        elif isinstance(node, ast.Attribute):
            if node.attr not in _TENSOR_FACTS:
                return False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node not in allowed:
                return False
        elif isinstance(node, ast.Name):
            if node.id.startswith("__"):
                return False
        elif not isinstance(node, _ARITHMETIC):
            return False
    return True


def _is_known_call(node: ast.Call) -> bool:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in _TENSOR_FACTS
    return isinstance(node.func, ast.Name) and bool(_SYMBOLIC.fullmatch(node.func.id))


def _symbol_name(node: ast.Call) -> list[ast.AST]:
    """The text in Symbol('s0') or Float('1.5'); no other may stand in an expression."""
    named = isinstance(node.func, ast.Name) and node.func.id in {"Symbol", "Float", "Integer"}
    if not named or not node.args:
        return []
    return _plain_text(node.args[0])


def _plain_text(node: ast.AST) -> list[ast.AST]:
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return []
    return [node] if re.fullmatch(r"-?[\w.]+", node.value, re.ASCII) else []
