"""An xmodel is held against every tensor that the quantizer dumped beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dpuforge.errors import FormatError
from dpuforge.xmodel.dump import compare_with_dump
from dpuforge.xmodel.read import read_xmodel

NETS = {"tiny": "Tiny", "ops_a": "OpsA", "ops_b": "OpsB", "ops_c": "OpsC", "ops_e": "OpsE"}


@pytest.mark.parametrize("net", NETS)
def test_the_integer_run_equals_every_dumped_tensor(golden: Path, net: str) -> None:
    """The recorded file, run on integers, gives each recorded tensor to the bit."""
    folder = golden / "nets" / net
    graph = read_xmodel(folder / f"{NETS[net]}_int.xmodel")
    found = compare_with_dump(graph, folder / "deploy_check_data_int" / NETS[net])
    assert found.different == ()
    assert found.tensors >= 5


def test_a_differing_tensor_is_named(golden: Path, tmp_path: Path) -> None:
    """One changed integer in the dump is found; a folder without the input is refused."""
    folder = golden / "nets/tiny"
    graph = read_xmodel(folder / "Tiny_int.xmodel")
    dump = tmp_path / "Tiny"
    shutil.copytree(folder / "deploy_check_data_int/Tiny", dump)
    path = dump / "Tiny__Tiny_Linear_fc__ret_fix.bin"
    path.chmod(0o644)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert compare_with_dump(graph, dump).different == ("Tiny__Tiny_Linear_fc__ret_fix",)
    with pytest.raises(FormatError, match="input"):
        compare_with_dump(graph, tmp_path)
