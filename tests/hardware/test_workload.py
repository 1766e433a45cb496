"""The compiler's own accounting, reproduced for every operator of the compiled models on record."""

import csv
import json
from pathlib import Path

from dpuforge.hardware.workload import measure_work
from dpuforge.records.hardware import Catalogue
from dpuforge.records.operator import Operator, OpKind

KINDS = {
    "conv2d-fix": OpKind.CONV,
    "depthwise-conv2d-fix": OpKind.DEPTHWISE,
    "transposed-conv2d-fix": OpKind.TRANSPOSED,
    "pool-fix": {"MAX": OpKind.MAX_POOL, "AVG": OpKind.AVERAGE_POOL},
    "eltwise-fix": {"ADD": OpKind.ADD, "MUL": OpKind.MUL},
}


def read_targets(facts: Path) -> dict[str, str]:
    """Return the DPU name stored in each compiled model."""
    with (facts / "xmodel_fingerprints.csv").open(encoding="utf-8") as file:
        return {f"{row['path']}@{row['release']}": row["dpu_name"] for row in csv.DictReader(file)}


def read_operator(row: dict[str, str]) -> Operator:
    """Make the neutral operator of one recorded operator; the records write kernel and stride as [w, h]."""
    kind = KINDS[row["type"]]
    return Operator(
        name=row["op"],
        kind=kind[row["pool_or_elt_type"]] if isinstance(kind, dict) else kind,
        inputs=tuple(str(i) for i in range(len(json.loads(row["in_shapes"])))),
        in_shapes=tuple(tuple(shape) for shape in json.loads(row["in_shapes"])),
        out_shape=tuple(json.loads(row["out_shape"])),
        kernel=tuple(json.loads(row["kernel"] or "[1, 1]")[::-1]),
        stride=tuple(json.loads(row["stride"] or "[1, 1]")[::-1]),
    )


def test_workload_of_every_recorded_operator_is_reproduced(catalogue: Catalogue, facts: Path) -> None:
    """workload and workload_on_arch equal the compiler's for all convolutions, pools and eltwise operators."""
    targets = read_targets(facts)
    checked = 0
    with (facts / "xmodel_op_workloads.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row["workload"]:
                continue
            name = "DPUCZDX8G_ISA1_B4096" if "KV260" in row["model"] else targets[row["model"]]
            dpu = catalogue.dpus[name]
            work = measure_work(read_operator(row), dpu, catalogue.families[dpu.family])
            assert work.workload == int(row["workload"]), row
            assert work.on_arch == int(row["workload_on_arch"]), (row, work.on_arch)
            checked += 1
    assert checked == 824


def test_the_sum_of_mobilenet_v2_is_the_recorded_attribute_of_the_subgraph(catalogue: Catalogue, facts: Path) -> None:
    """The operators of the recorded MobileNetV2 add up to 606 232 547 and 710 475 904 operations on a B4096."""
    dpu = catalogue.dpus["DPUCZDX8G_ISA1_B4096"]
    with (facts / "xmodel_op_workloads.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "transfer,3 classes" in row["model"] and row["workload"]]
    works = [measure_work(read_operator(row), dpu, catalogue.families[dpu.family]) for row in rows]
    assert sum(work.workload for work in works) == 606_232_547
    assert sum(work.on_arch for work in works) == 710_475_904
