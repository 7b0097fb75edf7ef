"""Folders that transformers writes, read here; folders written here, read by transformers; and GPT-2 at full size."""

import random
import string

import numpy as np
import pytest

import tensorlite as tl
from gpt import pretrained
from gpt.config import GPTConfig
from gpt.generation import generate
from gpt.model import GPT
from gpt.tokenizer import BPETokenizer, CharTokenizer, gpt2
from gpt.training import checkpoint
from tensorlite import io

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n" * 3
TOKENIZER = BPETokenizer.train(TEXT, 280)
CONFIG = GPTConfig(
    vocab_size=TOKENIZER.vocab_size, context_length=64, n_layer=3, n_head=4, n_embd=32, qkv_bias=True
).with_dropout(0.1)


def theirs(**changes):
    """A small GPT2LMHeadModel with random weights, biases and norms too."""
    config = {"vocab_size": CONFIG.vocab_size, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**config, "bos_token_id": None, "eos_token_id": None, **changes})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def run_of(folder, config=CONFIG, tokenizer=TOKENIZER) -> tuple:
    """A run with random weights; its model."""
    folder.mkdir()
    tl.manual_seed(0)
    model = GPT(config).eval()
    for p in model.parameters():
        p.data[...] += 0.1 * tl.randn(*p.shape).data
    checkpoint.write_json(folder / "config.json", {"format": "gpt.run", "version": 1, "model": config.to_dict()})
    tokenizer.save(folder / "tokenizer.json")
    io.save(folder / "model.safetensors", model.state_dict())
    return folder, model


def close(found, expected, rtol: float) -> None:
    """As near as `rtol` times the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= rtol * np.abs(expected).max()


def same_logits(ours: GPT, other, rtol: float = 1e-4) -> None:
    ids = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (2, 20))
    with torch.no_grad():
        close(ours(tl.tensor(ids))[0].numpy(), other(torch.tensor(ids)).logits.float().numpy(), rtol)


# ----- theirs, read here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "saving"),
    [
        ({}, {}),
        ({}, {"max_shard_size": "30KB"}),
        ({"tie_word_embeddings": False}, {}),
        ({"n_layer": 1, "n_head": 1, "n_embd": 6, "n_positions": 20}, {}),
        ({"reorder_and_upcast_attn": True}, {}),
    ],
    ids=["tied", "shards", "untied", "another size", "upcast"],
)
def test_a_folder_that_transformers_saved(tmp_path, changes, saving):
    other = theirs(**changes)
    other.save_pretrained(tmp_path, **saving)
    assert (tmp_path / "model.safetensors.index.json").exists() is bool(saving)
    same_logits(pretrained.load(tmp_path), other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_become_float32_exactly(tmp_path, dtype):
    other = theirs().to(dtype)
    other.save_pretrained(tmp_path)
    same_logits(pretrained.load(tmp_path), other.float())


def test_a_model_without_its_head_and_so_without_the_prefix(tmp_path):
    other = theirs()
    other.transformer.save_pretrained(tmp_path)
    assert "wte.weight" in io.entries(tmp_path / "model.safetensors")
    same_logits(pretrained.load(tmp_path), other)


def test_the_way_to_convert_a_pickle_works(tmp_path):
    other = theirs()
    other.config.save_pretrained(tmp_path / "old")
    torch.save(other.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(ValueError, match='python -c "') as error:
        pretrained.load(tmp_path / "old")
    exec(str(error.value).partition('python -c "')[2].rstrip('"'), {})
    same_logits(pretrained.load(tmp_path / "old-safetensors"), other)


# ----- ours, read there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_out_to_transformers_and_in_again(tmp_path, qkv_bias, tie_head):
    config = GPTConfig(**{**CONFIG.to_dict(), "qkv_bias": qkv_bias, "tie_head": tie_head})
    run, model = run_of(tmp_path / "run", config)
    pretrained.export_run(run, tmp_path / "out")
    other, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said.values())  # no key is missing, unexpected or misshapen
    assert type(other) is transformers.GPT2LMHeadModel
    same_logits(model, other.eval())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    other.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")

    pretrained.import_folder(tmp_path / "theirs", tmp_path / "again")
    again, its_tokenizer = checkpoint.load_model(tmp_path / "again")
    weights = {name: p.numpy() for name, p in again.named_parameters()}
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(weights.pop(name), p.numpy(), err_msg=name, strict=True)
    assert all(name.endswith("bias") and not x.any() for name, x in weights.items())  # theirs always has c_attn's
    assert bool(weights) is not qkv_bias
    assert again.config == GPTConfig(**{**config.to_dict(), "qkv_bias": True})
    assert (its_tokenizer.tokens, its_tokenizer.special_tokens) == (TOKENIZER.tokens, TOKENIZER.special_tokens)


def test_greedy_text_is_the_same(tmp_path):
    run, model = run_of(tmp_path / "run")
    pretrained.export_run(run, tmp_path / "out")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    prompt = TOKENIZER.encode("She sells")
    expected = other.generate(torch.tensor([prompt]), max_new_tokens=50, do_sample=False, eos_token_id=None)
    assert generate(model, [prompt], 50) == [expected[0, len(prompt) :].tolist()]


def texts() -> list[str]:
    """Text that a byte-level tokenizer may cut wrongly: spaces, contractions, digits, other scripts, control codes."""
    drawn = random.Random(0)
    signs = string.ascii_letters + " \n\t'1234.,é日🙂\u00a0\u3000\u0085\x1c\x00ſ"
    parts = ["'s", "'LL", " the", "sea", "  ", "\r\n", "ab"]
    return [
        TEXT, "", " a", "a ", "  a", "\n\n \n", "it's I'LL we've 'tis", "日本語🙂e\u0301",
        *("".join(drawn.choice([*signs, *parts]) for _ in range(drawn.randint(1, 60))) for _ in range(300)),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["trained", "no special token", "two special tokens", "gpt2"])
def test_a_tokenizer_says_the_same_there(tmp_path, request, name):
    ours = {
        "trained": lambda: TOKENIZER,
        "no special token": lambda: BPETokenizer(TOKENIZER.tokens, []),
        "two special tokens": lambda: BPETokenizer(TOKENIZER.tokens, ["<|user|>", "<|endoftext|>"]),
        "gpt2": lambda: gpt2(request.getfixturevalue("data_dir")),
    }[name]()
    run, _ = run_of(tmp_path / "run", GPTConfig(**{**CONFIG.to_dict(), "vocab_size": ours.vocab_size}), ours)
    pretrained.export_run(run, tmp_path / "out")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(other) == ours.vocab_size
    assert {token: other.convert_tokens_to_ids(token) for token in other.all_special_tokens} == {
        token: id for token, id in ours.special_tokens.items() if token == "<|endoftext|>"
    }
    for text in texts():
        ids = ours.encode(text)
        assert other.encode(text) == ids, text
        assert other.decode(ids) == text
    for token, id in ours.special_tokens.items():
        assert other.encode(f"sea{token}sea") == ours.encode(f"sea{token}sea", {token})
        assert id in other.encode(token)


def test_gpt2s_own_files_come_out_again(tmp_path, data_dir):
    ours = gpt2(data_dir)
    run, _ = run_of(tmp_path / "run", GPTConfig(**{**CONFIG.to_dict(), "vocab_size": 50257, "n_embd": 4}), ours)
    pretrained.export_run(run, tmp_path / "out")
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (data_dir / "vocab.bpe").read_bytes()
    slow = transformers.GPT2Tokenizer(str(data_dir / "encoder.json"), str(data_dir / "vocab.bpe"))
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert fast.get_vocab() == slow.get_vocab()
    slow.save_pretrained(tmp_path / "theirs")
    assert pretrained.load_tokenizer(tmp_path / "theirs").tokens == ours.tokens


@pytest.mark.parametrize("special", [(), ("<|endoftext|>",)])
def test_characters_say_the_same_there(tmp_path, special):
    ours = CharTokenizer("".join(sorted(set(TEXT + "é日🙂\t\r"))), special)
    run, _ = run_of(tmp_path / "run", GPTConfig(**{**CONFIG.to_dict(), "vocab_size": ours.vocab_size}), ours)
    pretrained.export_run(run, tmp_path / "out")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    drawn = random.Random(0)
    for text in (TEXT, "", "\n\n", " ", *("".join(drawn.choices(ours.characters, k=40)) for _ in range(50))):
        ids = ours.encode(text)
        assert other.encode(text) == ids
        assert other.decode(ids) == text
    with pytest.raises(Exception, match="UNK"):  # not another token, silently
        other.encode("X")
    other.save_pretrained(tmp_path / "theirs")
    again = pretrained.load_tokenizer(tmp_path / "theirs", ours.vocab_size)
    assert (again.characters, again.special_tokens) == (ours.characters, ours.special_tokens)


# ----- the full size ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gpt2_at_its_full_size(tmp_path):
    """124,439,808 random weights: logits, loss, every gradient, and 50 greedy tokens."""
    torch.manual_seed(0)
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    other.save_pretrained(tmp_path)
    ours = pretrained.load(tmp_path)
    assert ours.num_parameters() == other.num_parameters() == 124_439_808
    ids = np.random.default_rng(1).integers(0, 50257, (1, 33))
    x, y = ids[:, :-1], ids[:, 1:]
    logits, loss = ours(tl.tensor(x), tl.tensor(y))
    expected = other(torch.tensor(x)).logits
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten())
    close(logits.numpy(), expected.detach().numpy(), 1e-4)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)

    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad.numpy() for name, p in other.named_parameters()}
    for name, p in ours.named_parameters():
        kind, matrix = name.rpartition(".")[2], p.ndim == 2
        if name.startswith("blocks."):
            _, i, layer = name.removesuffix(f".{kind}").split(".", 2)
            there = {
                "norm1": "ln_1", "norm2": "ln_2", "attention.out_proj": "attn.c_proj",
                "feed_forward.expand": "mlp.c_fc", "feed_forward.contract": "mlp.c_proj",
            }.get(layer, "attn.c_attn")  # fmt: skip
            gradient = gradients[f"transformer.h.{i}.{there}.{kind}"]
            if there == "attn.c_attn":
                part = ["attention.W_query", "attention.W_key", "attention.W_value"].index(layer)
                gradient = gradient[..., 768 * part : 768 * (part + 1)]
            gradient = gradient.T if matrix else gradient
        else:
            there = {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}[name.split(".")[0]]
            gradient = gradients[f"transformer.{there}.{kind}"]
        if name.endswith("W_key.bias"):  # softmax does not see it: its gradient is 0, and what rounding leaves
            assert np.abs(p.grad.numpy()).max() < 1e-6 > np.abs(gradient).max()
            continue
        close(p.grad.numpy(), gradient, 1e-4)

    prompt = x[0, :8].tolist()
    text = other.generate(torch.tensor([prompt]), max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert generate(ours, [prompt], 50) == [text[0, 8:].tolist()]
