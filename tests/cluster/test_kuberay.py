"""The manifests in cluster/kuberay against the schemas of KubeRay's resource definitions."""

import copy
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
KINDS = {"raycluster": "RayCluster", "rayjob": "RayJob"}


def schema_folder() -> Path | None:
    """Named by VADTUNE_KUBERAY_SCHEMAS, or `shared/data/kuberay` beside any folder that the project lies in."""
    named = os.environ.get("VADTUNE_KUBERAY_SCHEMAS")
    candidates = [Path(named)] if named else [folder / "shared/data/kuberay" for folder in ROOT.parents]
    return next((folder for folder in candidates if folder.is_dir()), None)


def close(schema: Any) -> Any:
    """Refuse keys that a schema does not name: Kubernetes drops them silently, and a misspelt one is lost."""
    if isinstance(schema, list):
        return [close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    folder = schema_folder()
    if folder is None:
        pytest.skip("no schemas of KubeRay here: name their folder in VADTUNE_KUBERAY_SCHEMAS")
    packed = {name: folder / f"{kind}.v1.schema.json.gz" for name, kind in KINDS.items()}
    return {name: close(json.loads(gzip.decompress(path.read_bytes()))) for name, path in packed.items()}


def read(name: str) -> Manifest:
    return yaml.safe_load((ROOT / f"cluster/kuberay/{name}.yaml").read_text())


def cluster_of(manifest: Manifest) -> Manifest:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@pytest.mark.parametrize("name", KINDS)
def test_kuberay_accepts_the_manifest(name: str, schemas):
    manifest = read(name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", KINDS[name])
    jsonschema.validate(manifest, schemas[name])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["authOptions", "mode"], "tokens"),
        (["enableInTreeAutoscaler"], True),
        (["headGroupSpec", "template", "spec", "containers", 0, "volumeMount"], []),
        (["workerGroupSpecs", 0, "minReplicas"], "none"),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, list) else "",
)
def test_a_broken_copy_is_refused(name: str, path: list[Any], value: object, schemas):
    manifest = copy.deepcopy(read(name))
    *parents, leaf = path
    place: Any = cluster_of(manifest)
    for key in parents:
        place = place[key]
    place[leaf] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schemas[name])


def test_the_job_makes_the_same_cluster():
    assert cluster_of(read("rayjob")) == cluster_of(read("raycluster"))


def test_a_token_is_asked_for():
    assert cluster_of(read("raycluster"))["authOptions"] == {"mode": "token"}


def test_all_pods_mount_the_shared_folder():
    claim = read("storage")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = cluster_of(read("raycluster"))
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    for pod in pods:
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "emptyDir" not in v}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert claims == {"runs": claim["metadata"]["name"]}
        assert mounts["runs"] == "/mnt/shared"


def test_ray_is_the_version_that_nodes_elsewhere_install():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    dockerfile = (ROOT / "cluster/kuberay/Dockerfile").read_text()
    version = cluster_of(read("raycluster"))["rayVersion"]
    assert f"ray=={version}" in pins
    assert f"rayproject/ray:{version}-" in dockerfile


def test_what_the_dockerfile_copies_exists():
    lines = (ROOT / "cluster/kuberay/Dockerfile").read_text().splitlines()
    copied = [path for line in lines if line.startswith("COPY") for path in line.split()[2:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
