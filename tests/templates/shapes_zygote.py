"""A process that has imported torch once and forks for every script, so that no test waits for the import."""

import json
import os
import runpy
import sys
import traceback

import numpy  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401
import tqdm  # noqa: F401
from PIL import Image

Image.init()


def become(request):
    """Turn this process into the script: its arguments, environment, output file and module path."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request["environment"])
    for folder in reversed(request["environment"].get("PYTHONPATH", "").split(os.pathsep)):
        if folder:
            sys.path.insert(0, folder)
    sys.path.insert(0, os.path.dirname(request["script"]))
    sys.argv = [request["script"], *request["arguments"]]
    runpy.run_path(request["script"], run_name="__main__")


def start(request):
    """Fork, run the script in the child and return its process id."""
    child = os.fork()
    if child:
        return child
    status = 0
    try:
        become(request)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(child):
    """Return the exit status of a child: negative is a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


for line in sys.stdin:
    request = json.loads(line)
    print(wait(request["wait"]) if "wait" in request else start(request), flush=True)
