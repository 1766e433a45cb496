"""The schema as data: sound Cerberus rules, documented keys, and the JSON Schema made from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpuforge.load.backbones import load_backbones
from dpuforge.load.json_schema import project_json_schema
from dpuforge.load.load_spec import load_project
from dpuforge.load.spec_schema import _SpecValidator, read_schema
from dpuforge.paths import find_shipped

from .conftest import GOOD


def iterate_rules(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name and the rules of every key."""
    for key, rules in schema.items():
        yield prefix + key, rules
        if rules.get("type") == "mapping" and "schema" in rules:
            yield from iterate_rules(rules["schema"], f"{prefix}{key}.")


def test_cerberus_accepts_the_rules() -> None:
    """The shipped rules are sound: at run time they are taken without this check."""
    _SpecValidator(read_schema())
    assert len(list(iterate_rules(read_schema()))) > 70


def test_every_key_is_documented_and_every_default_has_a_source() -> None:
    """meta.doc explains each key; a default or derived value says where it comes from."""
    for name, rules in iterate_rules(read_schema()):
        assert rules["meta"]["doc"], name
        if ("default" in rules and "schema" not in rules) or "derive" in rules["meta"]:
            assert rules["meta"].get("source"), name


def test_every_default_passes_its_own_rules(write: Any) -> None:
    """A spec that writes out every effective value is as good as the spec that writes none."""
    origins = load_project(write(GOOD)).origins
    spec: dict[str, Any] = {}
    for dotted, origin in origins.items():
        *parents, last = dotted.split(".")
        block = spec
        for parent in parents:
            block = block.setdefault(parent, {})
        block[last] = origin.value
    written = load_project(write(yaml.safe_dump(spec, sort_keys=False), "whole.yaml"))
    assert [warning.field for warning in written.warnings] == ["train.optimizer.momentum"]
    assert {origin.kind for origin in written.origins.values()} == {"spec"}
    assert {key: origin.value for key, origin in written.origins.items()} == {
        key: origin.value for key, origin in origins.items()
    }


def test_the_json_schema_accepts_good_specs_and_refuses_bad_ones(folder: Path) -> None:
    """Editors see the same keys, types and ranges as dpuforge validate."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the test extra")
    schema = project_json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    good = yaml.safe_load(GOOD)
    assert list(validator.iter_errors(good)) == []
    bad = [
        {**good, "trian": {}},
        {**good, "classes": 1},
        {**good, "project": "Demo"},
        {**good, "train": {"epochs": True}},
        {**good, "quantization": {"overall": {"method": "foo"}}},
        {**good, "model": {"backbone": "resnet81"}},
        {key: value for key, value in good.items() if key != "target"},
    ]
    assert [len(list(validator.iter_errors(spec))) for spec in bad] == [1] * len(bad)


def test_the_shipped_json_schema_is_the_one_that_is_generated() -> None:
    """spec/schema/project.schema.json, which specs name for editors, is up to date."""
    shipped = (find_shipped("spec/schema") / "project.schema.json").read_text(encoding="utf-8")
    assert shipped == json.dumps(project_json_schema(), indent=2) + "\n"


def test_backbones_have_weights_and_plausible_sizes() -> None:
    """Each row names weights with a crop not larger than the resize, and the networks of the article are there."""
    rows = load_backbones()
    assert {"resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0"} <= set(rows)
    assert rows["resnet18"].parameters == 11_689_512
    for row in rows.values():
        assert row.weights
        assert all(32 <= item.crop <= item.resize for item in row.weights)
        assert row.default_weights.top1 > 50


@pytest.mark.slow
def test_backbones_equal_those_of_the_installed_torchvision() -> None:
    """Every row is a classifier of torchvision with exactly these ImageNet-1K weights and transforms."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is in the run extra")
    assert set(load_backbones()) == set(models.list_models(module=models))
    for name, row in load_backbones().items():
        published = [item for item in models.get_model_weights(name) if item.name != "IMAGENET1K_FEATURES"]
        transforms = [item.transforms() for item in published]
        assert [item.name for item in row.weights] == [item.name for item in published]
        assert [item.crop for item in row.weights] == [item.crop_size[0] for item in transforms]
        assert [item.resize for item in row.weights] == [item.resize_size[0] for item in transforms]
        assert row.parameters == max(item.meta["num_params"] for item in published)
