"""The same function over many sources: in this process, on this machine's cores, or on a Ray cluster.

Ray is imported only where it is asked for. A worker that dies takes its source with it, not the run: the source is
given to another worker, which goes on from the files that are whole, and is quarantined when it has killed three.
All machines of a cluster must see footage and results under the same paths.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import data_prep
import gpavatar
from data_prep.footage import Footage
from gpavatar.types import InputError

RETRIES = 2
AHEAD = 2  # sources per core that are handed out at a time
REACHED_S = 10.0
STORE_BYTES = 128 << 20  # names and paths pass through Ray, never pictures


@dataclass(frozen=True)
class Cluster:
    """Where to work. `address` "auto": the cluster this machine belongs to, else its cores; "local": its cores."""

    address: str = "auto"
    workers: int | None = None  # on this machine's cores; None: one per core


def each(
    prepare: Callable[[Footage], str],
    footage: Sequence[Footage],
    cluster: Cluster | None,
    give_up: Callable[[Footage, str], None],
) -> Iterator[str]:
    """Call `prepare` for every piece of footage; yields the names as they are done.

    `give_up` is told of the ones that kill every worker. InputError where the cluster cannot be reached.
    """
    if cluster is None:
        yield from map(prepare, footage)
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
    import ray

    _connect(cluster)
    try:
        work = ray.remote(num_cpus=1, max_retries=RETRIES)(lambda one: prepare(one))  # Ray takes no partial
        cores = int(ray.cluster_resources().get("CPU", 1))
        waiting = iter(footage)
        running = {work.remote(one): one for one in islice(waiting, AHEAD * cores)}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            one = running.pop(done)
            try:
                ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                give_up(one, f"ended {RETRIES + 1} workers that read it, the last without a message")
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # without the page that Ray puts around it
            yield one.name
            running |= {work.remote(other): other for other in islice(waiting, 1)}
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> None:
    import ray

    packages = [str(Path(package.__file__).parent) for package in (data_prep, gpavatar)]
    if cluster.address not in ("auto", "local"):
        _check_reachable(cluster.address)
        ray.init(cluster.address, runtime_env={"py_modules": packages}, log_to_driver=False)
        return
    if cluster.address == "auto":
        try:
            ray.init("auto", runtime_env={"py_modules": packages}, log_to_driver=False)
            return
        except ConnectionError:  # this machine belongs to no cluster
            pass
    ray.init(
        "local",
        num_cpus=cluster.workers or os.cpu_count(),
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _system_config={"enable_metrics_collection": False, "worker_niceness": 0},
    )


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if not place.hostname or not place.port:
            raise ValueError("not HOST:PORT")
        socket.create_connection((place.hostname, place.port), timeout=REACHED_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--ray {address}: cannot be reached ({error}); give auto or HOST:PORT of ray start"
        ) from error
