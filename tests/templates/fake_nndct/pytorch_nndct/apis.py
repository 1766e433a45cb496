"""The doors of pytorch_nndct.apis; FAKE_NNDCT names the one bad manner to show (see the real tool's logs)."""

import json
import os
import sys
from pathlib import Path

MANNER = os.environ.get("FAKE_NNDCT", "")


def complain(text):
    """Log as the real tool does, in colour, and go on."""
    print(f"\n\x1b[0;31m[VAIQ_ERROR][QUANTIZER_TORCH_{MANNER.upper()}]: {text}\x1b[0m", flush=True)


class torch_quantizer:
    """Passes the float model through."""

    def __init__(self, quant_mode, module, input_args, output_dir, device, quant_config_file):
        assert isinstance(input_args, tuple)
        assert os.path.isfile(quant_config_file)
        assert quant_mode in ("calib", "test")
        assert not module.training
        self.mode, self.name, self.folder = quant_mode, type(module).__name__, Path(output_dir)
        self.forwards, self.batch, self.module = 0, 0, module
        self.folder.mkdir(parents=True, exist_ok=True)
        if MANNER == "exit":
            sys.exit(0)
        if MANNER == "calib_result_mismatch" and quant_mode == "test":
            complain("Node name mismatch is found when   loading quantization steps of tensors.")
            sys.exit(0)
        if MANNER == "bias_correction" and quant_mode == "test":
            complain("Bias correction file in quantization result directory does not match current model.")
            sys.exit(2)
        if MANNER == "leaves":
            os._exit(0)
        print("\x1b[0;33m[VAIQ_WARN][QUANTIZER_TORCH_SHIFT_CHECK]: weight is too small\x1b[0m")
        module.register_forward_hook(self._count)
        self.quant_model = module

    def _count(self, module, inputs, output):
        self.forwards, self.batch = self.forwards + 1, len(inputs[0])

    def fast_finetune(self, run, arguments):
        """Fine-tune, or skip silently."""
        run(*arguments)
        if MANNER != "no_finetune":
            (self.folder / "param.pth").write_text("parameters")

    def load_ft_param(self):
        """Load what fast_finetune wrote."""
        assert (self.folder / "param.pth").is_file()

    def export_quant_config(self):
        """Write the fix positions."""
        assert self.mode == "calib"
        assert self.forwards
        if MANNER == "no_calibration":
            complain("Quantization is not performed completely")
            return
        (self.folder / "quant_info.json").write_text(json.dumps({"forwards": self.forwards}))

    def export_xmodel(self, output_dir, deploy_check=False):
        """Write the xmodel, even when something is wrong."""
        assert (self.mode, self.forwards, self.batch, deploy_check) == ("test", 1, 1, True)
        if MANNER == "batchsize":
            complain("Batch size must be 1 when exporting xmodel.")
        if MANNER == "aborts":
            print(
                "[UNILOG][FATAL][XIR_INVALID_ARG_OCCUR][Invalid arg occurence!] The number of channel is 8", flush=True
            )
            os.abort()
        if MANNER == "not_broadcast":
            raise ValueError("operands could not be broadcast together with shapes (1,32,32,8) (1,8,1,1) ")
        if MANNER == "not_implemented":
            raise NotImplementedError("this quantizer writes no xmodel yet")
        if MANNER != "silent_export":
            (Path(output_dir) / (self.name + "_int.xmodel")).write_text("xmodel")

    def export_onnx_model(self, output_dir):
        """Write the ONNX file."""
        if MANNER == "onnx_opset":
            raise RuntimeError("a layer norm needs ONNX opset 17, got 13\nhelp: pass opset_version=17 or more")
        if MANNER == "export_onnx":
            complain("onnx export failed")
            return
        (Path(output_dir) / (self.name + "_int.onnx")).write_text("onnx")


if MANNER == "degrade":

    class torch_quantizer(torch_quantizer):
        """Predicts class 0 for every image once quantised."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            if self.mode == "test":
                self.module.register_forward_hook(lambda module, inputs, output: output * 0)


if MANNER == "nan":

    class torch_quantizer(torch_quantizer):
        """Yields NaN for every image once quantised."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            if self.mode == "test":
                self.module.register_forward_hook(lambda module, inputs, output: output * float("nan"))
