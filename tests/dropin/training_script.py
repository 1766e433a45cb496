"""A training script as users write it for AMD's tool: train, then in another process deploy."""

import os
import sys

import torch
from pytorch_nndct import QatProcessor
from pytorch_nndct import nn as nndct_nn
from pytorch_nndct.nn.modules import functional
from torch import nn


class Net(nn.Module):
    """One residual block between stubs; FUNCTIONAL=1 adds without a module."""

    def __init__(self):
        super().__init__()
        self.quant, self.dequant = nndct_nn.QuantStub(), nndct_nn.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.skip, self.pool, self.fc = functional.Add(), nn.AvgPool2d(3), nn.Linear(3, 2)

    def forward(self, x):
        x = self.quant(x)
        y = self.relu(self.bn(self.conv(x)))
        y = y + x if os.environ.get("FUNCTIONAL") else self.skip(y, x)
        return self.dequant(self.fc(torch.flatten(self.pool(y), 1)))


torch.manual_seed(0)
net, images, labels = Net(), torch.randn(8, 3, 3, 3), torch.randint(0, 2, (8,))
processor = QatProcessor(net, images[:2], bitwidth=8)
if sys.argv[1] == "train":
    model = processor.trainable_model()
    groups = [
        {"params": model.quantizer_parameters(), "lr": 1e-2},
        {"params": model.non_quantizer_parameters(), "lr": 1e-3},
    ]
    optimizer = torch.optim.Adam(groups, 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    deployable = processor.to_deployable(model, output_dir="qat_result")
    torch.save(deployable(images), "outputs.pt")
    print("difference", float((model(images) - deployable(images)).abs().max()))
else:
    model = processor.deployable_model("qat_result", used_for_xmodel=True)
    print("difference", float((model(images) - torch.load("outputs.pt")).abs().max()))
    model(images[:1])
    processor.export_xmodel("qat_result")
    processor.export_onnx_model("qat_result")
    processor.export_torch_script("qat_result")
    print(sorted(os.listdir("qat_result")))
