"""cluster/aws.yaml and cluster/aws-setup.yaml against moto's server: Ray's bootstrap, nodes started and terminated."""

import copy
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuning.s3 import wait_for

pytest.importorskip("moto", reason="needs moto[server]")
boto3 = pytest.importorskip("boto3", reason="needs boto3")
pytest.importorskip("ray.autoscaler._private.util", reason="needs ray[default]")
from ray.autoscaler._private.commands import _bootstrap_config  # noqa: E402
from ray.autoscaler._private.providers import _get_node_provider  # noqa: E402
from ray.autoscaler.tags import TAG_RAY_NODE_KIND  # noqa: E402

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]


@pytest.fixture(scope="module")
def aws(tmp_path_factory) -> Iterator[None]:
    """Moto's server in place of AWS, and a home folder for the key pair that Ray makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("AWS_")]:
            patch.delenv(key)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        try:
            wait_for(url, server)
            yield
        finally:
            server.kill()
            server.wait()
            log.close()


@pytest.fixture(scope="module")
def aws_config(aws: None) -> Config:  # noqa: ARG001
    """aws.yaml with the lines filled in that the setup file prints."""

    stacks = boto3.client("cloudformation")
    stacks.create_stack(
        StackName="vadtune",
        TemplateBody=(ROOT / "cluster/aws-setup.yaml").read_text(),
        Parameters=[{"ParameterKey": "SshCidr", "ParameterValue": "203.0.113.7/32"}],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    outputs = {o["OutputKey"]: o["OutputValue"] for o in stacks.describe_stacks()["Stacks"][0]["Outputs"]}
    image = boto3.client("ec2").describe_images()["Images"][0]["ImageId"]
    text = (ROOT / "cluster/aws.yaml").read_text()
    text = text.replace("ami-00000000000000000", image).replace("sg-00000000000000000", outputs["SecurityGroup"])
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def started(aws_config: Config) -> Config:
    """The configuration after Ray's bootstrap: key pair, subnets, groups and roles found or made."""

    return _bootstrap_config(aws_config, no_config_cache=True)


def test_aws_nodes_let_ssh_in_from_the_stated_addresses_only(started: Config):

    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    used = {
        group for kind in started["available_node_types"].values() for group in kind["node_config"]["SecurityGroupIds"]
    }
    rules = [rule for group in groups if group["GroupId"] in used for rule in group["IpPermissions"]]
    assert len(used) == 1
    assert {cidr["CidrIp"] for rule in rules for cidr in rule["IpRanges"]} == {"203.0.113.7/32"}
    assert {pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]} == used
    assert not [group for group in groups if group["GroupName"].startswith("ray-autoscaler")]


def test_aws_nodes_reach_the_bucket_by_their_role(started: Config):

    iam = boto3.client("iam")
    kinds = started["available_node_types"]
    profiles = {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()}
    assert profiles == {"head": "vadtune-head", "gpu_spot": "vadtune-worker", "gpu_on_demand": "vadtune-worker"}
    for profile in set(profiles.values()):
        (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        assert "storage" in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []


def test_aws_key_is_readable_by_its_owner_only(started: Config):
    key = Path(started["auth"]["ssh_private_key"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_aws_nodes_start_and_are_terminated(started: Config):

    provider = _get_node_provider(started["provider"], started["cluster_name"])
    seen = {}
    for name, kind in started["available_node_types"].items():
        tags = {TAG_RAY_NODE_KIND: "head" if name == "head" else "worker"}
        ((node_id, node),) = provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1).items()
        node.load()
        seen[name] = (node.instance_type, node.instance_lifecycle)
        provider.non_terminated_nodes({})
        provider.terminate_node(node_id)
        node.load()
        assert node.state["Name"] in ("shutting-down", "terminated")
    assert seen == {
        "head": ("m7i.xlarge", None),
        "gpu_spot": ("g6.2xlarge", "spot"),
        "gpu_on_demand": ("g6.2xlarge", None),
    }
