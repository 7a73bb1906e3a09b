"""What the code of a stage or of a chapter reaches inside the package, as hashes of its syntax.

    python tools/recipes.py             say which stages' code has changed
    python tools/recipes.py --accept    take the code as it is now

The key of an artefact holds no source text, but each stage's own number, `recipe=`. So that nobody
forgets to raise it, `tests/recipes.json` holds for each stage its number and a hash over every
function, class and constant of the package that it reaches, without comments, docstrings and
annotations. Names are followed statically: through imports, `module.name`, the lazy names of a
part, and annotations (a value acts through the methods of its class). Not followed are
`ecomkd.artifacts` and `ecomkd.config`: how artefacts are kept does not change what they hold, and
settings are in the key themselves.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import re
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "recipes.json"
_APART = ("ecomkd.artifacts", "ecomkd.config")


@dataclass
class Module:
    """A module's top-level definitions by name, what its imports bind, and all other statements."""

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    rest: list[ast.stmt] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A stage's own number, the hash of the code that it reaches, and where it is called."""

    recipe: int
    hash: str
    places: tuple[str, ...]


class Package:
    """The source of the package in `folder`, read but never imported."""

    def __init__(self, folder: Path = ROOT / "ecomkd"):
        self.folder, self.name = folder, folder.name
        self._uses: dict[str, set[str]] = {}
        self._hashes: dict[str, str] = {}

    @cached_property
    def modules(self) -> dict[str, Module]:
        """All modules by their dotted names."""
        found = {}
        for path in sorted(self.folder.rglob("*.py")):
            parts = [self.name, *path.relative_to(self.folder).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            tree = ast.parse(path.read_text("utf-8"), str(path))
            found[name] = _module(name, is_package, tree)
        return found

    def reached(self, code: str) -> dict[str, str]:
        """The definitions of the package that Python source (a notebook's cells, say) reaches.

        Maps `ecomkd.losses.soft_kl` and its like to a hash of its syntax. Lines of IPython that
        begin with % or ! are passed over.

        Raises LookupError for a name that the package does not have.
        """
        tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE))
        return self._closed(self._used_by(_module("", False, tree), [tree], None))

    def stages(self) -> dict[str, Stage]:
        """Every stage that the package makes, by name.

        Raises ValueError where the name or the number of a stage is no literal, or where two calls
        of one stage give different numbers.
        """
        numbers: dict[str, dict[str, int]] = {}
        seeds: dict[str, set[str]] = {}
        for module in self.modules.values():
            for name, nodes in module.definitions.items():
                for call in _stage_calls(nodes):
                    place = f"{module.name}.{name}"
                    stage, number = _literals(call, place)
                    numbers.setdefault(stage, {})[place] = number
                    seeds.setdefault(stage, set()).update(self._makers(module, name))
        found = {}
        for stage in sorted(numbers):
            given = numbers[stage]
            if len(set(given.values())) > 1:
                told = ", ".join(f"{number} in {place}" for place, number in given.items())
                raise ValueError(f"Stage {stage!r} has several numbers ({told}): give it one.")
            reached = json.dumps(self._closed(seeds[stage]), sort_keys=True)
            sha = hashlib.sha256(reached.encode()).hexdigest()[:16]
            found[stage] = Stage(next(iter(given.values())), sha, tuple(sorted(given)))
        return found

    def _makers(self, module: Module, name: str) -> set[str]:
        """The definition that calls `stage`, and, of a private one, those that call it."""
        here = f"{module.name}.{name}"
        if not name.startswith("_"):
            return {here}
        others = (f"{module.name}.{other}" for other in module.definitions)
        return {here} | {other for other in others if here in self._used(other)}

    def _closed(self, waiting: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        waiting = set(waiting)
        while waiting:
            name = waiting.pop()
            if name in found or f"{name}.".startswith(tuple(f"{apart}." for apart in _APART)):
                continue
            found[name] = self._hash(name)
            waiting |= self._used(name)
        return dict(sorted(found.items()))

    def _nodes(self, name: str) -> tuple[Module, list[ast.stmt]]:
        if name in self.modules:
            return self.modules[name], self.modules[name].rest
        home, _, own = name.rpartition(".")
        return self.modules[home], self.modules[home].definitions[own]

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            bare = [_Bare().visit(copy.deepcopy(node)) for node in self._nodes(name)[1]]
            text = json.dumps([_plain(node) for node in bare])
            self._hashes[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._hashes[name]

    def _used(self, name: str) -> set[str]:
        if name not in self._uses:
            module, nodes = self._nodes(name)
            used = self._used_by(module, nodes, _free_names(nodes))
            if module.rest:  # what a module does when it is imported
                used.add(module.name)
            self._uses[name] = used - {name}
        return self._uses[name]

    def _used_by(self, module: Module, nodes: list, free: set[str] | None) -> set[str]:
        """What the nodes name; `free` are the names that no function of theirs binds itself."""
        stored = {
            node.id
            for root in nodes
            for node in ast.walk(root)
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
        }
        found: set[str] = set()
        for chain in _chains(nodes):
            first, *further = chain
            if free is not None and first not in free:
                continue
            if first in module.definitions and module.name:
                found.add(f"{module.name}.{first}")
            elif first in module.imports:
                dotted = ".".join([module.imports[first], *further])
                try:
                    found |= self._resolved(dotted)
                except LookupError:
                    if first not in stored:
                        raise
            else:
                for star in module.stars:
                    if first in self.modules[star].definitions:
                        found.add(f"{star}.{first}")
        return found

    def _resolved(self, dotted: str) -> set[str]:
        """The definitions that `ecomkd.models.load`, or `ecomkd.models` as a whole, stands for."""
        parts = dotted.split(".")
        if parts[0] != self.name:
            return set()
        size = len(parts)
        while ".".join(parts[:size]) not in self.modules:
            size -= 1
        module = self.modules[".".join(parts[:size])]
        if size == len(parts):
            # As an object: a package stands for nothing but its names, a module for all of it.
            if module.is_package:
                return set()
            return {f"{module.name}.{name}" for name in module.definitions}
        name, further = parts[size], parts[size + 1 :]
        if name in module.definitions:
            return {f"{module.name}.{name}"}
        if name in module.imports:
            return self._resolved(".".join([module.imports[name], *further]))
        if name.startswith("__"):
            return set()
        homes = [star for star in module.stars if name in self.modules[star].definitions]
        targets = [f"{home}.{name}" for home in homes] or self._lazy(module, name)
        if not targets:
            raise LookupError(f"{module.name} has no {name!r}: is it written right?")
        found: set[str] = set()
        for target in targets:
            found |= self._resolved(".".join([target, *further]))
        return found

    def _lazy(self, module: Module, name: str) -> list[str]:
        """What a package that has a `__getattr__` gives for a name.

        Its dictionaries say so, {name: module}, {module: "name name …"} or {old name: name}; what
        none of them names is looked for in the modules of the package.
        """
        if "__getattr__" not in module.definitions:
            return []
        for key, value in _literal_pairs(module):
            if key == name:
                for home in (value, f"{module.name}.{value}"):
                    if home in self.modules:
                        own = name in self.modules[home].definitions
                        return [f"{home}.{name}" if own else home]
                return [f"{module.name}.{value}"]
            if key in self.modules and name in value.split():
                return [f"{key}.{name}"]
        below = [other for other in self.modules if other.startswith(f"{module.name}.")]
        homes = [other for other in below if name in self.modules[other].definitions]
        # A module may pass on a name that it has from another part.
        homes = homes or [other for other in below if name in self.modules[other].imports]
        return [f"{other}.{name}" for other in homes]


# Reading a tree -----------------------------------------------------------------------------------


def _module(name: str, is_package: bool, tree: ast.Module) -> Module:
    found = Module(name, is_package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                found.imports[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")
                kept = len(parents) - node.level + is_package
                base = ".".join([*parents[:kept], *([base] if base else [])])
            for alias in node.names:
                if alias.name == "*":
                    found.stars.append(base)
                else:
                    found.imports[alias.asname or alias.name] = f"{base}.{alias.name}"
    for node in tree.body:
        names = _bound(node)
        for bound in names:
            found.definitions.setdefault(bound, []).append(node)
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not names and not text and not isinstance(node, (ast.Import, ast.ImportFrom)):
            found.rest.append(node)
    return found


def _bound(node: ast.stmt) -> list[str]:
    """The names that a top-level statement binds, but for imports."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    names, waiting = [], [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.append(part.id)
        elif isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            names.append(part.name)
        # What a comprehension binds is its own. From Python 3.12 on a module lists it with its own.
        inner = ast.iter_child_nodes(part)
        waiting += [one for one in inner if not isinstance(one, ast.comprehension)]
    return names


def _literal_pairs(module: Module) -> Iterator[tuple[str, str]]:
    """The entries of a module's dictionaries that are text on both sides."""
    for root in (node for nodes in module.definitions.values() for node in nodes):
        for node in ast.walk(root):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    pair = getattr(key, "value", None), getattr(value, "value", None)
                    if isinstance(pair[0], str) and isinstance(pair[1], str):
                        yield pair


def _chains(nodes: list) -> Iterator[list[str]]:
    """Every dotted name in the nodes, as long as it goes: ["models", "load"]."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Attribute):
            names, base = [node.attr], node.value
            while isinstance(base, ast.Attribute):
                names.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name):
                yield [base.id, *reversed(names)]
                continue
            waiting.append(base)
        elif isinstance(node, ast.Name):
            yield [node.id]
        else:
            waiting += ast.iter_child_nodes(node)


def _free_names(nodes: list[ast.stmt]) -> set[str]:
    """The names that the nodes take from their module; an import inside a function counts."""
    found: set[str] = set()
    waiting = [symtable.symtable("\n".join(map(ast.unparse, nodes)), "", "exec")]
    while waiting:
        table = waiting.pop()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_imported() or (symbol.is_referenced() and (top or symbol.is_global())):
                found.add(symbol.get_name())
        waiting += table.get_children()
    return found


class _Bare(ast.NodeTransformer):
    """Takes out what no run depends on: docstrings, annotations, a stage's own number."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if text else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # Its fields may be those of a dataclass: there an annotation makes a field.
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                part.annotation = ast.Constant(ast.unparse(part.annotation))
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.annotation, ast.Constant):
            return self.generic_visit(node)
        if node.value is None:
            return ast.Pass()
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        # Some versions of Python 3.12 put empty texts between nested fields.
        empty = [isinstance(one, ast.Constant) and one.value == "" for one in node.values]
        node.values = [one for one, none in zip(node.values, empty, strict=True) if not none]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_stage(node):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "recipe"]
        return self.generic_visit(node)


def _plain(node):
    """A tree as lists, without positions and empty fields: the same in all versions of Python."""
    if isinstance(node, list):
        kept = [part for part in node if not isinstance(part, ast.Pass)]
        return [_plain(part) for part in kept]
    if not isinstance(node, ast.AST):
        return node if node is None or isinstance(node, (str, bool, int)) else repr(node)
    fields = [
        [name, _plain(value)]
        for name, value in ast.iter_fields(node)
        if value not in (None, []) or (isinstance(node, ast.Constant) and name == "value")
    ]
    return [type(node).__name__, fields]


def _is_stage(node: ast.Call) -> bool:
    name = getattr(node.func, "id", getattr(node.func, "attr", None))
    return name == "stage"


def _stage_calls(nodes: list[ast.stmt]) -> Iterator[ast.Call]:
    for root in nodes:
        for node in ast.walk(root):
            if isinstance(node, ast.Call) and _is_stage(node):
                yield node


def _literals(call: ast.Call, place: str) -> tuple[str, int]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.args[0] if call.args else given.get("name")
    number = call.args[4] if len(call.args) > 4 else given.get("recipe", ast.Constant(1))
    values = [getattr(node, "value", None) for node in (name, number)]
    if not isinstance(values[0], str) or not isinstance(values[1], int):
        raise ValueError(
            f"{place}: give the name of the stage and its recipe= as literals in the call of "
            "stage()."
        )
    return values[0], values[1]


# The check ----------------------------------------------------------------------------------------


def faults(found: dict[str, Stage], accepted: dict[str, list]) -> list[str]:
    """What stands between the code and the file of accepted recipes: one sentence each."""
    accept = "`python tools/recipes.py --accept`"
    told = [
        f"Stage {name!r} is gone: run {accept}." for name in sorted(accepted.keys() - found.keys())
    ]
    for name, stage in found.items():
        place = " and ".join(stage.places)
        number, sha = accepted.get(name, (None, None))
        if number is None:
            told.append(f"Stage {name!r} ({place}) is new: run {accept}.")
        elif stage.recipe != number:
            told.append(
                f"Stage {name!r} has the recipe {stage.recipe} in {place} and {number} in the "
                f"file: run {accept}."
            )
        elif stage.hash != sha:
            told.append(
                f"The code behind stage {name!r} has changed, and its recipe is still {number}: if "
                f"it makes something else of the same parts now, raise recipe= in {place}; then, "
                f"or if it makes the same, run {accept}."
            )
    return told


def accepted(path: Path = FILE) -> dict[str, list]:
    """What was accepted last: stage to [recipe, hash]."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accept", action="store_true", help="take the code as it is now")
    found = Package().stages()
    told = faults(found, accepted())
    print("\n".join(told) or "No stage's code has changed.")
    if parser.parse_args().accept:
        lines = (f'"{name}": [{one.recipe}, "{one.hash}"]' for name, one in found.items())
        FILE.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
