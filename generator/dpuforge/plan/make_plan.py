"""Make the plan of a project: its files and its stages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.plan.artifacts import plan_files
from dpuforge.plan.flow_contexts import find_image
from dpuforge.plan.stages import plan_stages
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import Plan
from dpuforge.records.project import Project


def make_plan(
    project: Project,
    targets: Sequence[BoardTarget],
    release: Release,
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Return all that a project leads to on these boards under its release; nothing is touched.

    settings are the effective values of the spec's keys, for the manifest.
    """
    digest = hash_sources(project)
    return Plan(
        project=project,
        command=f"dpuforge generate {project.spec.path}",
        spec_sha256=digest,
        files=plan_files(project, targets, release),
        stages=plan_stages(project, [target.board for target in targets], _find_settings(project, targets)),
        settings=settings or {},
        boards={it.board: {"target": it.target, "fingerprint": it.fingerprint_text} for it in targets},
        image=find_image(release),
    )


def _find_settings(project: Project, targets: Sequence[BoardTarget]) -> dict[str, Any]:
    """Return what decides the checks that dpuforge makes itself: keys of the spec, and the DPU of each board."""
    return {
        "target.dpu_subgraphs": project.target.dpu_subgraphs,
        "target.net_name": project.target.net_name,
        "quantization.target_device": project.quantization.target_device,
        **{f"board {target.board}": _describe_target(target) for target in targets},
    }


def _describe_target(target: BoardTarget) -> str:
    digest = hashlib.sha256(repr(target).encode()).hexdigest()
    return f"{target.target} {target.fingerprint_text} ({digest[:8]})"


def hash_sources(project: Project) -> str:
    """Return the digest of the spec and its base files: the spec's own sha256 where there is no base."""
    if not project.bases:
        return project.spec.sha256
    parts = [source.sha256 for source in (project.spec, *project.bases)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
