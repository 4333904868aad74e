"""What a run does not hold: libraries that it needs nothing of, and the files of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_CODE = """
import json, sys
from pathlib import Path

import torch
import learner.cli
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.training.settings import TrainConfig
from learner.training.train import train_phase
from tests.learner.builders import PATCH_PX, make_split

cpu = torch.device("cpu")
new = make_split([0, 1], 4)
backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=1, num_heads=1, vocab_size=200)
model = Classifier(backbone, cpu)
model.tune_by_ssf()
model.add_classes(new)
settings = TrainConfig(base_epochs=1, batch_size=8)
before = [parameter.clone() for parameter in model.head.parameters()]
train_phase(
    model, new, new.tokens.patch_valid, None, phase=0, config=settings, generator=torch.Generator().manual_seed(0)
)
trained = any(not torch.equal(old, now) for old, now in zip(before, model.head.parameters()))

parts = Classifier(vilt_from_parts(image_size=32, blocks=(0, 1)), cpu, bf16="on")
mapped = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules} | {n for n in sys.modules if n.count(".") == 1}),
    "trained": trained,
    "mapped": [name for name in ("dinov2-small", "minilm-embeddings") if name in mapped],
    "parts": parts.backbone.dim,
}))
"""


def test_a_run_holds_no_library_that_it_does_not_use_and_no_file_of_weights() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, cwd=root, check=False)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)

    # transformers and timm: 230 MiB; torch's compiler, which brings Triton and SymPy: 150.
    unused = {"transformers", "timm", "torchvision", "torch._dynamo", "triton", "sympy", "scipy", "matplotlib"}
    assert not unused & set(found["modules"])
    assert found["trained"]
    # A file under a model that lives on would be held beside its copy, and end the process where somebody cuts it.
    assert found["mapped"] == []
