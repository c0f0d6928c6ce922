"""From a file of examples to a tuned model in use. Start a server with `tunesmith up`, then: python examples/quickstart.py"""

import sys
from pathlib import Path

from tunesmith import Client

MODEL = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "How do I reset my password?"

with Client() as client:
    dataset = client.datasets.upload(Path(__file__).with_name("support.jsonl"))
    print(f"dataset {dataset.id}: {dataset.num_rows} rows of shape {dataset.shape}")

    job = client.jobs.create(
        model=MODEL,
        dataset_id=dataset.id,
        hyperparameters={"max_steps": 12, "learning_rate": 4e-4, "batch_size": 4, "gradient_accumulation_steps": 1},
    )
    for item in job.follow():
        if item.event["type"] == "step":
            print(f"step {item.event['step']} of {item.event['total_steps']}: loss {item.event['loss']:.3f}")
    job.wait()  # raises what went wrong, if anything did

    print(f"{QUESTION}\n{job.chat(QUESTION, temperature=0.0, max_tokens=40).content}")
    print(f"saved {job.download('support-bot.tar.gz')}")
