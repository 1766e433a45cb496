"""Cerberus schemas that ship with dpuforge: tests validate them, so that no run has to."""

from __future__ import annotations

from cerberus.schema import DefinitionSchema


class ShippedSchema(DefinitionSchema):  # type: ignore[misc]
    """Rules that a test has validated: Cerberus would take longer over them than over a spec, in every run."""

    def validate(self, schema: object = None) -> None:
        """Take the rules as they are."""
