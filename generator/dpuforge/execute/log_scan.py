"""Find in a stage's log what its exit code hides: the quantizer logs errors and goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIAGNOSTIC = re.compile(r"\[VAIQ_(?P<severity>ERROR|WARN)\](?:\[(?P<code>[A-Z0-9_]+)\])?:\s*(?P<text>.*)")

# code -> what helps (docs/quantizer.md, section 13); a code without a row is still an error.
REMEDIES = {
    "QUANTIZER_TORCH_XMODEL_BATCHSIZE": "export with batch size 1; the generated quantize.py --mode deploy does",
    "QUANTIZER_TORCH_NO_CALIB_RESULT_FILE": "run the calibrate stage first",
    "QUANTIZER_TORCH_CALIB_RESULT_MISMATCH": "calibrate again: network or settings changed since",
    "QUANTIZER_TORCH_BIAS_CORRECTION": "run the calibrate stage first: bias correction is made there",
    "QUANTIZER_TORCH_NO_CALIBRATION": "no image went through the network in calibration; look at the data",
    "QUANTIZER_TORCH_NO_FORWARD": "run one forward pass before exporting; the generated quantize.py does",
    "QUANTIZER_TORCH_QUANT_CONFIG": "the real parser rejects the config; `dpuforge validate` names the key",
}


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic line of the quantizer."""

    severity: str
    code: str
    text: str

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.code, "")
        return f"[{self.code}] {self.text}" + (f" ({remedy})" if remedy else "")


def scan_log(text: str) -> tuple[Diagnostic, ...]:
    """Return every error and warning line of the quantizer, in order, each once; colour codes must be gone."""
    found = (Diagnostic(m["severity"], m["code"] or "", m["text"].strip()) for m in _DIAGNOSTIC.finditer(text))
    return tuple(dict.fromkeys(found))
