"""model.py: a backbone of every torchvision family, timm, or the user's own file gets a head for the classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes_project as shapes

from dpuforge.records import project as records

FAMILIES = (
    "alexnet", "densenet121", "googlenet", "inception_v3", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5",
    "squeezenet1_1", "vgg11", "vit_b_32",
)  # fmt: skip
MORE_FAMILIES = (
    "convnext_tiny", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
    "regnet_y_400mf", "resnext50_32x4d", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "wide_resnet50_2",
)  # fmt: skip
DRIVER = """
import sys
import torch
import model

names = sys.argv[1:]
counts_numbers = ("regnet", "swin", "maxvit")  # their constructors compute with tensors
for name in names:
    with torch.device("cpu" if name.startswith(counts_numbers) else "meta"):  # meta: shapes without numbers
        network = model.build_model(".", name).train()
        side = {"inception_v3": 299}.get(name, 224)
        scores = network(torch.empty(2, 3, side, side))
        head = model.find_head(network)
        print(name, tuple(scores.shape), head)
"""


def drive(root: Path, backbone: str, *names: str) -> shapes.Ran:
    """Build networks with a rendered model.py in a process of its own."""
    network = records.Model(backbone, "none", records.InputSize(32, 32))
    folder = shapes.write_scripts(shapes.make_project(model=network), root)
    (folder / "drive.py").write_text(DRIVER, encoding="utf-8")
    return shapes.run_script(root, "drive.py", *names)


@pytest.mark.parametrize("families", [FAMILIES, pytest.param(MORE_FAMILIES, marks=pytest.mark.slow)])
def test_every_torchvision_family_gets_a_new_head(root: Path, families: tuple[str, ...]) -> None:
    """In training mode each family yields one tensor of (images, classes): no auxiliary heads are left."""
    ran = drive(root, "resnet18", *families)
    assert ran.status == 0, ran.output
    lines = [line for line in ran.output.splitlines() if " (2, " in line]
    assert [line.rpartition(" ")[0] for line in lines] == [f"{name} (2, 3)" for name in families]


def test_timm_networks_get_a_new_head(root: Path) -> None:
    """A timm network yields (images, classes) too."""
    pytest.importorskip("timm", reason="timm is not installed (extra all)")
    ran = drive(root, "timm/resnet26", "timm/resnet26", "timm/mobilenetv3_small_050")
    assert ran.status == 0, ran.output
    assert ran.output.count("(2, 3)") == 2


def test_unreachable_weights_name_the_way_out(root: Path) -> None:
    """Published weights that cannot be fetched end with exit status 3 and the remedy."""
    network = records.Model("resnet18", "IMAGENET1K_V1", records.InputSize(32, 32))
    shapes.write_scripts(shapes.make_project(model=network), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    proxy = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(root / "cache")}
    ran = shapes.run_script(root, "train.py", **proxy)
    assert ran.status == 3, ran.output
    assert "published weights of resnet18" in ran.output
    assert "name it in model.weights" in ran.output
