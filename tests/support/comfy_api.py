"""The part of ComfyUI that the nodes meet: the V3 interface, and how lists run through a node.

A stand-in with the published names, parameters and rules, stricter than the original where that
shows a mistake: an unknown parameter or an output of the wrong kind fails.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class Slot:
    kind: type

    def __init__(self, id: str, display_name: str | None = None) -> None:
        self.id, self.display_name = id, display_name or id


class Input(Slot):
    def __init__(
        self, id: str, display_name: str | None = None, *, tooltip: str | None = None
    ) -> None:
        super().__init__(id, display_name)


class Widget(Input):
    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        *,
        tooltip: str | None = None,
        default: Any = None,
    ) -> None:
        super().__init__(id, display_name, tooltip=tooltip)
        assert isinstance(default, self.kind), f"{id}: {default!r} is no {self.kind.__name__}"
        self.default = default


class Number(Widget):
    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        *,
        tooltip: str | None = None,
        default: Any = None,
        min: Any = None,
        max: Any = None,
        step: Any = None,
    ) -> None:
        super().__init__(id, display_name, tooltip=tooltip, default=default)
        assert min <= default <= max


class Output(Slot):
    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        *,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        super().__init__(id, display_name)
        self.is_output_list = is_output_list


def comfy_type(name: str, kind: type, given: type[Input]) -> SimpleNamespace:
    """Return a type of ComfyUI with its `Input` and `Output`."""
    return SimpleNamespace(
        Input=type(f"{name}.Input", (given,), {"kind": kind}),
        Output=type(f"{name}.Output", (Output,), {"kind": kind}),
    )


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    description: str = ""

    def validate(self) -> None:
        for slots in (self.inputs, self.outputs):
            ids = [slot.id for slot in slots]
            assert len(ids) == len(set(ids)), f"{self.node_id}: ids are not unique: {ids}"


class ComfyNode(ABC):
    @classmethod
    @abstractmethod
    def define_schema(cls) -> Schema: ...

    @classmethod
    @abstractmethod
    def execute(cls, **inputs: Any) -> NodeOutput: ...


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...


class ExecutionBlocker:
    """A value in place of an output: nodes that are given it do not run and pass it on."""

    def __init__(self, message: str | None) -> None:
        self.message = message


IO = SimpleNamespace(
    Image=comfy_type("Image", torch.Tensor, Input),
    Float=comfy_type("Float", float, Number),
    Int=comfy_type("Int", int, Number),
    String=comfy_type("String", str, Widget),
    Schema=Schema,
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """Load a folder of nodes as ComfyUI does, with this stand-in in its place."""
    modules = {
        "comfy_api": ModuleType("comfy_api"),
        "comfy_api.latest": SimpleNamespace(ComfyExtension=ComfyExtension, io=IO),
        "comfy_execution": ModuleType("comfy_execution"),
        "comfy_execution.graph": SimpleNamespace(ExecutionBlocker=ExecutionBlocker),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(
        "custom_nodes.ma-agiqa",
        folder / "__init__.py",
        submodule_search_locations=[str(folder)],
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, pack)
    spec.loader.exec_module(pack)
    return pack


def run(node: type[ComfyNode], **given: list[Any]) -> list[list[Any]]:
    """Run a node as the executor does; inputs and outputs are lists, of one value as a rule.

    It runs once for each element of the longest list, the last element of shorter ones repeated;
    the results of an output are joined, those of a list output end to end.
    """
    schema = node.define_schema()
    schema.validate()
    assert list(inspect.signature(node.execute).parameters) == [one.id for one in schema.inputs]
    defaults = {one.id: [one.default] for one in schema.inputs if isinstance(one, Widget)}
    values = defaults | given
    assert set(values) == {one.id for one in schema.inputs}
    results: list[list[Any]] = [[] for _ in schema.outputs]
    for index in range(max(map(len, values.values()))):
        inputs = {name: each[index if index < len(each) else -1] for name, each in values.items()}
        blocker = next((v for v in inputs.values() if isinstance(v, ExecutionBlocker)), None)
        if blocker is not None:
            for result in results:
                result.append(blocker)
            continue
        output = node.execute(**inputs).args
        for slot, value, result in zip(schema.outputs, output, results, strict=True):
            many = slot.is_output_list and not isinstance(value, ExecutionBlocker)
            result.extend(value if many else [value])
            for one in value if many else [value]:
                check(one, slot)
    return results


def check(value: Any, slot: Output) -> None:
    if isinstance(value, ExecutionBlocker):
        return
    assert isinstance(value, slot.kind), f"{slot.id}: {type(value).__name__}"
    if slot.kind is torch.Tensor:
        assert value.ndim == 4
        assert len(value) > 0, "an empty batch, which most nodes do not take"
        assert value.dtype == torch.float32
