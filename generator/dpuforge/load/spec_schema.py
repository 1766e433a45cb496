"""Second step of load: the shape of a spec, from the Cerberus rules in spec/schema/project.yaml to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

import yaml
from cerberus import TypeDefinition, Validator
from cerberus import errors as codes

from dpuforge.load import forms
from dpuforge.load.findings import Finding, Path, find_close, show_value
from dpuforge.load.sections import own_files
from dpuforge.load.shipped_yaml import LOADER, ShippedSchema
from dpuforge.paths import find_shipped

_KINDS = {
    "text": "text",
    "whole": "a whole number",
    "real": "a number",
    "flag": "true or false",
    "list": "a list",
    "mapping": "a mapping of keys to values",
}


class _SpecValidator(Validator):  # type: ignore[misc]
    """Cerberus with types that tell booleans from numbers, and with the forms of load/forms.py."""

    types_mapping = {  # noqa: RUF012  (Cerberus wants a plain class attribute)
        **Validator.types_mapping,
        "text": TypeDefinition("text", (str,), ()),
        "whole": TypeDefinition("whole", (int,), (bool,)),
        "real": TypeDefinition("real", (int, float), (bool,)),
        "flag": TypeDefinition("flag", (bool,), ()),
        "mapping": TypeDefinition("mapping", (Mapping,), (str,)),
    }

    def _check_with_backbone(self, field: str, value: object) -> None:
        self._apply(forms.check_backbone, field, value)

    def _check_with_weights(self, field: str, value: object) -> None:
        self._apply(forms.check_weights, field, value)

    def _check_with_head(self, field: str, value: object) -> None:
        self._apply(forms.check_head, field, value)

    def _check_with_output(self, field: str, value: object) -> None:
        self._apply(forms.check_output, field, value)

    def _check_with_classes(self, field: str, value: object) -> None:
        self._apply(forms.check_classes, field, value)

    def _check_with_size(self, field: str, value: object) -> None:
        self._apply(forms.check_size, field, value)

    def _check_with_freeze_layers(self, field: str, value: object) -> None:
        self._apply(forms.check_freeze_layers, field, value)

    def _check_with_boards(self, field: str, value: object) -> None:
        self._apply(forms.check_boards, field, value)

    def _check_with_run(self, field: str, value: object) -> None:
        self._apply(forms.check_run, field, value)

    def _check_with_own_templates(self, field: str, value: object) -> None:
        self._apply(own_files.check_templates, field, value)

    def _check_with_own_append(self, field: str, value: object) -> None:
        self._apply(own_files.check_append, field, value)

    def _error(self, *args: Any) -> None:
        """Collect errors without Cerberus' trees of them, which sort anew for each of twenty thousand."""
        if len(args) == 1:
            self._errors.extend(args[0])
        else:
            super()._error(*args)

    def _apply(self, check: forms.Check, field: str, value: object) -> None:
        for fault in check(value):
            self._error(field, codes.CUSTOM, fault)


@cache
def read_schema() -> dict[str, Any]:
    """Return the rules of a spec as data: a mapping from key to Cerberus rules."""
    text = (find_shipped("spec/schema") / "project.yaml").read_text(encoding="utf-8")
    schema: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return schema


@cache
def _make_validator() -> _SpecValidator:
    validator = _SpecValidator()
    validator.schema = ShippedSchema(validator, read_schema())
    return validator


def find_rules(path: Path) -> Mapping[str, Any]:
    """Return the Cerberus rules of a key, {} where the schema has none (list entries, free mappings)."""
    rules: Mapping[str, Any] = {"schema": read_schema()}
    for part in path:
        schema = rules.get("schema", {})
        rules = (schema.get(part) or {}) if isinstance(part, str) else schema
        if not isinstance(rules, Mapping):
            return {}
    return rules


MOST_SHOWN = 20  # of the values that one list should not have
MOST_FINDINGS = 1000  # of a document that is no spec at all


def check_schema(document: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return every breach of the schema: unknown and missing keys, wrong types, values out of range."""
    validator = _make_validator()
    validator.validate(document, normalize=False)
    explained = (finding for error in validator._errors for finding in _explain(error, document))
    found = tuple(islice(explained, MOST_FINDINGS))
    if next(explained, None) is None:
        return found
    return (*found, Finding((), f"more than {MOST_FINDINGS} mistakes, the others are not listed", "mend these first"))


def _explain(error: Any, document: Mapping[str, Any]) -> Iterator[Finding]:
    if error.is_group_error:
        for child in error.child_errors or ():
            yield from _explain(child, document)
        return
    path: Path = tuple(error.document_path)
    if error.code == codes.CUSTOM.code:
        fault: forms.Fault = error.info[0]
        yield Finding((*path, *fault.path), fault.message, fault.help, fault.severity, at_key=fault.at_key)
        return
    explain = _EXPLAIN.get(error.code)
    if explain is None:
        yield Finding(path, f"the value does not fit ({error.rule}), got {show_value(error.value)}")
        return
    yield explain(path, error)


def _explain_unknown(path: Path, error: Any) -> Finding:
    known = sorted(find_rules(path[:-1]).get("schema", {}))
    close = find_close(str(path[-1]), known)
    remedy = f"did you mean {close[0]}?" if close else f"known keys here: {', '.join(known)}"
    return Finding(path, f"unknown key, got {show_value(path[-1])}", remedy, at_key=True)


def _explain_missing(path: Path, error: Any) -> Finding:
    doc = find_rules(path).get("meta", {}).get("doc", "")
    return Finding(path, "the key is missing", f"add {path[-1]}: {doc[:1].lower()}{doc[1:]}", at_key=True)


def _explain_type(path: Path, error: Any) -> Finding:
    kinds = error.constraint if isinstance(error.constraint, (list, tuple)) else [error.constraint]
    wanted = " or ".join(_KINDS[kind] for kind in kinds)
    return Finding(path, f"should be {wanted}, got {show_value(error.value)}", _help(path))


def _explain_allowed(path: Path, error: Any) -> Finding:
    allowed = [str(value) for value in error.constraint]
    bad = error.info[0] if error.code == codes.UNALLOWED_VALUES.code else (error.value,)
    bad = bad[:MOST_SHOWN]
    faults = ", ".join(show_value(value) for value in bad)
    lowered = {word.lower(): word for word in allowed}
    close = [lowered[match] for value in bad for match in find_close(str(value).lower(), lowered)]
    advice = find_rules(path).get("meta", {}).get("help", "")
    remedy = advice or (f"did you mean {close[0]}?" if close else "")
    return Finding(path, f"should be {_join(allowed)}, got {faults}", remedy or f"choose from {', '.join(allowed)}")


def _explain_bound(word: str) -> Callable[[Path, Any], Finding]:
    def explain(path: Path, error: Any) -> Finding:
        return Finding(path, f"should be {word} {error.constraint}, got {show_value(error.value)}", _help(path))

    return explain


def _explain_length(word: str) -> Callable[[Path, Any], Finding]:
    def explain(path: Path, error: Any) -> Finding:
        noun = "characters" if isinstance(error.value, str) else "entries"
        what = f"should have {word} {error.constraint} {noun}, got {len(error.value)}: {show_value(error.value)}"
        return Finding(path, what, _help(path))

    return explain


def _explain_form(path: Path, error: Any) -> Finding:
    return Finding(path, f"should match {error.constraint}, got {show_value(error.value)}", _help(path))


def _explain_empty(path: Path, error: Any) -> Finding:
    return Finding(path, f"should not be empty, got {show_value(error.value)}", _help(path))


def _help(path: Path) -> str:
    """Return what to write at a path: the schema's own advice, or an example with what the key means."""
    rules = find_rules(path)
    if "meta" not in rules:
        rules = find_rules(path[:-1])
    meta = rules.get("meta", {})
    doc: str = meta.get("doc", "")
    if "help" in meta or rules.get("default") in (None, "", {}, []):
        return str(meta.get("help", doc))
    path = path if isinstance(path[-1], str) else path[:-1]
    return f"for example {path[-1]}: {_write(rules['default'])} ({doc[:1].lower()}{doc[1:].rstrip('.')})"


def _write(value: Any) -> str:
    """Return a default as a user would write it in YAML."""
    return f"[{', '.join(map(_write, value))}]" if isinstance(value, list) else show_value(value).strip("'")


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


_EXPLAIN: dict[int, Callable[[Path, Any], Finding]] = {
    codes.UNKNOWN_FIELD.code: _explain_unknown,
    codes.REQUIRED_FIELD.code: _explain_missing,
    codes.BAD_TYPE.code: _explain_type,
    codes.NOT_NULLABLE.code: lambda path, _: Finding(
        path, "should have a value, got null", "remove the key, or fill it in"
    ),
    codes.UNALLOWED_VALUE.code: _explain_allowed,
    codes.UNALLOWED_VALUES.code: _explain_allowed,
    codes.MIN_VALUE.code: _explain_bound("at least"),
    codes.MAX_VALUE.code: _explain_bound("at most"),
    codes.MIN_LENGTH.code: _explain_length("at least"),
    codes.MAX_LENGTH.code: _explain_length("at most"),
    codes.REGEX_MISMATCH.code: _explain_form,
    codes.EMPTY_NOT_ALLOWED.code: _explain_empty,
}
