"""Films made by Ray's workers: the same bytes, with and without a folder that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_workers import everything, manifest
from tiny_film import made, story

from anchorshot.core.errors import InputError
from anchorshot.execution.ray import RayExecutor
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.film import make_film

ray = pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: `pip install 'anchorshot[ray]'` to test the Ray workers")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def whole(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The film as one process makes it."""
    folder = tmp_path_factory.mktemp("ray") / "whole"
    make_film(story(), studio, folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two Ray nodes on this machine, with room for one worker each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster()
    for _ in range(2):
        nodes.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)
    try:
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.parametrize(("shared", "workers"), [(None, 1), (False, 2)], ids=["one folder", "no shared folder"])
def test_ray_makes_the_film_that_one_process_makes(
    shared: bool | None, workers: int, cluster: str, whole: Path, studio: Studio, tmp_path: Path
) -> None:
    """Without a shared folder keyframes and clips travel as bytes, to workers and back."""
    seen: dict[str, Any] = {}

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        seen[stage] = done / total

    executor = RayExecutor(cluster, workers, shared)
    summary = make_film(story(), studio, tmp_path / "film", executor=executor, progress=progress)
    assert everything(tmp_path / "film") == everything(whole)
    assert manifest(tmp_path / "film") == manifest(whole)
    assert len(made(summary)) == 4 + 3 + 1 and seen == {"keyframes": 1, "video": 1}


def test_no_cluster_at_the_address(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--ray: must be the address of a Ray cluster"):
        make_film(story(), studio, tmp_path / "film", executor=RayExecutor("127.0.0.1:1"))
