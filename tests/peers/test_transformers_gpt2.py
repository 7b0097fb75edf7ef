"""The same weights in transformers' GPT2LMHeadModel: logits, loss, every gradient (float64), and the greedy text."""

import copy

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.generation import generate
from gpt.model import GPT
from tensorlite import optim

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

CONFIG = GPTConfig(vocab_size=97, context_length=24, n_layer=3, n_head=4, n_embd=32, qkv_bias=True)


@pytest.fixture(scope="module")
def pair():
    """(ours, theirs): one set of random weights, all biases and norms moved away from their quiet beginnings."""
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97,
            n_positions=24,
            n_embd=32,
            n_layer=3,
            n_head=4,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    ours = GPT(CONFIG).to(tl.float64)
    weights = ours_from(lambda name: theirs.get_parameter(name).detach())
    ours.load_state_dict({name: tl.tensor(value) for name, value in weights.items()})
    return ours, theirs


def ours_from(read):
    """Our names -> arrays, from what `read` finds under theirs (c_attn holds q, k, v; matrices are (in, out))."""
    found = {
        "token_embedding.weight": read("transformer.wte.weight"),
        "position_embedding.weight": read("transformer.wpe.weight"),
        "final_norm.weight": read("transformer.ln_f.weight"),
        "final_norm.bias": read("transformer.ln_f.bias"),
    }
    for i in range(CONFIG.n_layer):
        for kind in ("weight", "bias"):
            qkv = read(f"transformer.h.{i}.attn.c_attn.{kind}").T.chunk(3)
            for name, part in zip(("W_query", "W_key", "W_value"), qkv, strict=True):
                found[f"blocks.{i}.attention.{name}.{kind}"] = part
            for name, other in (
                ("attention.out_proj", "attn.c_proj"),
                ("feed_forward.expand", "mlp.c_fc"),
                ("feed_forward.contract", "mlp.c_proj"),
            ):
                found[f"blocks.{i}.{name}.{kind}"] = read(f"transformer.h.{i}.{other}.{kind}").T
            for name, other in (("norm1", "ln_1"), ("norm2", "ln_2")):
                found[f"blocks.{i}.{name}.{kind}"] = read(f"transformer.h.{i}.{other}.{kind}")
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.filterwarnings("ignore")  # torch: transposing a vector is deprecated
def test_logits_loss_and_gradients(pair):
    ours, theirs = pair
    ids = np.random.default_rng(1).integers(0, 97, (3, 25))
    x, y = ids[:, :-1], ids[:, 1:].copy()
    y[0, :7] = -100
    logits, loss = ours(tl.tensor(x), tl.tensor(y))
    expected = theirs(torch.tensor(x)).logits
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten())
    np.testing.assert_allclose(logits.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-10)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)

    ours.zero_grad()
    loss.backward()
    theirs.zero_grad()
    expected_loss.backward()
    expected_gradients = ours_from(lambda name: theirs.get_parameter(name).grad)
    assert expected_gradients.keys() == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(
            parameter.grad.numpy(), expected_gradients[name], rtol=1e-9, atol=1e-12, err_msg=name
        )


@pytest.mark.filterwarnings("ignore")
def test_greedy_text(pair):
    ours, theirs = pair
    prompt = [5, 17, 80, 2]
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert generate(ours, [prompt], 20) == [expected[0, len(prompt) :].tolist()]


@pytest.mark.filterwarnings("ignore")
def test_ten_steps_of_adamw(pair):
    """Losses, gradient norms and all weights, with clipping and decay, in float64."""
    ours, theirs = (copy.deepcopy(model) for model in pair)
    ours.zero_grad()
    theirs.zero_grad()
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    optimizer, reference = optim.AdamW(ours.parameters(), **options), torch.optim.AdamW(theirs.parameters(), **options)
    rng = np.random.default_rng(2)
    for _ in range(10):
        ids = rng.integers(0, 97, (4, 17))
        _, loss = ours(tl.tensor(ids[:, :-1]), tl.tensor(ids[:, 1:]))
        loss.backward()
        norm = optim.grad_norm(ours.parameters())
        optimizer.step(grad_scale=optim.clip_scale(norm, 1.0))
        optimizer.zero_grad()
        logits = theirs(torch.tensor(ids[:, :-1])).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(ids[:, 1:]).flatten())
        expected.backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        assert float(norm) == pytest.approx(expected_norm.item(), rel=1e-6)
    weights = ours_from(lambda name: theirs.get_parameter(name).detach())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.numpy(), weights[name], rtol=1e-6, atol=1e-6, err_msg=name)
