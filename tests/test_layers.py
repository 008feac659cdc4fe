"""The import graph of model/ and service/: no cycles, and packages import in one direction."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Packages of the service, each of which may import only those after it.
LAYERS = (
    "cli", "commands", "bench", "processes", "ray_serve", "app", "lifespan", "server", "http",
    "grpc_api", "observability", "engine_link", "streaming", "open_inference", "classification",
    "decoding", "inference", "device_link", "keys", "runtime", "settings_messages", "settings",
    "client",
)  # fmt: skip
#: Modules that every package may import, since they import none themselves.
LEAVES = {
    "service.classification.options",
    "service.classification.upload_fields",
    "service.engine_link.blocks",
    "service.engine_link.outputs",
    "service.runtime.daemon_thread",
    "service.server.connections",
}
#: The package that is a distribution of its own as well: its modules import each other relatively.
CLIENT = "service.client"
#: What a package of the model may import, beside itself and the modules directly in model/.
MODEL_IMPORTS = {
    "media": set(),
    "preprocess": {"media"},
    "network": set(),
    "fused": {"network"},
    "engine": {"network", "fused", "preprocess"},
    "checkpoint": {"network", "preprocess"},
    "explain": {"network", "preprocess"},
    "export": {"network", "checkpoint", "preprocess"},
    "training": {"network", "engine", "checkpoint", "preprocess", "media", "explain"},
}


def _modules() -> dict[str, Path]:
    """The files of model/ and service/ by module name, but what `pip install ./service/client`
    leaves behind."""
    files = [f for package in ("model", "service") for f in (ROOT / package).rglob("*.py")]
    files = [f for f in files if not f.is_relative_to(ROOT / "service" / "client" / "build")]
    parts = {file: file.relative_to(ROOT).with_suffix("").parts for file in files}
    return {
        ".".join(names[:-1] if names[-1] == "__init__" else names): file
        for file, names in parts.items()
    }


MODULES = _modules()


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import of a module, in functions as well, but none for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from statements(child)


def imported_names(text: str, package: str = "") -> set[str]:
    """Modules that Python code imports: ours by their full names.

    Relative imports are those of the client alone, `package`: it is a distribution of its own.
    """
    names = set()
    for statement in statements(ast.parse(text)):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
            continue
        module = statement.module or ""
        if statement.level:
            assert (package, statement.level) == (CLIENT, 1), "a relative import"
            module = f"{package}.{module}".rstrip(".")
        for alias in statement.names:
            full = f"{module}.{alias.name}"
            names.add(full if full in MODULES else module)
    return names


def _package(module: str) -> str:
    return module if module == CLIENT else module.rpartition(".")[0]


GRAPH = {name: imported_names(f.read_text(), _package(name)) for name, f in MODULES.items()}


def layer(module: str) -> str:
    """The second part of a module's name: `decoding` of `service.decoding.pool`."""
    return module.split(".")[1] if "." in module else module


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        nodes: list[str] = exc.args[1]
        return nodes
    return []


def edges(package: str) -> Iterator[tuple[str, str]]:
    """Imports from one package within `package` to another one."""
    for module, names in GRAPH.items():
        for name in names & MODULES.keys():
            pair = module.split(".")[0], name.split(".")[0]
            if pair == (package, package) and layer(module) != layer(name):
                yield module, name


def test_no_modules_import_each_other() -> None:
    assert cycle({name: names & MODULES.keys() for name, names in GRAPH.items()}) == []


def test_the_model_imports_nothing_of_the_service() -> None:
    wrong = {
        module: name
        for module, names in GRAPH.items()
        for name in names
        if module.split(".")[0] == "model" and name.split(".")[0] == "service"
    }
    assert wrong == {}


@pytest.mark.parametrize("package", ["model.media", "model.preprocess"])
def test_media_and_preprocessing_import_no_torch(package: str) -> None:
    reached = {name for name in MODULES if f"{name}.".startswith(f"{package}.")}
    todo = list(reached)
    while todo:
        module = todo.pop()
        parents = {module.rpartition(".")[0]}  # importing a module runs its package's __init__
        for name in (GRAPH.get(module, set()) | parents) - reached - {""}:
            reached.add(name)
            todo.append(name)
    assert {name for name in reached if name.split(".")[0] == "torch"} == set()


def test_packages_of_the_model_import_in_one_direction() -> None:
    wrong = [
        (module, name)
        for module, name in edges("model")
        if layer(module) in MODEL_IMPORTS
        and layer(name) in MODEL_IMPORTS
        and layer(name) not in MODEL_IMPORTS[layer(module)]
    ]
    assert wrong == []
    assert cycle(MODEL_IMPORTS) == []


def test_packages_of_the_service_import_in_one_direction() -> None:
    order = {name: position for position, name in enumerate(LAYERS)}
    wrong = [
        (module, name)
        for module, name in edges("service")
        if name not in LEAVES
        and layer(module) in order
        and order.get(layer(name), len(LAYERS)) < order[layer(module)]
    ]
    assert wrong == []
    for leaf in LEAVES:
        inner = GRAPH[leaf] & MODULES.keys() - set(LEAVES)
        assert not {name for name in inner if layer(name) in order}, leaf


def test_the_client_imports_nothing_else_of_ours() -> None:
    own = {name: names for name, names in GRAPH.items() if f"{name}.".startswith(f"{CLIENT}.")}
    assert len(own) > 5
    ours = {(module, name) for module, names in own.items() for name in names & MODULES.keys()}
    assert {(m, n) for m, n in ours if not f"{n}.".startswith(f"{CLIENT}.")} == set()
    assert (f"{CLIENT}.clients", f"{CLIENT}.retries") in ours  # relative imports are seen


def test_every_package_has_its_layer() -> None:
    """So that a new folder is entered above."""
    folders = {
        package: {f.parent.name for f in (ROOT / package).glob("*/__init__.py")}
        for package in ("model", "service")
    }
    assert folders["model"] == set(MODEL_IMPORTS)
    assert folders["service"] <= set(LAYERS)


def test_the_graph_sees_imports_in_functions_but_none_for_types() -> None:
    text = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
def load():
    from model import checkpoint
    from model.engine import Engine
"""
    assert imported_names(text) == {"typing", "model.checkpoint", "model.engine"}
    assert cycle({"a": {"b"}, "b": {"a"}}) != []
    assert "model.network.scmrl" in GRAPH["model.network"]
