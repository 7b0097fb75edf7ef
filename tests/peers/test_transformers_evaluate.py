"""Strided perplexity as Hugging Face's page "Perplexity of fixed-length models" has it, with transformers' GPT-2."""

import pytest
from test_transformers_gpt2 import pair  # noqa: F401  (a fixture)

from gpt.tasks.evaluate import total_loss

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch: transposing a vector is deprecated


def as_on_the_page(theirs, ids: torch.Tensor, max_length: int, stride: int) -> tuple[float, int]:
    """(sum of the losses, how many predictions): of each window, labels for what no window before it had."""
    nats, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        labels = ids[begin:end].clone()
        labels[: max(0, previous - begin)] = -100
        made = int((labels[1:] != -100).sum())
        with torch.no_grad():
            nats += theirs(ids[None, begin:end], labels=labels[None]).loss.item() * made
        count, previous = count + made, end
        if end == len(ids):
            break
    return nats, count


@pytest.mark.parametrize("n", [7, 24, 50, 131])
@pytest.mark.parametrize(("max_length", "stride"), [(24, 23), (24, 12), (24, 1), (9, 8), (9, 5)])
def test_the_same_windows_give_the_same_loss(pair, n, max_length, stride):  # noqa: F811
    ours, theirs = pair
    ids = torch.randint(0, 97, (n,), generator=torch.Generator().manual_seed(n))
    nats, count = as_on_the_page(theirs.eval(), ids, max_length, stride)
    assert count == n - 1
    assert total_loss(ours, ids.tolist(), max_length - 1, stride) == pytest.approx(nats, rel=1e-6)


@pytest.mark.parametrize("n", [25, 49, 100])
def test_windows_that_do_not_overlap_are_those_of_training(pair, n):  # noqa: F811
    """Inputs ids[i : i + 24], targets one further: every position of the model is used."""
    ours, theirs = pair
    ids = torch.randint(0, 97, (n,), generator=torch.Generator().manual_seed(n))
    nats = 0.0
    for i in range(0, n - 1, 24):
        x, y = ids[i : min(i + 24, n - 1)], ids[i + 1 : i + 25]
        with torch.no_grad():
            nats += torch.nn.functional.cross_entropy(theirs(x[None]).logits[0], y, reduction="sum").item()
    assert total_loss(ours, ids.tolist()) == pytest.approx(nats, rel=1e-6)
