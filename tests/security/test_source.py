"""Rules of the source that keep whole classes of holes away. What may differ stands here with its reason."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPO = Path(__file__).parent.parent.parent
SOURCE = REPO / "src" / "tunesmith"
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "jsonpickle.decode", "pandas.read_pickle", "pd.read_pickle",
    "tarfile.open", "shutil.unpack_archive", "tempfile.mktemp", "subprocess.getoutput", "xml.etree.ElementTree.parse",
}  # fmt: skip
"""Each runs what it reads, or has been the way to do so elsewhere."""
ALLOWED_CALLS: dict[str, set[str]] = {
    "cli/config.py": {"yaml.load"},
    "features/registry/importing.py": {"tarfile.open"},
}
"""Exceptions: file → calls. The command line reads its user's own file, with a loader made from `yaml.SafeLoader`. The registry
reads the members of an archive one by one, each looked at first, and extracts none by its name."""
BUILTIN_MODULES = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "telnetlib",
    "ftplib",
    "xmlrpc",
}
ALLOWED_EXTRACTING = {"features/catalog/starter.py"}
"""Opens a wheel that pip has checked, and copies the one file that it looks for to a name of its own."""
ENVIRONMENTS = {
    "ui/render.py": "our own templates, with escaping on",
    "recipes/blocks/report.py": "our own template",
    "recipes/tabular/report.py": "our own template, with escaping on",
    "recipes/text_classification/report.py": "our own template, with escaping on",
    "recipes/blocks/ollama_template.py": "in a child with little time and memory",
}
"""Where Jinja environments are made. None of them is given a text from outside."""
TEXT_STARTS = re.compile(r"path|folder|root|home|dir\b|place\b", re.I)
"""Names of what is a path, in `x.startswith(y)`."""
ALLOWED_STARTS = {
    "http/errors.py": "whether an address is of the API: how an error looks, not who may see it",
    "http/policy.py": "whether an address is below one that has a policy",
    "http/gate.py": "whether an address is of the API",
}
"""Where `startswith` is asked of an address, which has been decoded by the server and leads to no file."""


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield name, node


def calls() -> Iterator[tuple[str, ast.Call]]:
    for name, node in nodes(ast.Call):
        assert isinstance(node, ast.Call)
        yield name, node


def test_nothing_that_is_read_is_run() -> None:
    found = [f"{name}:{node.lineno} {said}" for name, node in calls()
             if (said := ast.unparse(node.func)) in UNSAFE_CALLS and said not in ALLOWED_CALLS.get(name, set())]  # fmt: skip
    for name, node in nodes(ast.Import | ast.ImportFrom):  # type: ignore[arg-type]
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [getattr(node, "module", None) or ""]
        )
        found += [f"{name}: import {said}" for said in names if said.partition(".")[0] in BUILTIN_MODULES]
    assert not found


def test_the_one_loader_of_yaml_is_safe() -> None:
    """`yaml.load` is given a loader, and that is made from the safe one."""
    for name, node in calls():
        if ast.unparse(node.func) == "yaml.load":
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else keywords(node).get("Loader", "")
            bases = [ast.unparse(base) for _, made in nodes(ast.ClassDef) if made.name == loader for base in made.bases]  # type: ignore[attr-defined]
            assert loader.endswith("SafeLoader") or any(base.endswith("SafeLoader") for base in bases), (
                f"{name}: {loader}"
            )


def keywords(node: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg}


def test_switches_that_open_a_door_stay_shut() -> None:
    found = []
    for name, node in calls():
        given, said = keywords(node), ast.unparse(node.func)
        shut = {
            "shell": "False",
            "allow_pickle": "False",
            "trust_remote_code": "False",
            "verify": "True",
            "weights_only": "True",
        }
        found += [
            f"{name}:{node.lineno} {key}={given[key]}"
            for key, good in shut.items()
            if key in given and given[key] != good
        ]
        if said in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.append(f"{name}:{node.lineno} np.load without allow_pickle=False")
        is_loading = said.endswith(".from_pretrained") and said.startswith("Auto") and "gguf_file" not in given
        if is_loading and given.get("trust_remote_code") != "False":
            found.append(f"{name}:{node.lineno} {said} without trust_remote_code=False")
    assert not found


def test_weights_are_only_read_as_safetensors() -> None:
    found = [f"{name}:{node.lineno}" for name, node in calls()
             if ast.unparse(node.func) == "AutoModelForCausalLM.from_pretrained" and "gguf_file" not in keywords(node)
             and keywords(node).get("use_safetensors") != "True"]  # fmt: skip
    assert not found


def test_archives_are_never_unpacked_by_their_own_names() -> None:
    found = [f"{name}:{node.lineno}" for name, node in calls()
             if isinstance(node.func, ast.Attribute) and node.func.attr in ("extract", "extractall") and name not in ALLOWED_EXTRACTING]  # fmt: skip
    assert not found


def test_templates_from_outside_have_a_budget() -> None:
    """Jinja is set up for our own templates only, and a model's is rendered in `templates.py`, or after it was there."""
    made = {
        name
        for name, node in calls()
        if ast.unparse(node.func).rpartition(".")[2] in ("Environment", "Template", "from_string")
    }
    assert made <= set(ENVIRONMENTS), made
    rendered = {name for name, node in calls() if ast.unparse(node.func).endswith(".apply_chat_template")}
    after = {"recipes/blocks/validate.py"}  # the model has just been trained on conversations that came through
    assert rendered <= {"recipes/blocks/templates.py", *after}, rendered


REQUEST_CODE = ("http/", "features/", "ui/", "live/", "storage/", "schemas/", "dataprep/", "serving/")
ALLOWED_ASSERTS = {"features/datasets/child.py": 1}
"""Narrowing types of what we have made ourselves; `python -O` may drop them."""


def test_no_assertion_guards_a_request() -> None:
    count: dict[str, int] = {}
    for name, node in nodes(ast.Assert):
        assert isinstance(node, ast.Assert)
        if name.startswith(REQUEST_CODE) and not is_narrowing(node):
            count[name] = count.get(name, 0) + 1
    found = {name: n for name, n in count.items() if n > ALLOWED_ASSERTS.get(name, 0)}
    assert not found


def is_narrowing(node: ast.Assert) -> bool:
    """`assert x is not None` and `assert isinstance(x, T)` are for the type checker."""
    test = node.test
    is_none = (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and ast.unparse(test.comparators[0]) == "None"
    )
    return is_none or (isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance")


def test_no_path_is_kept_inside_by_its_first_letters() -> None:
    """CVE-2026-35397 and its kin: `/home-evil` starts with `/home`. `is_relative_to` knows where a name ends."""
    found = []
    for name, node in calls():
        if isinstance(node.func, ast.Attribute) and node.func.attr == "startswith" and name not in ALLOWED_STARTS:
            what = ast.unparse(node.func.value)
            against = ast.unparse(node.args[0]) if node.args else ""
            is_name_part = what.endswith((".name", ".stem", ".suffix"))
            asks_absolute = against == "'/'"
            about_a_path = TEXT_STARTS.search(what) and not is_name_part and not asks_absolute
            if about_a_path or re.search(r"(dir|root|home|folder)\b", against):
                found.append(f"{name}:{node.lineno} {what}.startswith({against})")
    assert not found


def test_every_exception_is_still_needed() -> None:
    gone = [name for name in (*ENVIRONMENTS, *ALLOWED_ASSERTS, *ALLOWED_EXTRACTING) if name not in trees()]
    assert not gone


# -- what is shipped ----------------------------------------------------------------------------------------------------

SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|"
    rb"\bsk-[A-Za-z0-9]{32,}|\bxox[baprs]-[A-Za-z0-9-]{20,}|\bpypi-[A-Za-z0-9_-]{50,}|\beyJ[A-Za-z0-9_-]{20,}\.eyJ"
)
BAD_NAMES = re.compile(r"\.(pth|pem|key|p12|pfx|jks|keystore|env|sqlite3?|db|pkl|pickle|joblib|npy|npz|pyc|so)$|(^|/)(\.env|id_[a-z0-9]+|\.netrc|\.pypirc|sitecustomize\.py|usercustomize\.py)$")  # fmt: skip


def shipped() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    )
    return [REPO / name for name in told.stdout.decode().split("\0") if name and (REPO / name).is_file()]


def test_nothing_that_is_shipped_runs_by_itself_or_is_a_secret() -> None:
    """A `.pth` file would run at every start of Python; a key in the package would be everybody's."""
    files = shipped()
    assert len(files) > 200
    assert not [str(path) for path in files if BAD_NAMES.search(path.relative_to(REPO).as_posix())]
    small = [path for path in files if path.stat().st_size < 5_000_000]
    assert not [str(path) for path in small if SECRETS.search(path.read_bytes())]
