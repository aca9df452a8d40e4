"""What holds of the project as a whole: imports point one way, nothing shadows basicsr, importing is enough to register."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Part of the package -> the parts that it may import. `errors`, `files`, `memory`, `version` and `compat` stand under everything.
BELOW = {
    "errors": set(),
    "version": set(),
    "compat": set(),
    "files": {"errors"},
    "memory": set(),
    "ops": set(),
    "groups": set(),
    "layers": {"ops", "groups"},
    "archs": {"ops", "groups", "layers"},
    "checkpoints": {"ops", "groups", "layers", "archs"},
    "zoo": {"archs", "checkpoints"},
    "integrations": {"archs", "checkpoints"},
    "export": {"ops", "layers", "archs"},
    "data": set(),
    "losses": set(),
    "metrics": set(),
    "inference": {"ops", "groups", "layers", "archs", "checkpoints", "export", "data", "metrics"},
    "video": {"data"},
    "models": {"ops", "groups", "layers", "archs", "checkpoints", "export", "data", "losses", "metrics", "inference"},
}
BELOW["engine"] = {*BELOW["models"], "models"}
BELOW["analysis"] = {*BELOW["engine"], "engine", "zoo"}
BELOW["demo"] = {*BELOW["inference"], "inference", "zoo"}
BELOW["env"] = {"ops"}
BELOW["cli"] = {*BELOW["analysis"], "analysis", "env", "video", "demo"}
ANYWHERE = {"errors", "files", "memory", "version", "compat"}

MODULES = [path for path in sorted((ROOT / "eqmambair").rglob("*.py")) if path.name != "__main__.py"]  # which launch commands of cli


def part_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("eqmambair.")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "eqmambair":
                found |= {f"eqmambair.{alias.name}" for alias in node.names}
            elif node.module.startswith("eqmambair."):
                found.add(node.module)
    return {part_of(module) for module in found}


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != ROOT / "eqmambair"], ids=lambda path: path.stem)
def test_imports_point_downwards(path):
    part = path.relative_to(ROOT / "eqmambair").parts[0]
    assert imports(path) <= BELOW[part] | ANYWHERE | {part}


def test_launchers_do_not_shadow_basicsr():
    assert not (ROOT / "basicsr" / "__init__.py").exists()


def test_importing_registers_everything_and_works_from_the_checkout(tmp_path):
    code = """
import eqmambair
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
import basicsr
assert "site-packages" in basicsr.__file__, basicsr.__file__
assert {"EQMambaIR", "MambaIR", "MambaIRUNet"} <= set(ARCH_REGISTRY.keys())
assert len(list(MODEL_REGISTRY.keys())) > 0
"""
    for folder in (ROOT, tmp_path):
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"], cwd=folder, check=True)


def test_operators_need_torch_alone():
    code = """
import sys
sys.modules.update(dict.fromkeys(["basicsr", "torchvision", "timm", "cv2", "yaml"]))  # importing one of them would fail
import importlib.util
spec = importlib.util.spec_from_file_location("eqmambair", "eqmambair/__init__.py", submodule_search_locations=["eqmambair"])
sys.modules["eqmambair"] = importlib.util.module_from_spec(spec)  # the package without running its __init__
import eqmambair.ops
assert eqmambair.ops.backend() in ("cpu", "cuda", "torch")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
