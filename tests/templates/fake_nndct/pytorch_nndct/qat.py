"""QatProcessor's doors: it trains the float network with one threshold that changes nothing."""

import json
from pathlib import Path

import torch
from torch import nn

from pytorch_nndct.nn import DeQuantStub, QuantStub


class Trainable(nn.Module):
    """The network, and a threshold."""

    def __init__(self, network):
        super().__init__()
        self.network, self.threshold = network, nn.Parameter(torch.ones(()))

    def forward(self, images):
        """Return the float network's scores; the threshold has a gradient of zero."""
        return self.network(images) + 0 * self.threshold

    def non_quantizer_parameters(self):
        """Yield the weights."""
        return self.network.parameters()

    def quantizer_parameters(self):
        """Yield the thresholds."""
        yield self.threshold

    def freeze_bn_stats(self):
        """Keep the statistics of batch norms."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def freeze_quant(self):
        """Keep the thresholds."""
        self.threshold.requires_grad_(False)


class QatProcessor:
    """Refuses networks without stubs, as the real one does; writes what it deploys."""

    def __init__(self, model, inputs, bitwidth=8):
        kinds = [type(module) for module in model.modules()]
        assert QuantStub in kinds
        assert DeQuantStub in kinds
        assert bitwidth == 8
        model(inputs)
        self.network = model

    def trainable_model(self, allow_reused_module=False):
        """Return what is trained."""
        return Trainable(self.network)

    def to_deployable(self, model, output_dir):
        """Write weights and fix positions."""
        folder = Path(output_dir)
        folder.mkdir(parents=True)
        torch.save(model.network.state_dict(), str(folder / "deployable.pth"))
        (folder / "quant_info.json").write_text(json.dumps({"threshold": float(model.threshold)}))
        return model.network

    def deployable_model(self, folder, used_for_xmodel=False):
        """Read them again."""
        self.network.load_state_dict(torch.load(str(Path(folder) / "deployable.pth"), map_location="cpu"))
        return self.network.eval()

    def export_xmodel(self, output_dir, deploy_check=False):
        """Write the xmodel."""
        (Path(output_dir) / (type(self.network).__name__ + "_int.xmodel")).write_text("xmodel")

    def export_onnx_model(self, output_dir):
        """Write the ONNX file."""
        (Path(output_dir) / (type(self.network).__name__ + "_int.onnx")).write_text("onnx")
