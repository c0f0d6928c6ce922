"""What nearly every worker imports, in one place: a zygote imports it once for all of them."""

import peft  # noqa: F401
import pyarrow.parquet  # noqa: F401
import safetensors.torch  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import tunesmith.recipes.blocks.sft
import tunesmith.recipes.lora.train
import tunesmith.recipes.standard.train  # noqa: F401
from tunesmith.engine import kernels

kernels.why_not()  # builds them where they are not there yet, so that no job waits for it
