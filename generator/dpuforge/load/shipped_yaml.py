"""What makes shipped YAML fast to read: libyaml where it is built in, and schemas that a test has validated."""

from __future__ import annotations

from typing import Any

import yaml
from cerberus.schema import DefinitionSchema

# libyaml's loader, ten times faster, with the same documents.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ShippedSchema(DefinitionSchema):  # type: ignore[misc]
    """Rules that a test has validated: Cerberus would take longer over them than over a spec, in every run."""

    def validate(self, schema: object = None) -> None:
        """Take the rules as they are."""
