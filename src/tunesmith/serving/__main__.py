"""`python -m tunesmith.serving SERVING_DIR`: loads the model that `serving.json` names and answers on a loopback port.

`endpoint.json` tells where, once the model is ready. The process ends by itself when it has been idle for `idle_s`, if it
has such a limit, or when its folder is gone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.serving.process import Process


def main() -> None:
    folder = Path(sys.argv[1])
    spec = ServingSpec.model_validate_json((folder / "serving.json").read_bytes())
    process = Process(folder, spec)
    try:
        if spec.engine == "llama.cpp":
            from tunesmith.serving import llama_cpp

            llama_cpp.serve(process)
        elif spec.engine == "vllm":
            from tunesmith.serving import vllm

            vllm.serve(process)
        elif spec.engine == "predict":
            from tunesmith.serving import predict_app

            predict_app.serve(process)
        else:
            from tunesmith.serving import transformers_app

            transformers_app.serve(process)
    except TunesmithError as error:  # its last words are shown to who deployed the model
        sys.exit(f"{error.message} {error.hint}".strip())


if __name__ == "__main__":
    main()
