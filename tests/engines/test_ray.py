"""Merges on Ray: the same bytes as here, on one node, on two, and where workers and nodes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hydraopt import merge
from hydraopt.errors import UsageError, WorkerError
from hydraopt.merging import OnRay
from hydraopt.merging.pool import WorkerLostError
from tests.engines.servants import Counter
from tests.merging.merge_cases import modules_of

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
rayengine = pytest.importorskip("hydraopt.merging.rayworkers")
pytestmark = [
    pytest.mark.slow,
    # Ray's own, from threads and sockets that it leaves to the end of the process.
    pytest.mark.filterwarnings("ignore"),
]

STORE = 80 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each on this machine, beside a head that has none."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    # Ray takes another address of this machine for 127.0.0.1, which need not be reachable.
    address, services.get_node_ip_address = services.get_node_ip_address, lambda *_: "127.0.0.1"
    about = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **about})
    made.nodes = [made.add_node(num_cpus=1, **about) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        services.get_node_ip_address = address


@pytest.fixture
def three(make_adapter: Any, tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / name, modules_of(i)) for i, name in enumerate(("a", "b", "c"))]


def test_actors_answer_in_order(cluster: Any) -> None:
    with OnRay().pool(2, lambda: None) as pool:
        pool.hire(Counter, 10)
        answers = [pool.call(n % 2, "add", 1) for n in range(6)]
        assert [x() for x in answers] == [11, 11, 12, 12, 13, 13]
        with pytest.raises(UsageError, match=r"^refused \[module m\]\.$"):
            pool.call(1, "refuse")()


def test_a_lost_actor_is_an_error_and_another_takes_its_place(cluster: Any) -> None:
    with OnRay().pool(2, lambda: None) as pool:
        pool.hire(Counter, 5)
        os.kill(pool.call(1, "pid")(), signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="worker 1 ended"):
            pool.call(1, "add", 1)()
        assert pool.revive() == [1]
        assert pool.call(1, "add", 1)() == 6


def test_too_few_cores_are_an_error_that_says_so(cluster: Any, monkeypatch) -> None:
    monkeypatch.setattr(rayengine, "_START", 5.0)
    told = pytest.raises(WorkerError, match=r"of 3 workers after 5 s; . of 2 cores.*--workers")
    with OnRay().pool(3, lambda: None) as pool, told:
        pool.hire(Counter, 5)
    with OnRay().pool(2, lambda: None) as pool:
        monkeypatch.setattr(rayengine, "_START", 60.0)
        pool.hire(Counter, 5)
        assert pool.call(1, "add", 1)() == 6


def test_two_nodes_give_the_bytes_of_this_process(cluster: Any, three, tmp_path) -> None:
    merge(three, tmp_path / "here", size="20%", workers=1)
    merge(three, tmp_path / "ray", size="20%", workers=OnRay(workers=2))
    assert (tmp_path / "ray").read_bytes() == (tmp_path / "here").read_bytes()


def test_a_worker_and_a_node_that_die_change_no_byte(
    cluster: Any, three, tmp_path, monkeypatch
) -> None:
    merge(three, tmp_path / "here", size="20%", workers=1)
    died: list[str] = []
    pools: list[Any] = []
    start = rayengine.RayPool.hire

    def noted(self: Any, make: Any, *arguments: Any) -> None:
        pools.append(self)
        start(self, make, *arguments)

    monkeypatch.setattr(rayengine.RayPool, "hire", noted)

    def ends(stage: str, done: int, total: int) -> None:
        if stage == "reading" and done == 2 and not died:
            died.append("worker")
            os.kill(pools[0].pids[0], signal.SIGKILL)
        elif stage != "reading" and done == 1 and died == ["worker"]:
            died.append("node")
            cluster.remove_node(cluster.nodes.pop())
            about = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE}
            cluster.nodes.append(cluster.add_node(num_cpus=1, **about))

    engine = OnRay(workers=2, work=tmp_path / "work")
    merge(three, tmp_path / "ray", size="20%", workers=engine, progress=ends)
    assert died == ["worker", "node"]
    assert (tmp_path / "ray").read_bytes() == (tmp_path / "here").read_bytes()


def test_without_an_address_one_node_is_started_and_ended(three, tmp_path) -> None:
    """In a process of its own: this one is in a cluster."""
    merge(three, tmp_path / "here", size="20%", workers=1)
    code = (
        "import sys\nfrom hydraopt import merge\nfrom hydraopt.merging.workers import OnRay\n"
        "*adapters, output = sys.argv[1:]\n"
        "print(merge(adapters, output, size='20%', workers=OnRay(workers=2)).size)\n"
    )
    command = [sys.executable, "-c", code, *map(str, three), str(tmp_path / "ray")]
    env = {key: x for key, x in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (tmp_path / "ray").stat().st_size
    assert (tmp_path / "ray").read_bytes() == (tmp_path / "here").read_bytes()
