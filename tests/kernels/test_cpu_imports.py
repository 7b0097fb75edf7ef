"""On a CPU no CUDA module is imported: neither by `import tensorlite`, nor by training, nor by generation."""

import subprocess
import sys

import pytest

REPORT = """
import sys
loaded = [name for name in sys.modules if name.startswith(("tensorlite.kernels.cuda.", "cupy"))]
print(*loaded, sep="\\n", end="")
"""
IMPORT = "import tensorlite as tl"
TRAIN = """
import numpy as np
import tensorlite as tl
from tensorlite import optim
from gpt.config import GPTConfig
from gpt.model import GPT
tl.manual_seed(0)
config = GPTConfig(vocab_size=32, context_length=16, n_layer=2, n_head=2, n_embd=16).with_dropout(0.1)
model = GPT(config)
optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=1e-3)
tokens = np.random.default_rng(0).integers(0, 32, (2, 17))
for _ in range(2):
    optimizer.zero_grad()
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    norm = optim.global_norm(model.parameters())
    optimizer.step(grad_scale=optim.clip_scale(norm, 1.0))
"""
GENERATE = """
from gpt.generation import generate
generate(model, [[1, 2, 3]], 4, temperature=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [IMPORT, TRAIN, TRAIN + GENERATE], ids=["import", "train", "generate"])
def test_no_cuda_module_is_imported(code):
    done = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
