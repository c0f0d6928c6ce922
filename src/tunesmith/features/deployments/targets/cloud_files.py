"""The files of a container folder, and whether they can be read by those they are for."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PORT = 8080
CONTEXT_TOKENS = 4096
IMAGES = {
    ("llama.cpp", False): "ghcr.io/ggml-org/llama.cpp:server",
    ("llama.cpp", True): "ghcr.io/ggml-org/llama.cpp:server-cuda",
    ("vllm", True): "vllm/vllm-openai:latest",
}
"""By engine, and whether there is a GPU."""
DOCKER_WORDS = {"FROM", "COPY", "RUN", "ENV", "EXPOSE", "ENTRYPOINT", "CMD", "USER", "WORKDIR", "HEALTHCHECK", "LABEL", "ARG"}  # fmt: skip


class Plan(NamedTuple):
    """What the container serves, and how."""

    name: str
    title: str
    engine: str
    gpu: bool
    image: str
    model: str
    """Path of the model below the folder: a GGUF file or a model's folder."""
    adapter: str
    """Path of a LoRA adapter's folder below the folder, or empty."""
    context_tokens: int
    sampling: dict[str, Any]
    memory_gib: int
    """What the container asks for."""


def container_files(plan: Plan, *, sagemaker: bool) -> dict[str, str]:
    """What every provider needs: name → text."""
    needs_proxy = sagemaker and plan.engine == "llama.cpp"
    proxy = [
        "RUN apt-get update && apt-get install -y --no-install-recommends nginx && rm -rf /var/lib/apt/lists/*",
        "COPY nginx.conf /etc/nginx/nginx.conf",
    ]
    dockerfile = [
        f"FROM {plan.image}",
        f"LABEL org.opencontainers.image.title={json.dumps(plan.name)}",
        *(proxy if needs_proxy else []),
        "COPY model /opt/model",
        "COPY start.sh /opt/start.sh",
        "RUN chmod 755 /opt/start.sh",
        f"EXPOSE {PORT}",
        'ENTRYPOINT ["/bin/bash", "/opt/start.sh"]',
    ]
    files = {
        "Dockerfile": "\n".join(dockerfile) + "\n",
        ".dockerignore": "*\n!model\n!start.sh\n!nginx.conf\n",
        "start.sh": start_script(plan, behind_proxy=needs_proxy),
        "try.sh": try_script(plan),
    }
    return files | ({"nginx.conf": NGINX} if needs_proxy else {})


def start_script(plan: Plan, *, behind_proxy: bool) -> str:
    """What runs in the container. `API_KEY` in its environment, when set, is asked of every caller."""
    port = PORT + 1 if behind_proxy else PORT
    listen = '"${AIP_HTTP_PORT:-' + str(port) + '}"'
    if plan.engine == "vllm":
        words = [
            "python3",
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            f"/opt/{plan.model}",
            "--served-model-name",
        ]
        words += [
            f"{plan.name}-base" if plan.adapter else plan.name,
            "--max-model-len",
            str(plan.context_tokens),
            "--host",
            "0.0.0.0",
        ]
        words += ["--enable-lora", "--lora-modules", f"{plan.name}=/opt/{plan.adapter}"] if plan.adapter else []
        given = {
            key: plan.sampling[key]
            for key in ("temperature", "top_p", "top_k", "repetition_penalty")
            if plan.sampling.get(key) is not None
        }
        words += ["--override-generation-config", json.dumps(given)] if given else []
        key = '${API_KEY:+--api-key "$API_KEY"}'
    else:
        words = [
            "/app/llama-server",
            "--model",
            f"/opt/{plan.model}",
            "--alias",
            plan.name,
            "--ctx-size",
            str(plan.context_tokens),
        ]
        words += ["--jinja", "--host", "0.0.0.0", *(["--n-gpu-layers", "999"] if plan.gpu else [])]
        flags = {
            "temperature": "--temp",
            "top_p": "--top-p",
            "top_k": "--top-k",
            "repetition_penalty": "--repeat-penalty",
            "seed": "--seed",
            "max_tokens": "--predict",
        }
        for name, flag in flags.items():
            words += [flag, str(plan.sampling[name])] if plan.sampling.get(name) is not None else []
        key = '${API_KEY:+--api-key "$API_KEY"}'
    command = f"{shlex.join(words)} --port {listen} {key}"
    begin = "nginx\n" if behind_proxy else ""
    return f"#!/usr/bin/env bash\n# {plan.title}\nset -euo pipefail\n{begin}exec {command}\n"


NGINX = f"""events {{}}
http {{
  server {{
    listen {PORT};
    client_max_body_size 16m;
    location = /ping {{ proxy_pass http://127.0.0.1:{PORT + 1}/health; }}
    location = /invocations {{ proxy_pass http://127.0.0.1:{PORT + 1}/v1/chat/completions; proxy_read_timeout 60s; }}
    location / {{ proxy_pass http://127.0.0.1:{PORT + 1}; proxy_buffering off; }}
  }}
}}
"""
"""SageMaker asks /ping and /invocations of every container."""


def try_script(plan: Plan) -> str:
    """Asks a running container for its health and for an answer."""
    body = json.dumps({"model": plan.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16})
    return f"""#!/usr/bin/env bash
# ./try.sh [ADDRESS]: is it well, and does it answer?
set -euo pipefail
address="${{1:-http://127.0.0.1:{PORT}}}"
key=()
if [ -n "${{API_KEY:-}}" ]; then key=(-H "Authorization: Bearer $API_KEY"); fi
curl --fail --silent --show-error --retry 60 --retry-delay 2 --retry-all-errors "$address/health"
echo
curl --fail --silent --show-error "${{key[@]}}" -H "Content-Type: application/json" -d {shlex.quote(body)} "$address/v1/chat/completions"
echo
"""


def docker_files(plan: Plan) -> dict[str, str]:
    """Plain Docker."""
    service: dict[str, Any] = {
        "build": ".",
        "image": f"{plan.name}:latest",
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "environment": {"API_KEY": "${API_KEY:-}"},
        "restart": "unless-stopped",
        "mem_limit": f"{plan.memory_gib}g",
    }
    if plan.gpu:
        service["deploy"] = {
            "resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}
        }
    run = f'#!/usr/bin/env bash\nset -euo pipefail\ncd "$(dirname "$0")"\ndocker compose up --build --detach\n./try.sh http://127.0.0.1:{PORT}\n'
    return {
        "compose.yaml": _yaml({"name": plan.name.replace(".", "-"), "services": {"model": service}}),
        "deploy.sh": run,
    }


def kubernetes_files(plan: Plan) -> dict[str, str]:
    """A deployment with probes, a service, and the script that applies them."""
    name = plan.name.replace(".", "-")
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "tunesmith"}
    limits: dict[str, Any] = {"memory": f"{plan.memory_gib}Gi", **({"nvidia.com/gpu": 1} if plan.gpu else {})}
    probe = {"httpGet": {"path": "/health", "port": "http"}}
    container = {
        "name": "model",
        "image": "IMAGE",
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [
            {
                "name": "API_KEY",
                "valueFrom": {"secretKeyRef": {"name": f"{name}-key", "key": "api-key", "optional": True}},
            }
        ],
        "resources": {"requests": {"cpu": "2", **limits}, "limits": limits},
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "automountServiceAccountToken": False},
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }
    deploy = f"""#!/usr/bin/env bash
# ./deploy.sh REGISTRY/NAME:TAG
set -euo pipefail
cd "$(dirname "$0")"
image="${{1:?name the image, such as registry.example.com/{plan.name}:1}}"
docker build --tag "$image" .
docker push "$image"
sed "s|image: IMAGE|image: $image|" kubernetes.yaml | kubectl apply --filename -
kubectl rollout status deployment/{name} --timeout=15m || {{ kubectl rollout undo deployment/{name}; exit 1; }}
echo "kubectl port-forward service/{name} {PORT}:80, then ./try.sh"
"""
    return {"kubernetes.yaml": _yaml(deployment, service), "deploy.sh": deploy}


def sagemaker_files(plan: Plan) -> dict[str, str]:
    """Amazon SageMaker, by boto3."""
    instance = "ml.g5.xlarge" if plan.gpu else "ml.c6i.2xlarge"
    name = plan.name.replace(".", "-")[:50]
    text = f'''"""python deploy.py --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/{plan.name}:1 --role ARN   (pip install boto3)

Makes or updates the endpoint {name}. It costs money until: python deploy.py --delete
"""

import argparse
import time

import boto3

NAME = {name!r}

parser = argparse.ArgumentParser()
parser.add_argument("--image")
parser.add_argument("--role")
parser.add_argument("--instance", default={instance!r})
parser.add_argument("--delete", action="store_true")
given = parser.parse_args()
client = boto3.client("sagemaker")

if given.delete:
    client.delete_endpoint(EndpointName=NAME)
    raise SystemExit(0)
if not given.image or not given.role:
    parser.error("--image and --role are needed")

stamp = f"{{NAME}}-{{int(time.time())}}"
client.create_model(
    ModelName=stamp, ExecutionRoleArn=given.role, PrimaryContainer={{"Image": given.image, "Environment": {{}}}}
)
variant = {{
    "VariantName": "main",
    "ModelName": stamp,
    "InstanceType": given.instance,
    "InitialInstanceCount": 1,
    "ContainerStartupHealthCheckTimeoutInSeconds": 900,
}}
client.create_endpoint_config(EndpointConfigName=stamp, ProductionVariants=[variant])
names = [e["EndpointName"] for e in client.list_endpoints(NameContains=NAME)["Endpoints"]]
if NAME in names:
    client.update_endpoint(EndpointName=NAME, EndpointConfigName=stamp)
else:
    client.create_endpoint(EndpointName=NAME, EndpointConfigName=stamp)
client.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={{"Delay": 15, "MaxAttempts": 120}})
print(f"{{NAME}} is in service")
'''
    push = f"""#!/usr/bin/env bash
# ./push.sh ACCOUNT REGION: builds the image and puts it into Amazon ECR
set -euo pipefail
cd "$(dirname "$0")"
registry="${{1:?account}}.dkr.ecr.${{2:?region}}.amazonaws.com"
aws ecr describe-repositories --region "$2" --repository-names {plan.name} >/dev/null 2>&1 || aws ecr create-repository --region "$2" --repository-name {plan.name}
aws ecr get-login-password --region "$2" | docker login --username AWS --password-stdin "$registry"
docker build --platform linux/amd64 --tag "$registry/{plan.name}:1" .
docker push "$registry/{plan.name}:1"
"""
    return {"deploy.py": text, "push.sh": push}


def vertex_files(plan: Plan) -> dict[str, str]:
    """Google Vertex AI, by gcloud."""
    machine = "g2-standard-8" if plan.gpu else "n2-standard-8"
    gpu = " --accelerator=type=nvidia-l4,count=1" if plan.gpu else ""
    return {
        "deploy.sh": f"""#!/usr/bin/env bash
# ./deploy.sh PROJECT REGION: makes the endpoint {plan.name}. It costs money until the model is undeployed.
set -euo pipefail
cd "$(dirname "$0")"
project="${{1:?project}}"
region="${{2:?region}}"
image="$region-docker.pkg.dev/$project/models/{plan.name}:1"
gcloud artifacts repositories describe models --project="$project" --location="$region" >/dev/null 2>&1 || gcloud artifacts repositories create models --project="$project" --location="$region" --repository-format=docker
gcloud auth configure-docker "$region-docker.pkg.dev" --quiet
docker build --platform linux/amd64 --tag "$image" .
docker push "$image"
gcloud ai models upload --project="$project" --region="$region" --display-name={plan.name} --container-image-uri="$image" --container-ports={PORT} --container-health-route=/health --container-predict-route=/v1/chat/completions
model="$(gcloud ai models list --project="$project" --region="$region" --filter=displayName={plan.name} --sort-by=~createTime --limit=1 --format='value(name)')"
gcloud ai endpoints create --project="$project" --region="$region" --display-name={plan.name}
endpoint="$(gcloud ai endpoints list --project="$project" --region="$region" --filter=displayName={plan.name} --sort-by=~createTime --limit=1 --format='value(name)')"
gcloud ai endpoints deploy-model "$endpoint" --project="$project" --region="$region" --model="$model" --display-name={plan.name} --machine-type={machine}{gpu} --min-replica-count=1 --max-replica-count=1 --traffic-split=0=100
echo "Ask it with: gcloud ai endpoints raw-predict $endpoint --region=$region --request=@request.json"
""",
        "request.json": json.dumps(
            {"model": plan.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}, indent=2
        )
        + "\n",
    }


def azureml_files(plan: Plan) -> dict[str, str]:
    """Azure Machine Learning, by its command line."""
    name = plan.name.replace(".", "-")[:32].rstrip("-")
    route = {"port": PORT, "path": "/health"}
    endpoint = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json",
        "name": name,
        "auth_mode": "key",
    }
    probe = {"initial_delay": 30, "period": 10, "timeout": 5, "success_threshold": 1, "failure_threshold": 60}
    deployment = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json",
        "name": "main",
        "endpoint_name": name,
        "environment": {
            "name": name,
            "image": "IMAGE",
            "inference_config": {
                "liveness_route": route,
                "readiness_route": route,
                "scoring_route": {"port": PORT, "path": "/v1/chat/completions"},
            },
        },
        "instance_type": "Standard_NC24ads_A100_v4" if plan.gpu else "Standard_F8s_v2",
        "instance_count": 1,
        "liveness_probe": probe,
        "readiness_probe": probe,
        "request_settings": {"request_timeout_ms": 90_000, "max_concurrent_requests_per_instance": 8},
    }
    deploy = f"""#!/usr/bin/env bash
# ./deploy.sh GROUP WORKSPACE REGISTRY: makes the endpoint {name}. It costs money until: az ml online-endpoint delete --name {name}
set -euo pipefail
cd "$(dirname "$0")"
group="${{1:?resource group}}"
workspace="${{2:?workspace}}"
registry="${{3:?container registry, without .azurecr.io}}"
image="$registry.azurecr.io/{plan.name}:1"
az acr login --name "$registry"
docker build --platform linux/amd64 --tag "$image" .
docker push "$image"
sed "s|image: IMAGE|image: $image|" deployment.yaml > deployment.filled.yaml
az ml online-endpoint show --name {name} --resource-group "$group" --workspace-name "$workspace" >/dev/null 2>&1 || az ml online-endpoint create --file endpoint.yaml --resource-group "$group" --workspace-name "$workspace"
az ml online-deployment create --file deployment.filled.yaml --all-traffic --resource-group "$group" --workspace-name "$workspace"
az ml online-endpoint invoke --name {name} --request-file request.json --resource-group "$group" --workspace-name "$workspace"
"""
    request = (
        json.dumps({"model": plan.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}, indent=2)
        + "\n"
    )
    return {
        "endpoint.yaml": _yaml(endpoint),
        "deployment.yaml": _yaml(deployment),
        "deploy.sh": deploy,
        "request.json": request,
    }


PROVIDERS = {
    "docker": docker_files,
    "kubernetes": kubernetes_files,
    "sagemaker": sagemaker_files,
    "vertex": vertex_files,
    "azureml": azureml_files,
}


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=False)


def problems(folder: Path) -> list[str]:
    """What is wrong with the folder's files, as far as can be told without the provider: each a sentence."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            found += _python(path)
        elif path.suffix == ".sh":
            found += _shell(path)
        elif path.suffix in (".yaml", ".yml"):
            found += _yaml_problems(path)
        elif path.suffix == ".json":
            found += _json(path)
    return found + _dockerfile(folder / "Dockerfile")


def _python(path: Path) -> list[str]:
    try:
        ast.parse(path.read_text(), path.name)
    except SyntaxError as error:
        return [f"{path.name}, line {error.lineno}: {error.msg}"]
    return []


def _shell(path: Path) -> list[str]:
    if not (bash := shutil.which("bash")):
        return []
    result = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True, timeout=20)
    return [f"{path.name}: {result.stderr.strip()[:300]}"] if result.returncode else []


def _json(path: Path) -> list[str]:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return [f"{path.name}: {error}"]
    return []


def _yaml_problems(path: Path) -> list[str]:
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError as error:
        return [f"{path.name}: {error}"]
    found = [
        f"{path.name} holds something else than objects" for document in documents if not isinstance(document, dict)
    ]
    if found or path.name != "kubernetes.yaml":
        return found
    return [why for document in documents for why in _manifest(path.name, document)]


def _manifest(name: str, document: dict[str, Any]) -> list[str]:
    """The rules of Kubernetes that a mistake would break first."""
    found = [
        f"{name}: a {document.get('kind')} without {key}"
        for key in ("apiVersion", "kind", "metadata", "spec")
        if key not in document
    ]
    if found or document["kind"] != "Deployment":
        return found
    spec = document["spec"]
    labels = spec["template"]["metadata"]["labels"]
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        found.append(f"{name}: the selector does not match the pods' labels")
    for container in spec["template"]["spec"]["containers"]:
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if container[probe]["httpGet"]["port"] not in ports:
                found.append(f"{name}: {probe} asks a port that is not there")
    return found


def _dockerfile(path: Path) -> list[str]:
    """First FROM, only known words, and every COPY from what is there."""
    if not path.is_file():
        return ["there is no Dockerfile"]
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    found = [] if words[0] == "FROM" else ["Dockerfile: the first line is not FROM"]
    found += [f"Dockerfile: {word} is no instruction" for word in words if word not in DOCKER_WORDS]
    sources = [line.split()[1] for line in lines if line.startswith("COPY ")]
    return found + [f"Dockerfile: {source} is not there" for source in sources if not (path.parent / source).exists()]
