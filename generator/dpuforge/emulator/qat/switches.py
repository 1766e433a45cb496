"""The nine methods that a trainable network gains, and what they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MethodType
from typing import Any

from torch import nn

from dpuforge.emulator.qat.modules import QuantizedConvBatchNorm2d
from dpuforge.emulator.qat.quantizer import TQTQuantizer

_THRESHOLD = "log_threshold"


def say(text: str) -> None:
    """Print a line of the trainer, in the form of the real tool's."""
    print(f"I{datetime.now():%m%d %H:%M:%S.%f} quant_aware_training.py] {text}", file=sys.stderr, flush=True)


def quantizers_of(model: nn.Module) -> Iterator[TQTQuantizer]:
    """Yield the quantizers of a trainable network, each once."""
    return (module for module in model.modules() if isinstance(module, TQTQuantizer))


def folding_convolutions(model: nn.Module) -> Iterator[QuantizedConvBatchNorm2d]:
    """Yield the convolutions with a batch norm inside."""
    return (module for module in model.modules() if isinstance(module, QuantizedConvBatchNorm2d))


def enable_quant(model: nn.Module) -> None:
    """Compute with quantised values again."""
    say("Enable quantization: quantized operations will be performed.")
    for quantizer in quantizers_of(model):
        quantizer.quant_enabled = True


def disable_quant(model: nn.Module) -> None:
    """Compute in float."""
    say("Disable quantization: floating point operations will be performed.")
    for quantizer in quantizers_of(model):
        quantizer.quant_enabled = False


def enable_warmup(model: nn.Module) -> None:
    """Let the next tensors set the thresholds anew."""
    say("Initialize quantizer.")
    for quantizer in quantizers_of(model):
        quantizer.warmup_enabled.fill_(1)


def disable_warmup(model: nn.Module) -> None:
    """Keep the thresholds as they are."""
    for quantizer in quantizers_of(model):
        quantizer.warmup_enabled.fill_(0)


def freeze_quant(model: nn.Module) -> None:
    """Train the thresholds no more."""
    say("Scale of quantizer has been frozen.")
    for quantizer in quantizers_of(model):
        quantizer.log_threshold.requires_grad = False


def freeze_bn_stats(model: nn.Module) -> None:
    """Keep the running statistics of batch norms, and compute with them in training mode, too."""
    say("Running statistics of batch normlization has been frozen.")  # the real tool's spelling
    for convolution in folding_convolutions(model):
        convolution.statistics_frozen = True


def fuse_conv_bn(model: nn.Module) -> None:
    """Fold batch norms into their convolutions for good; such a network cannot be deployed."""
    say("Merge batchnorm to conv.")
    for convolution in folding_convolutions(model):
        convolution.fuse()


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the thresholds."""
    return [parameter for name, parameter in model.named_parameters() if _THRESHOLD in name]


def non_quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but the thresholds."""
    return [parameter for name, parameter in model.named_parameters() if _THRESHOLD not in name]


METHODS: Mapping[str, Callable[[nn.Module], Any]] = {
    method.__name__: method
    for method in (
        enable_quant,
        disable_quant,
        enable_warmup,
        disable_warmup,
        freeze_quant,
        freeze_bn_stats,
        fuse_conv_bn,
        quantizer_parameters,
        non_quantizer_parameters,
    )
}


def add_methods(model: nn.Module) -> None:
    """Give the network the nine methods; its class stays."""
    for name, method in METHODS.items():
        setattr(model, name, MethodType(method, model))
