"""First step of load: YAML text to plain values, each with the place it was written at, and YAML's traps closed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dpuforge.load.findings import Finding, Path, Place, show_value
from dpuforge.load.scalars import CONVERT, KINDS
from dpuforge.load.shipped_yaml import LOADER

MAX_BYTES = 1_000_000
MAX_DEPTH = 24
MAX_VALUES = 20_000

_PREFIX = "tag:yaml.org,2002:"


@dataclass
class Document:
    """One file's values, the place of each by its path of keys, and what was wrong with the text."""

    value: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class _Unreadable(Exception):
    """The rest of the text cannot be read; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def read_document(content: bytes, file: str) -> Document:
    """Return the values of a YAML file called `file` in messages; never raise, mistakes go to `findings`."""
    document = Document()
    try:
        _read(content, file, document)
    except _Unreadable as error:
        document.findings.append(error.finding)
    return document


def _read(content: bytes, file: str, document: Document) -> None:
    text = _decode(content, file)
    composer = _Composer(text, file, document)
    value = composer.compose()
    if value is None and not document.findings:
        raise _fail(file, 1, 1, "the file is empty", "start from `dpuforge init`")
    if not isinstance(value, dict):
        if value is not None:
            raise _fail(
                file, 1, 1, f"the file should hold keys and values, got {show_value(value)}", "write key: value"
            )
        return
    document.value = value


def _decode(content: bytes, file: str) -> str:
    if len(content) > MAX_BYTES:
        raise _fail(file, 1, 1, f"the file is too large, got {len(content)} bytes", f"a spec has at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        what = f"the file is not UTF-8, got byte 0x{content[error.start]:02x}"
        raise _fail(file, line, column, what, "save the file as UTF-8") from None
    return text


def _fail(file: str, line: int, column: int, message: str, remedy: str) -> _Unreadable:
    return _Unreadable(Finding((), message, remedy, place=Place(file, line, column)))


class _Composer:
    """Builds values from the parser's events, so that depth, size and aliases stay bounded on any input."""

    def __init__(self, text: str, file: str, document: Document) -> None:
        self.file = file
        self.document = document
        self.count = 0
        self.anchors: dict[str, Any] = {}
        self.resolver: Any = yaml.SafeLoader("")
        self.events = self._iterate(text)

    def compose(self) -> Any:
        """Return the value of the one document of the text, None where there is none."""
        value = None
        for seen, event in enumerate(self._documents()):
            if seen:
                place = self._place(event)
                raise _fail(self.file, place.line, place.column, "a second document starts here", "one file, one spec")
            value = self._value(next(self.events), ())
            next(self.events)  # the document's end
        return value

    def _documents(self) -> Iterator[yaml.Event]:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield event

    def _iterate(self, text: str) -> Iterator[yaml.Event]:
        try:
            loader = LOADER(text)
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise _fail(self.file, line, column, _explain(error), _remedy(error)) from None
        except yaml.reader.ReaderError as error:
            raise self._unacceptable(text, error) from None

    def _unacceptable(self, text: str, error: yaml.reader.ReaderError) -> _Unreadable:
        where = error.position if isinstance(error.position, int) else 0
        line, column = text.count("\n", 0, where) + 1, where - text.rfind("\n", 0, where)
        return _fail(self.file, line, column, "a character that YAML does not allow", "remove the control character")

    def _place(self, event: yaml.Event, key: yaml.Event | None = None) -> Place:
        mark: Any = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if key is None:
            return Place(self.file, line, column)
        key_mark: Any = key.start_mark
        return Place(self.file, line, column, key_mark.line + 1, key_mark.column + 1)

    def _note(self, path: Path, event: yaml.Event, message: str, remedy: str) -> None:
        self.document.findings.append(Finding(path, message, remedy, place=self._place(event)))

    def _value(self, event: Any, path: Path, key: Any = None) -> Any:
        self._guard(event, len(path))
        self.document.places.setdefault(path, self._place(event, key))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        else:
            self._refuse_tag(event, path)
            value = self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def _guard(self, event: yaml.Event, depth: int) -> None:
        self.count += 1
        place = self._place(event)
        if depth > MAX_DEPTH:
            raise _fail(self.file, place.line, place.column, "the nesting is too deep", f"at most {MAX_DEPTH} levels")
        if self.count > MAX_VALUES:
            raise _fail(self.file, place.line, place.column, "too many values", f"a spec has at most {MAX_VALUES}")

    def _alias(self, event: yaml.AliasEvent, path: Path) -> Any:
        if event.anchor not in self.anchors:
            place = self._place(event)
            what = f"alias *{event.anchor} has no anchor before it"
            raise _fail(self.file, place.line, place.column, what, f"write &{event.anchor} where the value is defined")
        return self._copy(self.anchors[event.anchor], event, path)

    def _copy(self, value: Any, event: yaml.Event, path: Path) -> Any:
        """Copy an aliased value; every copied value counts, which defuses alias bombs."""
        self._guard(event, len(path))
        self.document.places.setdefault(path, self._place(event))
        if isinstance(value, dict):
            return {key: self._copy(item, event, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item, event, (*path, index)) for index, item in enumerate(value)]
        return value

    def _sequence(self, path: Path) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(key_event := next(self.events), yaml.MappingEndEvent):
            key = self._key(key_event, path)
            where: Path = (*path, key)
            twice = key in values
            if twice:
                first = self.document.places[where].key[0]
                self._note(where, key_event, f"the key is written twice, first on line {first}", "keep one of the two")
            value = self._value(next(self.events), where, key_event)
            if not twice:
                values[key] = value
        return values

    def _key(self, event: Any, path: Path) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._skip(event, len(path))
            self._note(path, event, "a key should be text, got a list, mapping or alias", "write key: value")
            return f"?{self.count}"
        tag = self._resolve(event)
        if tag == "merge":
            self._note((*path, event.value), event, "merge keys are not supported", "write the keys out, or use base:")
        elif tag != "str":
            what = f"a key should be text, got {event.value}, which YAML 1.1 reads as {KINDS.get(tag, tag)}"
            self._note((*path, event.value), event, what, f'quote it: "{event.value}"')
        return str(event.value)

    def _skip(self, event: Any, depth: int) -> None:
        """Read past a nested key, within the same bounds."""
        level = int(isinstance(event, yaml.CollectionStartEvent))
        while level:
            item = next(self.events)
            self._guard(item, depth + level)
            level += isinstance(item, yaml.CollectionStartEvent) - isinstance(item, yaml.CollectionEndEvent)

    def _refuse_tag(self, event: Any, path: Path) -> None:
        if event.tag and event.tag not in (_PREFIX + "map", _PREFIX + "seq", "!"):
            self._note(path, event, f"tags are not supported, got {event.tag}", "remove the tag")

    def _resolve(self, event: Any) -> str:
        """Return the kind of a scalar ("str", "int", "bool", ...), or its own tag."""
        if event.tag and event.tag != "!":
            return event.tag if event.tag != _PREFIX + "str" else "str"
        tag = self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        return str(tag).removeprefix(_PREFIX)

    def _scalar(self, event: Any, path: Path) -> Any:
        convert = CONVERT.get(self._resolve(event))
        if convert is None:
            self._note(path, event, f"tags are not supported, got {event.tag}", "remove the tag")
            return event.value
        value, complaint = convert(event.value, event.style in ("'", '"', "|", ">"))
        if complaint:
            message, remedy = complaint
            self._note(path, event, message, remedy)
        return value


def _explain(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return "this is not YAML: " + ", ".join(parts)


_REMEDIES = (
    ("tab character", "indent with spaces, not tabs"),
    ("cannot start any token", "indent with spaces, not tabs; quote text that starts with @, %, ` or similar"),
    ("mapping values are not allowed", "quote text that contains a colon, and check the indentation"),
    ("block mapping", "check the indentation: keys of one level start in one column"),
    ("quoted scalar", "close the quotation mark"),
    ("flow", "close the bracket or brace, and separate entries with commas"),
    ("alias", "define the anchor first, or write the value out"),
)


def _remedy(error: yaml.MarkedYAMLError) -> str:
    text = f"{error.context} {error.problem}"
    return next((remedy for needle, remedy in _REMEDIES if needle in text), "check the syntax around this place")
