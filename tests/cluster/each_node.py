"""Say which nodes of the running cluster take work; submitted by test_ray_up.py."""

import json
import os
import socket
import sys
import time

import ray

ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def host() -> str:
    time.sleep(1)
    return socket.gethostname()


hosts = ray.get([host.remote() for _ in range(12)])
print(json.dumps({"hosts": sorted(set(hosts)), "arguments": sys.argv[1:]}))  # noqa: T201
