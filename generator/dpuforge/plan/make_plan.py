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
        stages=plan_stages(project, digest, [target.board for target in targets]),
        settings=settings or {},
        boards={it.board: {"target": it.target, "fingerprint": it.fingerprint_text} for it in targets},
        image=find_image(release),
    )


def hash_sources(project: Project) -> str:
    """Return the digest of the spec and its base files: the spec's own sha256 where there is no base."""
    if not project.bases:
        return project.spec.sha256
    parts = [source.sha256 for source in (project.spec, *project.bases)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
