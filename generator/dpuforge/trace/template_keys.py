"""Which values a line of a template prints and on which it depends: read from the template's syntax tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, nodes

from dpuforge.records.own import OwnFile
from dpuforge.render.environment import make_environment


@dataclass(frozen=True)
class Reads:
    """The values read at one place of a template, as dotted names: printed there, or deciding that it is there."""

    line: int
    last: int
    printed: tuple[str, ...]
    conditions: tuple[str, ...]


_Own = tuple[OwnFile, ...]  # the project's own files, among which a template is found first


@cache
def read_template(name: str, own: _Own = ()) -> tuple[Reads, ...]:
    """Return what each piece of text and each expression of a template reads; includes are templates of their own."""
    return tuple(_walk(_parse(name, own).body, (), {}))


def find_included(name: str, own: _Own = ()) -> tuple[str, ...]:
    """Return a template and all that it includes or extends by a name that stands there, itself first."""
    environment = _open(own)
    found, waiting = [name], [name]
    while waiting:
        parent = waiting.pop()
        for node in _parse(parent, own).find_all((nodes.Include, nodes.Extends)):
            template = getattr(node, "template", None)
            inner = environment.join_path(template.value, parent) if isinstance(template, nodes.Const) else ""
            if inner and inner not in found:
                found.append(inner)
                waiting.append(inner)
    return tuple(found)


@cache
def _open(own: _Own) -> Environment:
    return make_environment(own=own)


@cache
def _parse(name: str, own: _Own) -> nodes.Template:
    environment = _open(own)
    assert environment.loader is not None
    source, path, _ = environment.loader.get_source(environment, name)
    return environment.parse(source, name, path)


_Names = Mapping[str, tuple[str, ...]]


def _walk(body: list[nodes.Node], conditions: tuple[str, ...], names: _Names) -> Iterator[Reads]:
    """Yield the reads of statements; names gives, for each loop variable, what it runs over."""
    for node in body:
        if isinstance(node, nodes.Output):
            yield from _read_output(node, conditions, names)
        elif isinstance(node, nodes.If):
            inner = (*conditions, *_find_names(node.test, names))
            yield from _walk([*node.body, *node.elif_, *node.else_], inner, names)
        elif isinstance(node, nodes.For):
            over = _find_names(node.iter, names)
            targets = [name.name for name in node.target.find_all(nodes.Name)] + _own_name(node.target)
            yield from _walk([*node.body, *node.else_], (*conditions, *over), {**names, **dict.fromkeys(targets, over)})
        elif isinstance(node, nodes.Include):
            yield Reads(node.lineno, node.lineno, (), conditions)
        else:
            yield from _walk(getattr(node, "body", []), conditions, names)


def _own_name(node: nodes.Node) -> list[str]:
    return [node.name] if isinstance(node, nodes.Name) else []


def _read_output(output: nodes.Output, conditions: tuple[str, ...], names: _Names) -> Iterator[Reads]:
    for node in output.nodes:
        if isinstance(node, nodes.TemplateData):
            last = node.lineno + max(node.data.count("\n") - node.data.endswith("\n"), 0)
            yield Reads(node.lineno, last, (), conditions)
        else:
            lines = [node.lineno, *(inner.lineno for inner in node.find_all(nodes.Expr))]
            yield Reads(min(lines), max(lines), tuple(_find_names(node, names)), conditions)


def _find_names(node: nodes.Node, names: _Names) -> tuple[str, ...]:
    """Return the dotted names that an expression reads, longest first seen, loop variables as what they run over."""
    if isinstance(node, (nodes.Getattr, nodes.Getitem, nodes.Name)):
        chain = _follow(node)
        if chain is not None:
            head, *rest = chain
            return tuple(".".join([name, *rest]) for name in names.get(head, (head,)))
    return tuple(dict.fromkeys(name for child in node.iter_child_nodes() for name in _find_names(child, names)))


def _follow(node: nodes.Node) -> list[str] | None:
    """Return the parts of a chain of attributes that starts at a name, None where it starts elsewhere."""
    if isinstance(node, nodes.Name):
        return [node.name]
    if isinstance(node, nodes.Getattr):
        above = _follow(node.node)
        return None if above is None else [*above, node.attr]
    return _follow(node.node) if isinstance(node, nodes.Getitem) else None
