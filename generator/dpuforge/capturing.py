"""Run by looking.py in a process of its own: tries a project's network, then records its operators.

python -m dpuforge.capturing SCRIPTS ROOT BUILD OUT OPTIONS, in the folder SCRIPTS of generated files: their
check_model.py runs first and ends the process where something is wrong; OUT then holds the pickled operators and what
was frozen. OPTIONS are PrepareOptions as JSON.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from pathlib import Path


def main(scripts: str, root: str, build: str, out: str, options: str) -> None:
    """Try the network of the generated scripts and write its operators to out."""
    from dpuforge.emulator.export.network_operators import capture_network, list_operators
    from dpuforge.emulator.prepare.passes import PrepareOptions

    sys.path.insert(0, scripts)
    sys.argv = [str(Path(scripts) / "check_model.py"), "--root", root, "--build", build]
    importlib.import_module("check_model").main()
    model, preprocess = (importlib.import_module(name) for name in ("model", "preprocess"))
    network = capture_network(
        lambda: model.build_model(Path(root), weights=None, kind="none"), (1, preprocess.CHANNELS, *preprocess.INPUT_PX)
    )
    operators = list_operators(network, PrepareOptions(**json.loads(options)))
    Path(out).write_bytes(pickle.dumps((operators, network.frozen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
