"""Accuracy, and precision, recall and F1 of each label, from a confusion matrix.

A confusion matrix has a row for each true label and a column for each predicted one, and counts entries.
"""

from collections.abc import Sequence
from typing import Any


def accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """The share of entries whose predicted label is the true one."""
    return sum(row[i] for i, row in enumerate(confusion)) / sum(map(sum, confusion))


def summary(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Accuracy, the confusion matrix, and for each label precision, recall, F1 and its number of entries.

    With tp the number of correctly predicted entries of a label: precision = tp / predicted, recall = tp / true,
    F1 = 2 tp / (predicted + true), each 0 where the denominator is 0.
    """
    by_label = {}
    for i, label in enumerate(labels):
        tp, predicted, true = confusion[i][i], sum(row[i] for row in confusion), sum(confusion[i])
        by_label[label] = {
            "precision": tp / predicted if predicted else 0.0,
            "recall": tp / true if true else 0.0,
            "f1": 2 * tp / (predicted + true) if predicted + true else 0.0,
            "entries": true,
        }
    return {"accuracy": accuracy(confusion), "by_label": by_label, "confusion": [list(row) for row in confusion]}
