"""No data is executed: what ruff's rules do not see, by the syntax of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("attn_lab", "hydra_plugins", "scripts") for file in (ROOT / folder).rglob("*.py"))
RUN = {"eval", "exec", "compile", "__import__"}  # as builtins
UNPICKLED = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
             "joblib.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"}  # fmt: skip


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def found_in(source: str) -> list[str]:
    """Line and name of each call that may run data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {each.arg: each.value for each in node.keywords}
        value = {key: each.value for key, each in given.items() if isinstance(each, ast.Constant)}
        if (
            name in RUN | UNPICKLED
            or (name.endswith("torch.load") and value.get("weights_only") is not True)
            or (name in ("np.load", "numpy.load") and value.get("allow_pickle") is not False)
            or ("allow_pickle" in given and value.get("allow_pickle") is not False)
            or ("shell" in given and value.get("shell") is not False)
        ):
            found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("source", [
    "eval(text)", "exec(text)", "compile(text, '', 'exec')", "pickle.loads(data)", "torch.load(path)",
    "os.system(line)",
    "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)", "yaml.load(text)",
    "subprocess.run(line, shell=True)", "subprocess.run(line, shell=flag)", "pickle.Unpickler(file).load()",
])  # fmt: skip
def test_what_runs_data_is_seen(source):
    assert found_in(source)


def test_no_file_runs_data():
    found = [f"{file.relative_to(ROOT)}:{each}" for file in FILES for each in found_in(file.read_text())]
    assert FILES and not found, found
