"""Initial weights and the order of batches beside torch's own, for the same seeds."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import data, nn

torch = pytest.importorskip("torch", reason="torch is the peer: pip install -e '.[test,peers]'")


def test_layers_start_from_torchs_weights():
    tl.manual_seed(123)
    torch.manual_seed(123)
    for n_in, n_out in [(1, 1), (3, 2), (7, 5), (64, 48), (768, 129)]:
        ours, theirs = nn.Linear(n_in, n_out), torch.nn.Linear(n_in, n_out)
        np.testing.assert_array_equal(ours.weight.numpy(), theirs.weight.detach().numpy())
        np.testing.assert_array_equal(ours.bias.numpy(), theirs.bias.detach().numpy())
        ours, theirs = nn.Embedding(n_in, n_out), torch.nn.Embedding(n_in, n_out)
        np.testing.assert_allclose(ours.weight.numpy(), theirs.weight.detach().numpy(), rtol=5e-7, atol=5e-7)
    ours, theirs = nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
    np.testing.assert_array_equal(ours.weight.numpy(), theirs.weight.detach().numpy())


def test_names_and_order_of_parameters_are_torchs():
    def model(nn):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.GELU(), nn.Linear(2, 2, bias=False))])
                self.scale = nn.Parameter(torch.ones(1).numpy() if nn is not torch.nn else torch.ones(1))
                self.norm = nn.LayerNorm(2)

        return Model()

    ours, theirs = model(nn), model(torch.nn)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    ours.load_state_dict({name: tl.tensor(t.numpy()) for name, t in theirs.state_dict().items()})


@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
@pytest.mark.parametrize(
    ("n", "size", "shuffle", "drop_last"),
    [(10, 3, True, False), (10, 5, True, True), (11, 4, True, True), (7, 2, False, False)],
)
def test_three_epochs_are_torchs_and_so_is_the_generator_afterwards(n, size, shuffle, drop_last, own):
    seed = 2**40 + 5
    tl.manual_seed(seed)
    torch.manual_seed(seed)
    ours, theirs = (tl.Generator(7), torch.Generator().manual_seed(7)) if own else (None, None)
    loader = data.DataLoader(range(n), size, shuffle, drop_last, generator=ours)
    reference = torch.utils.data.DataLoader(range(n), size, shuffle, drop_last=drop_last, generator=theirs)
    assert len(loader) == len(reference)
    for _ in range(3):
        assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in reference]
    assert tl.rand(3).tolist() == torch.rand(3).tolist()
    if own:
        assert tl.rand(3, generator=ours).tolist() == torch.rand(3, generator=theirs).tolist()


def test_two_loaders_side_by_side_draw_in_torchs_order():
    def pairs(DataLoader):
        first, second = DataLoader(range(6), 2, shuffle=True), DataLoader(range(6), 2, shuffle=True)
        return [(a.tolist(), b.tolist()) for a, b in zip(first, second, strict=True)]

    tl.manual_seed(9)
    torch.manual_seed(9)
    assert pairs(data.DataLoader) == pairs(torch.utils.data.DataLoader)


def test_collate_gives_torchs_dtypes_but_for_python_floats():
    for items in ([1, 2], [True, False], [np.float64(1), np.float64(2)], [np.ones(2, np.int32)] * 2):
        ours, theirs = data.default_collate(items), torch.utils.data.default_collate(items)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        assert ours.numpy().dtype == theirs.numpy().dtype
    assert data.default_collate([0.5]).dtype == tl.float32  # as everywhere here; torch makes these float64
