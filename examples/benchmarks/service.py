"""What a user waits for beside training, in seconds of tensorlite alone: labels, tokens, and the first token."""

import subprocess
import sys
import time
from pathlib import Path

import tensorlite as tl
from gpt import fast
from gpt.data import corpus
from gpt.tasks.classify.batches import Padding
from gpt.tasks.classify.inference import TrainedClassifier, predict
from gpt.tasks.classify.model import Classifier
from gpt.tokenizer import Tokenizer, create
from tensorlite.devices import machine

from .setup import Job

FIRST_TOKEN = """
from gpt.generation import stream
from gpt.model import GPT
from examples.benchmarks.setup import CONFIGS
from tensorlite import io
state = io.entries({path!r})
prompt = state.pop("tokens").read()[:1, :16].tolist()
model = GPT.without_init(CONFIGS["gpt2"][0])
model.load_state_dict(state)
next(stream(model.eval(), prompt, 1))
"""


class Service:
    """One of `setup.SERVICES`, with random weights and the text that comes with gpt."""

    def __init__(self, job: Job):
        machine.keep_freed_memory()
        machine.set_threads(job.threads)
        fast.attach_classify()
        self.work = {"classify": self.classify, "tokenize": self.tokenize, "first-token": self.first_token}[job.config]
        self.path, self.text = str(Path(job.folder) / "start.safetensors"), corpus.builtin()
        self.tokenizer: Tokenizer | None = None
        self.trained: TrainedClassifier | None = None
        self.model = job.model

    def run(self, times: int) -> float:
        """Seconds for doing it that often; what a user does once is prepared before."""
        if self.tokenizer is None:
            self.tokenizer = create("bpe", self.text, 2048)
        began = time.perf_counter()
        for _ in range(times):
            self.work()
        return time.perf_counter() - began

    def classify(self) -> None:
        """The labels of 200 lines of text, 16 at once."""
        assert self.tokenizer is not None
        if self.trained is None:
            tl.manual_seed(0)
            classifier = Classifier(self.model, 2, "last-real").eval()
            padding = Padding(0, 120, matters=False)
            self.trained = TrainedClassifier(classifier, self.tokenizer, ["no", "yes"], padding)
        lines = [line for line in self.text.splitlines() if len(line) > 20]
        predict(self.trained, lines[:200])

    def tokenize(self) -> None:
        """100 MB of English text as tokens of a vocabulary of 2,048, as `gpt train` encodes it."""
        assert self.tokenizer is not None
        for _ in range(100_000_000 // len(self.text)):
            self.tokenizer.encode_ordinary(self.text)

    def first_token(self) -> None:
        """A new process that imports gpt, reads GPT-2's 124M weights and generates one token."""
        subprocess.run([sys.executable, "-c", FIRST_TOKEN.format(path=self.path)], check=True)


TASKS = {"service": Service}
