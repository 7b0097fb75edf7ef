"""Chapter 5's training beside the same in torch: the same stream of random numbers gives the same run."""

import pytest

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")

import tensorlite as tl  # noqa: E402
from gpt.config import GPTConfig  # noqa: E402
from gpt.generation import generate  # noqa: E402
from gpt.model import GPT  # noqa: E402
from tensorlite import optim  # noqa: E402
from tensorlite.data import DataLoader, Windows  # noqa: E402

V, T, C, H, LAYERS, P = 61, 32, 48, 4, 2, 0.1
nn = torch.nn


class TorchBlock(nn.Module):
    """A block with the book's order of random draws: in making, and in dropout."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(C, C, bias=False) for _ in range(3))
        self.out = nn.Linear(C, C)
        self.wide, self.narrow = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.drop = nn.Dropout(P)

    def forward(self, x):
        B, N, _ = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).view(B, N, H, C // H).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, H, T, D)
        later = torch.ones(N, N, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3)).masked_fill(later, -torch.inf)
        weights = self.drop(torch.softmax(scores / (C // H) ** 0.5, dim=-1))
        y = self.out((weights @ v).transpose(1, 2).reshape(B, N, C))  # (B, H, T, D) -> (B, T, C)
        x = x + self.drop(y)
        y = self.narrow(nn.functional.gelu(self.wide(self.norm2(x)), approximate="tanh"))
        return x + self.drop(y)


class TorchGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(V, C), nn.Embedding(T, C)
        self.drop = nn.Dropout(P)
        self.blocks = nn.Sequential(*[TorchBlock() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)

    def forward(self, idx):
        x = self.drop(self.tokens(idx) + self.places(torch.arange(idx.shape[1])))
        return self.head(self.norm(self.blocks(x)))


def windows(ids):
    return [(torch.tensor(ids[i : i + T]), torch.tensor(ids[i + 1 : i + T + 1])) for i in range(0, len(ids) - T, T)]


def in_torch(ids, steps):
    """(losses of training, a loss after every fifth step, greedy continuation)"""
    loader = torch.utils.data.DataLoader(windows(ids), batch_size=2, shuffle=True, drop_last=True)
    torch.manual_seed(123)
    model = TorchGPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    losses, looks = [], []
    while len(losses) < steps:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 5 == 1:
                model.eval()
                with torch.no_grad():
                    x, y = next(iter(loader))  # takes random numbers
                    looks.append(nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).item())
                model.train()
    model.eval()
    idx = torch.tensor([ids[:4]])
    for _ in range(20):
        with torch.no_grad():
            idx = torch.cat([idx, model(idx)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return losses[:steps], looks, idx[0, 4:].tolist()


def in_tensorlite(ids, steps):
    loader = DataLoader(Windows(ids, T, stride=T), batch_size=2, shuffle=True, drop_last=True)
    tl.manual_seed(123)
    shape = GPTConfig(
        vocab_size=V, context_length=T, n_layer=LAYERS, n_head=H, n_embd=C, tie_head=False, init="torch"
    ).with_dropout(P)  # fmt: skip
    model = GPT(shape)
    optimizer = optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    losses, looks = [], []
    while len(losses) < steps:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            _, loss = model(x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 5 == 1:
                model.eval()
                with tl.no_grad():
                    looks.append(model(*next(iter(loader)))[1].item())
                model.train()
    (new,) = generate(model, [ids[:4]], 20)
    return losses[:steps], looks, new


def test_a_seed_gives_the_same_run():
    ids = torch.randint(0, V, (30 * T + 5,), generator=torch.Generator().manual_seed(0)).tolist()
    theirs, ours = in_torch(ids, 45), in_tensorlite(ids, 45)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)  # dropout's masks and the batches are the same
    assert ours[1] == pytest.approx(theirs[1], abs=1e-5)
    assert ours[2] == theirs[2]
