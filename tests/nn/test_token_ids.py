"""Token ids and class indices in the forms that users have them in: lists, NumPy's integers, token files."""

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.generation import generate
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer, StreamDecoder, WordTokenizer
from tensorlite import formulas, nn
from tensorlite import functional as F
from tensorlite.data import TokenFile, write_tokens

V = 300


@pytest.fixture(scope="module")
def model() -> GPT:
    tl.manual_seed(0)
    return GPT(GPTConfig(vocab_size=V, context_length=8, n_layer=1, n_head=2, n_embd=8)).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> TokenFile:
    path = tmp_path_factory.mktemp("tokens") / "x.tokens"
    write_tokens(path, range(100, V), V)
    return TokenFile(path)


def test_no_ids_at_all():
    assert nn.Embedding(4, 2)([]).shape == (0, 2)
    assert F.one_hot([], 3).shape == (0, 3)


FORMS = {
    "nested lists": lambda file, a, b: [list(range(100 + a, 100 + b))],
    "tuples of ranges": lambda file, a, b: (range(100 + a, 100 + b),),
    "lists of NumPy integers": lambda file, a, b: [list(file[a:b])],
    "a list of slices of a token file": lambda file, a, b: [file[a:b]],
    "a uint16 array": lambda file, a, b: file[a:b][None],
    "an int32 array": lambda file, a, b: np.arange(100 + a, 100 + b, dtype=np.int32)[None],
    "a uint16 Tensor": lambda file, a, b: tl.tensor(file[a:b][None]),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.mark.finding("C7")
@every_form
def test_a_model_takes_ids_in_every_form(model, file, form):
    idx, targets = (tl.tensor([list(range(100 + a, 105 + a))]) for a in (7, 8))
    logits, loss = model(idx, targets)
    got_logits, got_loss = model(form(file, 7, 12), form(file, 8, 13))
    np.testing.assert_array_equal(got_logits.numpy(), logits.numpy())
    np.testing.assert_allclose(got_loss.item(), loss.item(), rtol=1e-6)
    got = model.loss(form(file, 7, 12), form(file, 8, 13))
    np.testing.assert_allclose(got.item(), loss.item(), rtol=1e-6)
    model.zero_grad()
    got.backward()
    assert np.flatnonzero(np.abs(model.position_embedding.weight.grad.numpy()).sum(1)).tolist() == list(range(5))


@pytest.mark.finding("C7")
@every_form
def test_prompts_are_taken_in_every_form(model, file, form):
    expected = generate(model, [[107, 108, 109]], 4, stop_token=2)
    assert generate(model, form(file, 7, 10), 4, stop_token=np.uint16(2)) == expected
    assert all(type(id) is int for id in expected[0])
    assert generate(model, iter(form(file, 7, 10)), 4) == expected  # an iterator is read once


@pytest.mark.finding("C7")
@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([np.array([1, 300], np.uint16)], "prompt 0: id 300 is not in the vocabulary: ids are integers from 0 to 299"),
        ([[np.uint16(300)]], "prompt 0: id 300 is not in"),
        (tl.tensor([[1], [-1]]), "prompt 1: id -1 is not in"),
        (np.array([[1.0]]), r"prompt 0: id 1\.0 is not in"),
        ([[True]], "prompt 0: id True is not in"),
        ([np.array([True])], "prompt 0: id True is not in"),
        ([[[1]]], r"prompt 0: id \[1\] is not in"),
        (np.zeros((0, 3), int), "there is no prompt"),
        (np.zeros((1, 0), int), "prompt 0 is empty"),
        ([1, 2], "prompt 0: a list of token ids is needed, not 1"),
        (np.array([1, 2], np.uint16), "prompt 0: a list of token ids is needed, not 1"),
        ([tl.tensor(1)], "prompt 0: a list of token ids is needed, not 1"),
        (["text"], "prompt 0: a list of token ids is needed, not 'text'"),
        ("text", "prompts: a list of lists of token ids is needed, not 'text'"),
        (7, "prompts: a list of lists of token ids is needed, not 7"),
    ],
)
def test_other_prompts_are_refused_in_one_sentence(model, prompts, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        generate(model, prompts, 1)


@pytest.mark.finding("C2")
def test_layers_and_losses_take_lists_where_indices_are_meant():
    layer = nn.Embedding(3, 2)
    np.testing.assert_array_equal(layer([[0, 2], [2, 1]]).numpy(), layer.weight.numpy()[[[0, 2], [2, 1]]])
    layer([2, 2, 0]).sum().backward()
    assert layer.weight.grad.tolist() == [[1, 1], [0, 0], [2, 2]]
    x = tl.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.5]], requires_grad=True)
    rows = x.numpy().astype(np.float64)
    expected = np.mean(np.log(np.exp(rows).sum(1)) - rows[[0, 1], [2, 0]])
    for f in (F.cross_entropy, formulas.cross_entropy):
        for targets in ([2, 0], (2, 0), [np.int64(2), 0], np.array([2, 0], np.uint8)):
            np.testing.assert_allclose(f(x, targets).item(), expected, rtol=1e-6)
        np.testing.assert_allclose(f(x, [2, -100]).item(), f(x[:1], [2]).item(), rtol=1e-6)
        np.testing.assert_allclose(f(x, [2, 0], reduction="none").numpy().sum(), 2 * expected, rtol=1e-6)
    F.cross_entropy(x, [2, 0]).backward()
    p = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    p[[0, 1], [2, 0]] -= 1
    np.testing.assert_allclose(x.grad.numpy(), p / 2, rtol=1e-5)
    head = tl.ones((4, 3))
    for f in (F.linear_cross_entropy, formulas.linear_cross_entropy):
        np.testing.assert_allclose(f(x, head, [3, 1]).item(), np.log(4), rtol=1e-6)
    assert F.embedding(head, [[0]]).shape == formulas.embedding(head, [[0]]).shape == (1, 1, 3)


@pytest.mark.finding("C2")
def test_other_indices_are_refused_in_one_sentence(model):
    for call, message in [
        (lambda: model([1, 2]), r"token ids must have shape \(B, T\), got \(2,\)"),
        (lambda: model([[1], [1, 2]]), "token ids: the rows have different lengths: pad them to one length"),
        (lambda: model([[0.5]]), r"token ids: integers are needed, not float64, in \[\[0\.5\]\]"),
        (lambda: model("text"), "token ids: integers are needed"),
        (lambda: model([[True]]), "token ids: integers are needed, not bool"),
        (lambda: model([[1]], [["x"]]), "targets: integers are needed"),
        (lambda: model.loss([[1]], [["x"]]), "targets: integers are needed"),
        (lambda: model([[V]]), "index 300 is out of range"),
        (lambda: nn.Embedding(3, 2)(np.array([3], np.uint16)), "index 3 is out of range"),
        (lambda: F.cross_entropy(tl.ones((1, 3)), [3]), "index 3 is out of range"),
        (lambda: F.cross_entropy(tl.ones((1, 3)), [0.5]), r"cross_entropy.*(integers are needed|not a list)"),
        (lambda: F.cross_entropy(tl.ones((1, 3)), [0, 1]), r"must have shape \(1,\), not \(2,\)"),
    ]:
        with pytest.raises((ValueError, TypeError, IndexError)) as error:
            call()
        assert "np." not in str(error.value)
        error.match(message)


@pytest.mark.finding("C7")
@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), WordTokenizer(["a", "b", "c"])], ids=["char", "word"])
def test_a_tokenizer_decodes_ids_in_every_form(tokenizer):
    expected = tokenizer.decode([0, 2])
    for ids in (np.array([0, 2], np.uint16), tl.tensor([0, 2]), [np.int64(0), 2], iter((0, 2))):
        assert tokenizer.decode(ids) == expected
    assert StreamDecoder(tokenizer).feed(np.uint16(2)) == tokenizer.decode([2])
    for ids, message in [
        (np.array([999], np.uint16), "id 999 is not in the vocabulary"),
        ([True], "id True is not in"),
        ([1.0], "id 1.0 is not in"),
        ("ab", "a list of token ids is needed, not 'ab'"),
        (3, "a list of token ids is needed, not 3"),
        (np.array([[0, 1]]), r"id \[0, 1\] is not in"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            tokenizer.decode(ids)


@pytest.mark.finding("C7")
def test_token_files_are_written_from_every_form(file, tmp_path):
    for ids in (
        tl.tensor([1, 2, 3]),
        np.array([1, 2, 3], np.uint8),
        [tl.tensor([1, 2]), [3]],
        iter([1, np.int8(2), 3]),
    ):
        assert write_tokens(tmp_path / "t", ids, V) == 3
        assert TokenFile(tmp_path / "t")[:].tolist() == [1, 2, 3]
    assert write_tokens(tmp_path / "t", file, V) == len(file)
