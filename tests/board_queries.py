"""What `xdputil query` prints on boards, in its several shapes, for the tests of the board lock."""

from __future__ import annotations

import json
from typing import Any

KRIA_LOG = """\
root@kv260:~# xdputil query
WARNING: Logging before InitGoogleLogging() is written to STDERR
E0124 10:15:15.030138  9836 xdputil_query.cpp:182] Unsupported platform fingerprint: 0, cu_idx: 1
"""


def make_core(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the entry of one DPU core of the KV260 image of release 2.5."""
    entry = {
        "DPU Arch": "DPUCZDX8G_ISA1_B4096",
        "DPU Frequency (MHz)": 300,
        "IP Type": "DPU",
        "XRT Frequency (MHz)": 300,
        "cu_idx": index,
        "cu_name": f"DPUCZDX8G:DPUCZDX8G_{index + 1}",
        "fingerprint": "0x101000016010407",
        "name": f"DPU Core {index}",
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def make_query(*kernels: dict[str, Any], release: str = "2.5.0", ip: str = "v4.0.0") -> str:
    """Return the JSON that the board prints for these kernels."""
    document = {
        "DPU IP Spec": {"DPU Core Count": len(kernels), "IP version": ip, "regmap": "1to1 version"},
        "VAI Version": {
            "libvart-runner.so": f"Xilinx vart-runner Version: {release}-27b0b58  2022-06-08-08:35:50 ",
            "libxir.so": "Xilinx xir Version: xir-7387c9c 2022-06-08-08:34:56",
            "target_factory": f"target-factory.{release} 9e04a0e",
        },
        "kernels": list(kernels),
    }
    return json.dumps(document, indent=4, separators=(",", ":"))
