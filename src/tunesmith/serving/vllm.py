"""The engine for NVIDIA GPUs: `vllm serve` takes this process over; see docs.vllm.ai, "OpenAI-compatible server"."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time

import httpx

from tunesmith.core.errors import Unavailable
from tunesmith.core.inference import TemplateLimits, found_limits
from tunesmith.core.job_dir import write_atomic
from tunesmith.serving.process import Process

LOOK_EVERY_S = 0.5
MAX_LORA_RANK = 256


def serve(process: Process) -> None:
    """Start vLLM and end with it. Raises `Unavailable` when it is not installed."""
    spec = process.spec
    program = shutil.which("vllm")
    if program is None:
        raise Unavailable("vLLM is not installed.", hint="pip install 'tunesmith[vllm]', or use engine llama.cpp.")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        program, "serve", spec.base_path, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base",
        "--max-model-len", str(spec.context_tokens), "--max-num-seqs", str(spec.parallel), "--disable-log-requests",
        *(["--revision", spec.revision] if spec.revision else []),
    ]  # fmt: skip
    if spec.adapters:
        modules = [f"adapter{number}={path}" for number, path in enumerate(spec.adapters)]
        command += ["--enable-lora", "--max-loras", str(len(modules)), "--max-lora-rank", str(MAX_LORA_RANK)]
        command += ["--lora-modules", *modules]
    if spec.chat_template:
        file = process.folder / "chat_template.jinja"
        write_atomic(file, spec.chat_template.encode())
        command += ["--chat-template", str(file)]
    environment = {**os.environ, "VLLM_API_KEY": process.token, "VLLM_NO_USAGE_STATS": "1"}
    if spec.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.gpus))
    child = subprocess.Popen(command, env=environment)  # of this process's session, so that it ends with it
    while child.poll() is None:
        if _answers(port):
            process.ready(port, limits=_limits(port, process.token))
            sys.exit(child.wait())
        time.sleep(LOOK_EVERY_S)
    raise Unavailable("vLLM ended while it was loading the model.", hint="Its log says why.")


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _limits(port: int, token: str) -> TemplateLimits:
    """What the chat template does not take."""
    address, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
        return found_limits(
            lambda messages: client.post("/tokenize", json={"model": "base", "messages": messages}).status_code >= 400
        )
