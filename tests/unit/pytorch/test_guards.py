"""What an archive may hold, before torch trusts it with everything."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_torch
import torch

from neuron.errors import ArtifactCorruptError, InvalidInputError
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.pytorch_engine.export_guard import check_exported, is_arithmetic
from neuron.runtimes.pytorch_engine.script_guard import check_script, is_script

Program = dict[str, Any]


class Bomb:
    """Leaves a proof when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (Path.touch, (self.proof,))


def settings(**allowed: bool) -> EngineSettings:
    return EngineSettings(model_cache_dir=Path("nowhere"), **allowed)


def graph(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = program["graph_module"]["graph"]
    return found


def test_good_archives_pass_and_load(exported: Path, script: Path) -> None:
    check_exported(exported, "m:1", settings())
    torch.export.load(str(exported))
    assert is_script(script)
    check_script(script, "m:1", settings())


@pytest.mark.parametrize(
    "target",
    ["torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.load", "torch.hub",
     "torch.ops.load_library", "torch.ops.evil.run.default", "_operator.methodcaller",
     "_operator.attrgetter", "#evil:run", "os.system", "torch.ops.higher_order.run_const_graph"],
)  # fmt: skip
def test_unknown_operators_are_the_operators_decision(exported: Path, target: str) -> None:
    def change(program: Program) -> None:
        graph(program)["nodes"][0]["target"] = target

    tiny_torch.rewrite_program(exported, change)
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE=true") as caught:
        check_exported(exported, "m:1", settings())
    assert target in caught.value.message
    check_exported(exported, "m:1", settings(allow_remote_code=True))


def _in_a_shape(program: Program, text: str) -> None:
    for tensor in graph(program)["tensor_values"].values():
        tensor["sizes"][0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}


def _in_a_tensor_called_metadata(program: Program, text: str) -> None:
    values = graph(program)["tensor_values"]
    values["metadata"] = json.loads(json.dumps(values["input_ids"]))
    values["metadata"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}


def _in_a_guard(program: Program, text: str) -> None:
    program["guards_code"] = [text]


def _in_a_name(program: Program, text: str) -> None:
    graph(program)["inputs"][-1] = {"as_tensor": {"name": text}}


def _in_a_key(program: Program, text: str) -> None:
    graph(program)["tensor_values"][text] = {}


def _in_a_tree_key(program: Program, text: str) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "builtins.dict", "context": json.dumps([text]), "children_spec": [leaf]}
    signature["out_spec"] = json.dumps([1, tree])


@pytest.mark.parametrize(
    "place",
    [_in_a_shape, _in_a_tensor_called_metadata, _in_a_guard, _in_a_name, _in_a_key, _in_a_tree_key],
)
def test_python_hides_nowhere(
    exported: Path, tmp_path: Path, evil: Callable[[], str], place: Callable[[Program, str], None]
) -> None:
    tiny_torch.rewrite_program(exported, lambda program: place(program, evil()))
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE"):
        check_exported(exported, "m:1", settings())
    assert not (tmp_path / "code-ran").exists()


def test_the_danger_is_real(exported: Path, tmp_path: Path, evil: Callable[[], str]) -> None:
    """Were the guard not there, torch would run it; when torch stops, the guard may go."""
    tiny_torch.rewrite_program(exported, lambda program: _in_a_shape(program, evil()))
    with pytest.raises(Exception):  # noqa: B017, PT011 -- what it raises is torch's affair
        torch.export.load(str(exported))
    assert (tmp_path / "code-ran").exists()


def test_a_tree_that_imports_modules_is_refused(exported: Path) -> None:
    def change(program: Program) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps({"__enum__": True, "fqn": "antigravity:X", "name": "Y"})
        tree = {"type": "builtins.dict", "context": context, "children_spec": []}
        signature["in_spec"] = json.dumps([1, tree])

    tiny_torch.rewrite_program(exported, change)
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE"):
        check_exported(exported, "m:1", settings())


def test_a_tree_of_foreign_types_says_how_to_export(exported: Path) -> None:
    def change(program: Program) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        tree = {"type": "some.ModelOutput", "context": "null", "children_spec": []}
        signature["out_spec"] = json.dumps([1, tree])

    tiny_torch.rewrite_program(exported, change)
    with pytest.raises(InvalidInputError, match=r"some\.ModelOutput: export it again"):
        check_exported(exported, "m:1", settings())


def test_pickled_sample_inputs_are_not_unpickled(exported: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Bomb(tmp_path / "code-ran"),), buffer)

    def change(name: str, data: bytes) -> bytes:
        return buffer.getvalue() if name.startswith("data/sample_inputs/") else data

    tiny_torch.rewrite_archive(exported, change)
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_PICKLE=true"):
        check_exported(exported, "m:1", settings())
    assert not (tmp_path / "code-ran").exists()
    check_exported(exported, "m:1", settings(allow_pickle=True))


@pytest.mark.parametrize(
    ("entry", "setting"),
    [({"use_pickle": True}, "PICKLE"), ({"path_name": "opaque_obj_0"}, "REMOTE_CODE"),
     ({"path_name": "custom_obj_0"}, "REMOTE_CODE")],
)  # fmt: skip
def test_payloads_are_plain_tensors(exported: Path, entry: dict[str, Any], setting: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.startswith("data/weights/") or not name.endswith(".json"):
            return data
        payload = json.loads(data)
        next(iter(payload["config"].values())).update(entry)
        return json.dumps(payload).encode()

    tiny_torch.rewrite_archive(exported, change)
    with pytest.raises(InvalidInputError, match=f"NEURON_ALLOW_{setting}"):
        check_exported(exported, "m:1", settings())


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_a_damaged_archive_is_named_as_such(exported: Path, script: Path, kept: int) -> None:
    for path, check in ((exported, check_exported), (script, check_script)):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ArtifactCorruptError, match="archive of m:1 cannot be read"):
            check(path, "m:1", settings())


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("Symbol('s77', positive=True, integer=True)", False),
        ("Mul(Integer(8), Symbol('s70', positive=True))", False),
        ("Mul(Float('1.5', precision=53), ToFloat(Symbol('s7')))", False),
        ("2*s0 + FloorDiv(s1, 2)", False),
        ("L['x'].size()[1] == 4", True),
        ("L['x'].size()[0] >= 2 and Mod(L['x'].size()[0], 2) == 0", True),
    ],
)
def test_arithmetic_is_arithmetic(text: str, guard: bool) -> None:
    assert is_arithmetic(text, guard=guard)


@pytest.mark.parametrize(
    "text",
    [
        "", "1;2", "sympify('1')", "Lambda(x, 1)(2)", "open('f')", "Symbol('s\\'+evil')",
        "().__class__", "L['x'].__class__", "L['x'].size().__class__", "[1 for x in y]",
        "(lambda: 1)()", "__import__('os')", "f'{1}'", "Symbol(sympify('1'))", "eval('1')",
        "'text'", "x.system('ls')", "L['a\"b']", "b'1'()", "S('1')", "*x",
    ],
)  # fmt: skip
def test_what_can_do_more_is_no_arithmetic(text: str) -> None:
    assert not is_arithmetic(text)
    assert not is_arithmetic(text, guard=True)


def test_script_that_writes_files_is_the_operators_decision(tmp_path: Path) -> None:
    tiny_torch.write_script(tmp_path, tiny_torch.FileWriter(str(tmp_path / "proof")))
    with pytest.raises(InvalidInputError, match=r"calls save.*NEURON_ALLOW_REMOTE_CODE=true"):
        check_script(tmp_path / "model.pt", "m:1", settings())
    check_script(tmp_path / "model.pt", "m:1", settings(allow_remote_code=True))


@pytest.mark.parametrize(
    "call",
    ["torch.save(x, p)", "torch . from_file\\\n(p)", "(x).save(p)", "ops.aten.save(x, p)",
     "ops.evil.run(x)", "ops . evil.run(x)", "__torch__.torch.classes.evil.Thing.run(x)"],
)  # fmt: skip
def test_script_that_calls_more_than_it_may(script: Path, call: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data + f"\n# {call}".encode() if name.endswith("tiny_torch.py") else data

    check_script(script, "m:1", settings())
    tiny_torch.rewrite_archive(script, change)
    with pytest.raises(InvalidInputError, match="which this worker does not let a model do"):
        check_script(script, "m:1", settings())


def test_what_torch_save_writes_is_no_script(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    assert not is_script(tmp_path / "model.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    assert not is_script(tmp_path / "old.pt")
