"""Fine-tuning for classification: a text in, a label out (`gpt finetune classify`, `gpt classify`).

Semantics: Raschka, "Build a Large Language Model (From Scratch)", chapter 6. The files, each using those before it:
settings (ClassifyConfig), data (labelled texts: read, balance, split), model (a GPT with a classification head),
batches (texts as padded token ids), metrics (accuracy, precision, recall), inference (labels for new texts), task (the
protocol of the training loop).
"""

from .inference import TrainedClassifier, load, predict, predict_lines
from .model import Classifier
from .settings import ClassifyConfig
from .task import Classification

__all__ = [
    "Classification",
    "Classifier",
    "ClassifyConfig",
    "TrainedClassifier",
    "load",
    "predict",
    "predict_lines",
]
