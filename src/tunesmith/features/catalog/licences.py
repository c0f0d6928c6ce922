"""What the usual licences of models allow, in one plain sentence each. The licence's own text decides."""

from __future__ import annotations

from tunesmith.schemas.models import LicenceRead

Allowed = tuple[str, str, str, str]
"""Title, commercial use, sentence, address."""

GEMMA = "https://ai.google.dev/gemma/terms"
_LLAMA = (
    "Commercial use is allowed up to 700 million monthly users; say “Built with Llama”, begin the name of what you tune with "
    "“Llama”, and keep to Meta's acceptable use policy."
)
_NOT_FOR_PROFIT = "For research and private use only: commercial use needs another agreement with the maker."
LICENCES: dict[str, Allowed] = {
    "apache-2.0": ("Apache 2.0", "yes", "Commercial use, changing and passing on are allowed; keep the licence and the notices.",
                   "https://www.apache.org/licenses/LICENSE-2.0"),
    "mit": ("MIT", "yes", "Commercial use, changing and passing on are allowed; keep the copyright line.", "https://opensource.org/license/mit"),
    "bsd-3-clause": ("BSD 3-Clause", "yes", "Commercial use, changing and passing on are allowed; keep the copyright line and do "
                     "not advertise with the makers' names.", "https://opensource.org/license/bsd-3-clause"),
    "bsd-2-clause": ("BSD 2-Clause", "yes", "Commercial use, changing and passing on are allowed; keep the copyright line.",
                     "https://opensource.org/license/bsd-2-clause"),
    "cc0-1.0": ("CC0 1.0", "yes", "In the public domain: anything is allowed.", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "unlicense": ("The Unlicense", "yes", "In the public domain: anything is allowed.", "https://unlicense.org/"),
    "cc-by-4.0": ("CC BY 4.0", "yes", "Commercial use is allowed; name the makers and say what you changed.",
                  "https://creativecommons.org/licenses/by/4.0/"),
    "cc-by-sa-4.0": ("CC BY-SA 4.0", "conditions", "Commercial use is allowed; name the makers, and pass on what you make of it "
                     "under the same licence.", "https://creativecommons.org/licenses/by-sa/4.0/"),
    "cc-by-nc-4.0": ("CC BY-NC 4.0", "no", _NOT_FOR_PROFIT, "https://creativecommons.org/licenses/by-nc/4.0/"),
    "cc-by-nc-sa-4.0": ("CC BY-NC-SA 4.0", "no", _NOT_FOR_PROFIT, "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
    "gpl-3.0": ("GPL 3.0", "conditions", "Commercial use is allowed; what you pass on must be under the same licence.",
                "https://www.gnu.org/licenses/gpl-3.0.html"),
    "agpl-3.0": ("AGPL 3.0", "conditions", "Commercial use is allowed; who uses it over a network must be offered the source.",
                 "https://www.gnu.org/licenses/agpl-3.0.html"),
    "llama2": ("Llama 2 Community", "conditions", "Commercial use is allowed up to 700 million monthly users; keep to Meta's "
               "acceptable use policy, and do not improve other makers' models with it.", "https://ai.meta.com/llama/license/"),
    "llama3": ("Llama 3 Community", "conditions", _LLAMA, "https://www.llama.com/llama3/license/"),
    "llama3.1": ("Llama 3.1 Community", "conditions", _LLAMA, "https://www.llama.com/llama3_1/license/"),
    "llama3.2": ("Llama 3.2 Community", "conditions", f"{_LLAMA} The multimodal ones are not licensed in the European Union.",
                 "https://www.llama.com/llama3_2/license/"),
    "llama3.3": ("Llama 3.3 Community", "conditions", _LLAMA, "https://www.llama.com/llama3_3/license/"),
    "llama4": ("Llama 4 Community", "conditions", f"{_LLAMA} Not licensed in the European Union.",
               "https://www.llama.com/llama4/license/"),
    "gemma": ("Gemma Terms", "conditions", "Commercial use is allowed within Google's prohibited use policy, which you pass on "
              "with the model.", GEMMA),
    "bigscience-bloom-rail-1.0": ("BLOOM RAIL 1.0", "conditions", "Commercial use is allowed except for the uses that it lists.",
                                  "https://huggingface.co/spaces/bigscience/license"),
    "openrail": ("OpenRAIL", "conditions", "Commercial use is allowed except for the uses that it lists; pass those on.",
                 "https://www.licenses.ai/"),
    "creativeml-openrail-m": ("CreativeML OpenRAIL-M", "conditions", "Commercial use is allowed except for the uses that it "
                              "lists; pass those on.", "https://huggingface.co/spaces/CompVis/stable-diffusion-license"),
    "bigcode-openrail-m": ("BigCode OpenRAIL-M", "conditions", "Commercial use is allowed except for the uses that it lists; "
                           "pass those on.", "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement"),
    "lfm1.0": ("LFM Open 1.0", "conditions", "Commercial use is allowed for companies with less than 10 million dollars of yearly "
               "revenue.", "https://www.liquid.ai/lfm-license"),
    "qwen": ("Tongyi Qianwen", "conditions", "Commercial use is allowed up to 100 million monthly users.",
             "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE"),
    "qwen-research": ("Qwen Research", "no", _NOT_FOR_PROFIT, "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE"),
    "mrl": ("Mistral Research", "no", _NOT_FOR_PROFIT, "https://mistral.ai/licenses/MRL-0.1.md"),
    "mnpl": ("Mistral Non-Production", "no", _NOT_FOR_PROFIT, "https://mistral.ai/licenses/MNPL-0.1.md"),
}  # fmt: skip
UNKNOWN = "The model names no licence, so nothing is allowed by itself: ask its makers before you use it in earnest."


def licence(key: str | None, name: str | None = None) -> LicenceRead:
    """What a licence allows; `name` is what a model with `other` calls its own."""
    found = next((one for one in (key, name) if one and one.lower() in LICENCES), None)
    if found:
        title, commercial, sentence, url = LICENCES[found.lower()]
        return LicenceRead(key=found, title=title, commercial=commercial, sentence=sentence, url=url)
    if not key or key.lower() in ("unknown", "none"):
        return LicenceRead(key="", title="No licence named", commercial="unknown", sentence=UNKNOWN)
    said = name or key
    own = "a licence of its own" if key.lower() == "other" else "a licence that is not known here"
    return LicenceRead(
        key=key,
        title=said[:100],
        commercial="unknown",
        sentence=f"It has {own} ({said[:100]}): read it before you use the model in earnest.",
    )
