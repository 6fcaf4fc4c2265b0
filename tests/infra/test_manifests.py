"""The files of `infra/` and the pages of `docs/clusters/`, as far as they can be checked without a cluster.

Core objects of Kubernetes are held against its schemas (kubernetes-validate). The definitions of RayJob and Kueue are in no
package index, so that the names of their fields stand here by hand, as of KubeRay 1.6 and Kueue 0.18.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from house import ROOT

from paraphrase.sweep.settings.config import load_sweep
from paraphrase.sweep.settings.schema import fields

INFRA = ROOT / "infra"
PAGES = sorted((ROOT / "docs" / "clusters").glob("*.md"))
ABOUT_ALL = {"README", "faults"}
"""Pages of no single target."""
KUBERNETES = ("kuberay", "mlflow", "postgres")
FILES = sorted(
    p for p in INFRA.rglob("*") if p.is_file() and "__pycache__" not in p.parts and "local" not in p.relative_to(INFRA).parts
)
MANIFESTS = [p for p in FILES if p.suffix == ".yaml" and p.relative_to(INFRA).parts[0] in KUBERNETES]
SCRIPTS = [p for p in FILES if p.suffix in (".sh", ".sbatch")]
RAY_CLUSTERS = sorted((INFRA / "ray").glob("*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def objects() -> list[tuple[str, dict[str, Any]]]:
    """File and object, of all that `kubectl` would be given."""
    return [
        (named(path), each)
        for path in MANIFESTS
        if path.name not in ("kustomization.yaml", "sweep.yaml")
        for each in yaml.safe_load_all(path.read_text())
    ]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings within a value, itself first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from walk(each)


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "kuberay" / "rayjob.yaml").read_text())


def pod_templates() -> list[tuple[str, dict[str, Any]]]:
    """What all pods are made from, also those that KubeRay makes."""
    return [
        (f"{file} {each['kind']}", found)
        for file, each in objects()
        for found in walk(each)
        if isinstance(found.get("spec"), dict) and "containers" in found["spec"]
    ]


def test_every_file_parses() -> None:
    for path in INFRA.rglob("*.yaml"):
        assert list(yaml.safe_load_all(path.read_text())), named(path)
    for path in INFRA.rglob("*.json"):
        assert json.loads(path.read_text()), named(path)
    assert len(MANIFESTS) > 10 and len(SCRIPTS) > 4 and len(RAY_CLUSTERS) == 3


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=named)
def test_no_secret_and_no_private_address_stands_anywhere(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"://[^/\s:@'\"]+:[^/\s@'\"]+@", text), "a password in a URL"
    assert not re.search(r"\bAKIA[0-9A-Z]{12,}|-----BEGIN|\bgh[pous]_\w{20,}|\b[0-9a-f]{32,}\b", text), "a key"
    addresses = re.findall(r"\b(?:10|127|169|172|192|198|203)(?:\.\d{1,3}){3}\b", text)
    allowed = ("127.0.0.1", "169.254.", "192.0.2.", "198.51.100.", "203.0.113.")  # loopback, metadata, documentation (RFC 5737)
    assert not [each for each in addresses if not each.startswith(allowed)]
    for name, value in re.findall(
        r"^\s*(?:export )?(\w*(?:PASSWORD|SECRET\w*|ACCESS_KEY\w*|TOKEN))[:=] *(\S.*)$", text, re.MULTILINE
    ):
        plain = value.split(" #")[0].strip("\"' ")
        assert plain.startswith(("REPLACE-ME", "$", "...", "%s")), f"{name}: {plain}"


@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_core_objects_are_as_the_schemas_of_kubernetes_say(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate==1.37.0")
    checked = 0
    for file, each in objects():
        if each["apiVersion"].partition("/")[0] in ("ray.io", "kueue.x-k8s.io"):
            continue
        if "generateName" in each["metadata"]:
            each["metadata"]["name"] = each["metadata"]["generateName"] + "0"
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except Exception as error:
            pytest.fail(f"{file} {each['kind']} {each['metadata']['name']}: {error}")
        checked += 1
    for file, template in pod_templates():  # those of the RayJob among them
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **template.get("metadata", {})},
            "spec": template["spec"],
        }
        try:
            kubernetes_validate.validate(pod, version, strict=True)
        except Exception as error:
            pytest.fail(f"{file}: {error}")
    assert checked > 20


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl, which builds kustomizations without a cluster")
@pytest.mark.parametrize("components", [[], ["kueue"], ["cpu"], ["kueue", "cpu"]], ids=lambda names: "+".join(names) or "plain")
def test_kustomizations_build(tmp_path: Path, components: list[str]) -> None:
    for part in KUBERNETES:
        shutil.copytree(INFRA / part, tmp_path / part)
    file = tmp_path / "kuberay" / "kustomization.yaml"
    for each in components:
        assert f"  # - {each}" in file.read_text()
        file.write_text(file.read_text().replace(f"  # - {each}", f"  - {each}"))
    built = {part: _build(tmp_path / part) for part in KUBERNETES}
    assert {each["kind"] for each in built["mlflow"]} >= {
        "Deployment",
        "Service",
        "CronJob",
        "ConfigMap",
        "PersistentVolumeClaim",
    }
    assert "init.sh" in next(each for each in built["postgres"] if each["kind"] == "ConfigMap")["data"]
    assert not [each for part in built.values() for each in part if each["kind"] == "Secret"]
    job = next(each for each in built["kuberay"] if each["kind"] == "RayJob")
    config = next(each for each in built["kuberay"] if each["kind"] == "ConfigMap")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "sweep", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    assert list(config["data"]) == ["sweep.yaml"]
    worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert ("nvidia.com/gpu" in worker["resources"]["limits"]) is ("cpu" not in components)
    if "kueue" in components:
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "paraphrase"
        assert job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"  # else Kueue refuses one that scales itself
        assert {"ResourceFlavor", "ClusterQueue", "LocalQueue"} <= {each["kind"] for each in built["kuberay"]}
    assert not [each for each in built["kuberay"] if "namespace" in each["metadata"]]  # a ClusterQueue has none


def _build(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


# Names of fields, from KubeRay's API reference.
RAYJOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "entrypoint",
    "rayClusterSpec",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "ttlSecondsAfterFinished",
}
RAYCLUSTER = {"authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
AUTOSCALER = {"env", "idleTimeoutSeconds", "imagePullPolicy", "resources", "securityContext", "upscalingMode", "version"}
HEAD = {"rayStartParams", "serviceType", "template"}
WORKERS = {"groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "template"}


def test_the_rayjob_has_the_fields_of_kuberay() -> None:
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert set(spec) <= RAYJOB and set(cluster) <= RAYCLUSTER
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER and set(cluster["headGroupSpec"]) <= HEAD
    assert all(set(group) <= WORKERS for group in cluster["workerGroupSpecs"])
    assert set(spec["submitterConfig"]) == {"backoffLimit"} and set(cluster["authOptions"]) == {"mode"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        known = {option.removeprefix("--") for option in options_of("ray", "start")}
        assert set(group["rayStartParams"]) <= known


def test_the_rayjob_goes_on_after_any_loss_and_is_closed() -> None:
    spec = rayjob()["spec"]
    cluster = spec["rayClusterSpec"]
    head, worker = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    assert spec["entrypoint"].startswith("paraphrase sweep run ") and spec["entrypoint"].endswith(" --resume")
    assert spec["submissionMode"] == "K8sJobMode" and spec["backoffLimit"] == 3 and "suspend" not in spec
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 60
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] == worker["replicas"] == 0 < worker["maxReplicas"]
    assert cluster["rayVersion"] == pinned("ray")
    for template in (head["template"], worker["template"], spec["submitterPodTemplate"]):
        assert template["spec"]["restartPolicy"] == "Never"
        assert template["spec"]["containers"][0]["resources"].keys() == {"requests", "limits"}
    secrets = lambda group: {each["secretRef"]["name"] for each in group["template"]["spec"]["containers"][0]["envFrom"]}  # noqa: E731
    assert secrets(head) == {"paraphrase-driver", "paraphrase-store"} and secrets(worker) == {"paraphrase-store"}
    for group in (head, worker):  # a folder within the volume, whose top is root's: another user's scratch is refused
        container = group["template"]["spec"]["containers"][0]
        scratch = Path(next(each["value"] for each in container["env"] if each["name"] == "PARAPHRASE_SCRATCH"))
        assert str(scratch.parent) in [each["mountPath"] for each in container["volumeMounts"]]
    # A worker is as large as one trial.
    sweep = yaml.safe_load((INFRA / "kuberay" / "sweep.yaml").read_text())
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert sweep["resources"]["cpus_per_trial"] == int(limits["cpu"])
    assert sweep["resources"]["gpus_per_trial"] == int(limits["nvidia.com/gpu"])
    assert sweep["resources"]["concurrency"] == worker["maxReplicas"]


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    for file, template in pod_templates():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, file
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, file
        if spec.get("serviceAccountName") != "paraphrase-head":  # whose autoscaler calls the API server
            assert spec["automountServiceAccountToken"] is False, file
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, file
            assert {"requests", "limits"} <= set(container["resources"]), file
    assert len(pod_templates()) == 9


def test_what_manifests_name_exists() -> None:
    all_ = [each for _, each in objects()]
    secrets = {each["metadata"]["name"]: set(each["stringData"]) for each in all_ if each["kind"] == "Secret"}
    accounts = {each["metadata"]["name"] for each in all_ if each["kind"] == "ServiceAccount"}
    claims = {each["metadata"]["name"] for each in all_ if each["kind"] == "PersistentVolumeClaim"}
    maps = {
        made["name"]: made["files"]
        for path in INFRA.rglob("kustomization.yaml")
        for made in yaml.safe_load(path.read_text()).get("configMapGenerator", [])
    }
    used: set[str] = set()
    for file, each in objects():
        for found in walk(each):
            if isinstance(found.get("secretRef"), dict):
                assert found["secretRef"]["name"] in secrets, file
                used.add(found["secretRef"]["name"])
            if isinstance(found.get("secretKeyRef"), dict):
                assert found["secretKeyRef"]["key"] in secrets[found["secretKeyRef"]["name"]], file
            if isinstance(found.get("configMap"), dict):
                assert found["configMap"]["name"] in maps, file
            if isinstance(found.get("persistentVolumeClaim"), dict):
                assert found["persistentVolumeClaim"]["claimName"] in claims, file
            if "serviceAccountName" in found:
                assert found["serviceAccountName"] in accounts, file
    assert used == set(secrets)
    values = [value for each in all_ if each["kind"] == "Secret" for value in each["stringData"].values()]
    assert values.count("REPLACE-ME") == len(values) - 3  # two user names and a region


def test_network_policies_close_all_and_open_what_is_used() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for _, each in objects() if each["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    parts = {template["metadata"]["labels"]["paraphrase/part"] for _, template in pod_templates()}
    assert parts == {"ray", "submitter", "mlflow", "postgres", "job"}
    chosen = {
        found["matchLabels"]["paraphrase/part"]
        for spec in policies.values()
        for found in walk(spec)
        if "matchLabels" in found and "paraphrase/part" in found["matchLabels"]
    }
    assert chosen == parts
    head = {"paraphrase/part": "ray", "ray.io/node-type": "head"}  # the second label is KubeRay's
    for name, port in (("postgres", 5432), ("mlflow", 5000)):
        opened = [rule for rule in policies[name]["ingress"] if rule["ports"] == [{"port": port, "protocol": "TCP"}]]
        senders = [each["podSelector"]["matchLabels"] for rule in opened for each in rule["from"]]
        assert head in senders and {"paraphrase/part": "ray"} not in senders, "workers have no business there"
    blocks = [found["ipBlock"] for spec in policies.values() for found in walk(spec) if "ipBlock" in found]
    assert all("169.254.0.0/16" in each.get("except", []) for each in blocks if each["cidr"] == "0.0.0.0/0")


def test_connections_of_all_are_fewer_than_postgres_takes() -> None:
    mlflow = next(template for file, template in pod_templates() if file.endswith("server.yaml Deployment"))["spec"][
        "containers"
    ][0]
    env = {each["name"]: int(each["value"]) for each in mlflow["env"] if each["name"].startswith("MLFLOW_SQLALCHEMYSTORE_")}
    workers = int(next(each for each in mlflow["args"] if each.startswith("--workers=")).partition("=")[2])
    server = workers * 3 * (env["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] + env["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"])
    text = (INFRA / "postgres" / "postgres.yaml").read_text()
    most = int(re.search(r"-cmax_connections=(\d+)", text)[1])
    assert server == 60 and server + 40 + 10 + 3 <= most
    limits = dict(re.findall(r"CREATE ROLE (\w+) LOGIN CONNECTION LIMIT (\d+)", (INFRA / "postgres" / "init.sh").read_text()))
    assert int(limits["mlflow"]) > server and sum(map(int, limits.values())) > most - 3


@pytest.mark.filterwarnings("ignore")  # of the server's own imports
def test_the_mlflow_server_is_closed_and_reads_the_file_it_is_given() -> None:
    server = next(template for file, template in pod_templates() if file.endswith("server.yaml Deployment"))["spec"][
        "containers"
    ][0]
    args = dict(each.removeprefix("--").split("=", 1) for each in server["args"])
    hosts = args["allowed-hosts"].split(",")
    assert "*" not in args["allowed-hosts"] and all(host.endswith(":5000") for host in hosts)  # compared with the port, as it is
    assert (
        "mlflow:5000" in hosts
        and args["app-name"] == "basic-auth"
        and args["backend-store-uri"].startswith("postgresql+psycopg://")
    )
    assert {server[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {"/health"}
    from mlflow.server.auth import config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(INFRA / "mlflow" / "auth.ini"))
        read = config.read_auth_config()
    assert read.auth_cache_ttl_seconds == 60 and read.admin_password is None and read.database_uri.endswith("/mlflow_auth")
    sweep = yaml.safe_load((INFRA / "kuberay" / "sweep.yaml").read_text())
    assert sweep["tracking_uri"].removeprefix("http://") in hosts


@pytest.mark.parametrize("path", RAY_CLUSTERS, ids=named)
def test_ray_accepts_its_cluster_files(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))  # needs no package of a cloud
    validate_config(config)
    head = " ".join(config["head_start_ray_commands"])
    worker = " ".join(config["worker_start_ray_commands"])
    for commands in (head, worker):
        assert "RAY_AUTH_MODE=token" in commands and "ulimit -n 65536" in commands and "chmod 600 ~/.ray/auth_token" in commands
    assert "--num-cpus=0" in head and "--dashboard-host=127.0.0.1" in head and "--autoscaling-config=" in head
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for local in config["file_mounts"].values():
        assert local.startswith("~/") or local == "dist" or (ROOT / local).exists(), f"{local}: `ray up` runs at the top"
    types = {name: each for name, each in config["available_node_types"].items() if name != config["head_node_type"]}
    if path.name == "local.yaml":
        assert config["available_node_types"][config["head_node_type"]]["min_workers"] == len(config["provider"]["worker_ips"])
    else:
        assert all(each["min_workers"] == 0 and each["resources"]["GPU"] >= 1 for each in types.values())
        assert any("spot-watch.sh" in command for command in config["worker_start_ray_commands"])
        assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_aws_nodes_are_spot_have_roles_and_a_closed_port() -> None:
    config = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    head, worker = (config["available_node_types"][name]["node_config"] for name in ("head", "spot_gpu"))
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"} and "InstanceMarketOptions" not in head
    for each in (head, worker):
        assert each["MetadataOptions"]["HttpTokens"] == "required" and "Arn" in each["IamInstanceProfile"] and each["ImageId"]
    rules = config["provider"]["security_group"]["IpPermissions"]
    assert [rule["FromPort"] for rule in rules] == [22] and "0.0.0.0/0" not in str(rules)
    for policy in (INFRA / "ray" / "aws-head-policy.json", INFRA / "objectstore" / "policy.json"):
        for statement in json.loads(policy.read_text())["Statement"]:
            wide = statement["Effect"] == "Allow" and any(str(each).endswith("*") for each in [statement["Action"]])
            assert not wide, f"{policy.name} {statement['Sid']}"


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_scripts_are_sound(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.suffix == ".sbatch" or os.access(path, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--shell=bash", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((INFRA / "slurm").glob("*.sbatch")), ids=named)
def test_slurm_scripts_save_before_the_end_and_leave_other_jobs_alone(path: Path) -> None:
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert "#SBATCH --signal=B:USR1@120\n" in text and "#SBATCH --requeue\n" in text
    assert " USR1\n" in code and " TERM INT\n" in code and 'scontrol requeue "$SLURM_JOB_ID"' in code
    assert "ray stop" not in code
    assert "umask 077" in code and "RAY_AUTH_MODE=token" in code and "RAY_AUTH_TOKEN_PATH=$RUN_DIR/token" in code
    assert "--temp-dir=" in code and "temp=/tmp/ray-$SLURM_JOB_ID" in code
    assert "--min-worker-port=0 --max-worker-port=0" in code  # by default 10002 to 19999, whatever `ray start --help` says
    base, jobs, each = map(int, re.search(r"port=\$\(\((\d+) \+ SLURM_JOB_ID % (\d+) \* (\d+)\)\)", code).groups())
    assert base > 19999 and base + jobs * each <= 32768
    offsets = [int(found) for found in re.findall(r"\$\(\(port \+ (\d+)\)\)", code)]
    assert len(offsets) == len(set(offsets)) and max(offsets) < each
    if "worker" not in path.name:
        assert re.search(r'paraphrase sweep run "\$SWEEP" --resume "resources\.address=', code)


@cache
def command_of(program: str, *words: str) -> click.Command:
    found: click.Command = {
        "ray": lambda: importlib.import_module("ray.scripts.scripts").cli,
        "mlflow": lambda: importlib.import_module("mlflow.cli").cli,
    }[program]()
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


@cache
def options_of(program: str, *words: str) -> frozenset[str]:
    own = {flag for each in command_of(program, *words).params for flag in (*each.opts, *each.secondary_opts)}
    if words == ("symmetric-run",):
        own |= options_of("ray", "start") - {"--head", "--node-ip-address", "--port", "--block"}
    return frozenset({*own, "--help"})


COMMANDS = [
    *(("ray", word) for word in ("start", "symmetric-run", "drain-node", "status", "get-auth-token", "up", "down", "exec")),
    *(("ray", word) for word in ("submit", "rsync-up", "dashboard", "stop")),
    *(("ray", "job", word) for word in ("submit", "stop", "logs", "list")),
    ("mlflow", "server"),
    ("mlflow", "gc"),
    ("mlflow", "db", "upgrade"),
]


def used_flags(text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Command and its flags, up to what ends it in a shell, of all lines that call `ray` or `mlflow`."""
    text = re.sub(r"\\\n\s*", " ", text)
    for words in COMMANDS:
        for match in re.finditer(rf"(?<![\w/.-]){' '.join(words)} ([^\n`]*)", text):
            rest = re.split(r"[;|]|&&| &|\d?>| -- | #", match[1])[0]
            try:
                yield words, [part.partition("=")[0] for part in shlex.split(rest) if re.match(r"--\w", part)]
            except ValueError:  # an apostrophe of prose
                yield words, re.findall(r"--[a-z][a-z-]*", rest)


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=named)
def test_every_flag_is_one_of_the_installed_version(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".yaml":
        for found in (each for part in yaml.safe_load_all(text) for each in walk(part)):
            if isinstance(found.get("command"), list) and found["command"][0] in ("ray", "mlflow"):
                flags = [each.partition("=")[0] for each in found["args"] if each.startswith("--")]
                assert set(flags) <= options_of(*found["command"]), named(path)
        text = "\n".join(each for part in yaml.safe_load_all(text) for found in walk(part) for each in texts(found))
    for words, flags in used_flags(text):
        assert set(flags) <= options_of(*words), f"{named(path)}: {' '.join(words)} {set(flags) - options_of(*words)}"


def texts(found: dict[str, Any]) -> Iterator[str]:
    for value in found.values():
        yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))


def test_flags_are_found_in_the_files_where_they_stand() -> None:
    found = [
        flags
        for words, flags in used_flags((INFRA / "slurm" / "symmetric.sbatch").read_text())
        if words == ("ray", "symmetric-run")
    ]
    assert {"--address", "--min-nodes", "--num-cpus", "--temp-dir", "--ray-client-server-port"} <= set(found[-1])


def test_names_in_the_environment_are_known() -> None:
    pattern = r"\b(?:PARAPHRASE|RAY|MLFLOW|AWS|PG)_?[A-Z][A-Za-z0-9_]*\b"
    names = {name for path in FILES for name in re.findall(pattern, path.read_text()) if path.suffix != ".md"}
    documented = set(re.findall(pattern, "\n".join(page.read_text() for page in PAGES).replace(r"\n", " ")))
    ray = Path(importlib.import_module("ray").__file__ or "").parent
    sources = [
        *(ray / "_private").rglob("*.py"),
        *(ray / "scripts").glob("*.py"),
        *(ray / "autoscaler" / "_private").rglob("*.py"),
    ]
    sources += [*(ray / "dashboard" / "modules" / "job").glob("*.py"), ray / "exceptions.py"]
    of_ray = "\n".join(path.read_text() for path in sources)
    of_mlflow = (Path(importlib.import_module("mlflow").__file__ or "").parent / "environment_variables.py").read_text()
    of_mlflow += "MLFLOW_PASSWORD"  # ours: infra/postgres/init.sh
    for name in sorted(names):
        if name.startswith("PARAPHRASE_"):
            assert name in ("PARAPHRASE_HOME", "PARAPHRASE_SCRATCH"), name
        elif name.startswith("RAY_"):
            assert name in of_ray, name
        elif name.startswith("MLFLOW_"):
            assert name in of_mlflow, name
        elif name.startswith("AWS_"):
            assert name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"), name
        else:
            assert name in ("PGPASSWORD", "PGPASSFILE", "PGHOST", "PGUSER", "PGDATA"), name
    secrets = yaml.safe_load_all((INFRA / "kuberay" / "secrets.example.yaml").read_text())
    assert {name for each in secrets for name in each["stringData"]} <= documented | {
        "BACKUP_PASSWORD",
        "OPTUNA_PASSWORD",
        "POSTGRES_PASSWORD",
    }
    assert {"PGPASSFILE", "PARAPHRASE_HOME", "PARAPHRASE_SCRATCH", "AWS_ENDPOINT_URL", "RAY_AUTH_MODE"} <= documented


def pinned(package: str) -> str:
    return re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE | re.IGNORECASE)[1]


def test_the_image_is_made_of_pinned_versions_and_of_nothing_else() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text()
    for package in ("torch", "torchvision"):
        assert set(re.findall(rf"\b{package}==([\d.]+)", text)) == {pinned(package)}
    installs = re.findall(r"pip install (?!--no-deps)[^\n]*", text)
    assert installs and all("-c /constraints.txt" in each for each in installs)
    assert "wget" in text  # KubeRay's probes
    assert text.count("USER 1000:1000") == 2 and "ENTRYPOINT" not in text and "\nCMD" not in text
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == allowed and all((ROOT / each).exists() for each in copied)


def test_no_data_travels_with_a_job(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    shutil.copy(ROOT / ".rayignore", tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    excludes = get_excludes_from_ignore_files(tmp_path, include_gitignore=True)
    left = lambda name: any(exclude(tmp_path / name) for exclude in excludes)  # noqa: E731
    for name in (
        ".git/HEAD",
        ".venv/bin/python",
        ".paraphrase/mlflow.db",
        "birds.pth",
        "a/b.npy",
        "driver.env",
        "tests/house.py",
    ):
        assert left(name), name
    for name in ("birds.yaml", "mynet.py", "core/config.py", "ablations/no_filter_loss.py"):
        assert not left(name), name


def test_the_sweep_of_kubernetes_is_a_sweep() -> None:
    sweep = load_sweep(INFRA / "kuberay" / "sweep.yaml")
    assert sweep.store and sweep.storage and sweep.resources.wait_for and sweep.resources.gpus_per_trial


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_short_and_their_links_and_fields_exist(page: Path) -> None:
    text = page.read_text()
    assert 40 <= len(text.splitlines()) <= 125
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, f"{page.name}: #{anchor}"
    known = {field.path for field in fields("sweep")}
    for path in re.findall(r"`(resources\.[a-z_]+)`", text):
        assert path in known, f"{page.name}: {path}"
    if page.stem not in ABOUT_ALL:
        heads = set(re.findall(r"^## (.*)$", text, re.MULTILINE))
        assert {"What it costs to try", "When something dies", "Security", "Stop and clean up"} <= heads


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    named = set(re.findall(r"(?:^|-- |exec )paraphrase ((?:sweep |cluster )?[a-z]+)", text, re.MULTILINE))
    for words in sorted(named):
        done = subprocess.run([sys.executable, "-m", "paraphrase", *words.split(), "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"paraphrase {words}: {done.stderr}"


def test_every_target_has_its_page_and_all_say_what_was_not_tested() -> None:
    assert {page.stem for page in PAGES} - ABOUT_ALL == {"laptop", "ssh", "aws", "kuberay", "slurm"}
    overview = (ROOT / "docs" / "clusters" / "README.md").read_text()
    assert overview.count("**never run**") == 2 and "**Never run**" in overview and "**never built**" in overview
    for name in ("ssh", "aws", "kuberay"):
        assert "Not tested" in (ROOT / "docs" / "clusters" / f"{name}.md").read_text()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("flock"), reason="no curl or no flock")
def test_a_spot_notice_drains_the_node(tmp_path: Path, cloud: str) -> None:
    given = threading.Event()

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200, b"for a minute")

        def do_GET(self) -> None:
            if self.path == "/latest/meta-data/spot/instance-action":
                trusted = self.headers.get("X-aws-ec2-metadata-token") == "for a minute"
                self._answer(200 if trusted and given.is_set() else 404, b"{}")
            elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers.get("Metadata-Flavor") == "Google":
                self._answer(200, b"TRUE" if given.is_set() else b"FALSE")
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.called"\n')
    ray.chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "SPOT_WATCH_INTERVAL": "0.1",
        "SPOT_WATCH_METADATA": f"http://127.0.0.1:{server.server_port}",
    }
    command = ["bash", str(INFRA / "ray" / "spot-watch.sh"), cloud]
    watch = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            watch.wait(1)
        assert subprocess.run(command, env=env, timeout=20).returncode == 0  # a second one leaves it to the first
        assert not (tmp_path / "ray.called").exists()
        given.set()
        assert watch.wait(20) == 0
    finally:
        watch.kill()
        server.shutdown()
    called = (tmp_path / "ray.called").read_text().splitlines()
    assert called[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert {each for each in called if each.startswith("--")} <= options_of("ray", "drain-node")
    reasons = next(each for each in command_of("ray", "drain-node").params if each.name == "reason").type
    assert isinstance(reasons, click.Choice) and called[2] in reasons.choices
