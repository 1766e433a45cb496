"""Which YAML loader reads every file: libyaml's where it is built in, ten times faster, with the same documents."""

from __future__ import annotations

from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
