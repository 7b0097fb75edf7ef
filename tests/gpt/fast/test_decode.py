"""Which decoder is attached for which model, and that generation on a CPU passes no CUDA file."""

import sys

import pytest

import tensorlite as tl
from gpt import fast
from gpt import generation as plain
from gpt.config import GPTConfig
from gpt.fast import cpu_decode, decode
from gpt.model import GPT
from tensorlite import backend
from tensorlite.kernels.cpu import decode as cpu_step
from tensorlite.kernels.cpu.choose_impl import missing
from tensorlite.testing.strict import strict

CONFIG = GPTConfig(vocab_size=11, context_length=12, n_layer=2, n_head=2, n_embd=8)


@pytest.fixture
def attached(monkeypatch):
    monkeypatch.setattr(plain, "make_decoder", plain.Decoder)
    monkeypatch.setattr(cpu_step, "MIN_WEIGHTS", 0)
    fast.attach_decode()


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "seed": 1}])
def test_generation_on_a_cpu_passes_no_file_of_cuda(attached, options):
    model, files = GPT(CONFIG), set()
    plain.generate(model, [[1, 2], [3]], 2, **options)  # what is imported at first use
    tokens = plain.stream(model, [[1, 2], [3]], 4, **options)

    def note(frame, event, argument):
        files.add(frame.f_code.co_filename.replace("\\", "/"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        list(tokens)
    finally:
        sys.setprofile(before)
    assert any(file.endswith("gpt/kv_cache.py") for file in files)
    fast_or_cuda = [file for file in files if any(part in file for part in ("/cuda/", "cuda_graph", "/gpt/fast/"))]
    others = [file for file in fast_or_cuda if "/tests/" not in file]
    assert [file.rpartition("/gpt/")[2] for file in others] == ([] if missing() else ["fast/cpu_decode.py"])


def test_a_model_on_a_gpu_gets_the_other_decoder(attached, monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    tl.manual_seed(1)
    cpu, gpu = GPT(CONFIG), GPT(CONFIG).to("strict")
    assert type(plain.make_decoder(cpu, 1, 12, True)) is (plain.Decoder if missing() else cpu_decode.CPUDecoder)
    assert type(plain.make_decoder(cpu, 1, 12, False)) is plain.Decoder
    assert type(plain.make_decoder(gpu, 1, 12, True)) is decode.GPUDecoder
    assert type(plain.make_decoder(gpu, 1, 12, False)) is plain.Decoder


def test_what_is_kept_for_the_next_texts_fits_them_or_is_made_anew(attached, monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    model = GPT(CONFIG).to("strict")
    monkeypatch.setattr(decode, "_spare", {})
    kept = decode.gpu_decoder(model, 2, 8)
    kept.finish()
    assert not decode._spare  # nothing was recorded
    for batch_size, positions, again in ((2, 8, True), (2, 5, True), (2, 9, False), (1, 8, False)):
        decode._spare[model] = kept
        kept.cache[0].lengths = [3, 3]
        found = decode.gpu_decoder(model, batch_size, positions)
        assert (found is kept) == again
        assert found.cache[0].lengths == [0] * batch_size
        with monkeypatch.context() as patch:  # there are keys of earlier texts, but nothing of these has been read
            patch.setattr(decode.DeviceCache, "has_kernel", True)
            assert not found.reads_one([[1]] * batch_size)
            found.cache[0].lengths = [1] * batch_size
            assert found.reads_one([[1, 2]] * batch_size)
    decode._spare[model] = kept
    for p in model.parameters():
        p.data = p.data.copy()
    assert decode.gpu_decoder(model, 2, 8) is not kept


def test_a_step_reads_the_newest_tokens_and_leaves_the_best_ones_one_position_further(attached, monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    model = GPT(CONFIG).to("strict")
    tokens = decode.newest(model, [[4, 5, 6], [7]])
    assert tokens.device == "strict"
    assert tokens.tolist() == [[6, 7], [2, 0]]
    scores = tl.tensor([[0, 3, 1], [5, 1, 1]], device="strict")
    monkeypatch.setattr(decode, "next_to_each", lambda model, cache, tokens: scores)
    assert decode.best_of_each(model, [], tokens).tolist() == [1, 0]
    assert tokens.tolist() == [[1, 0], [3, 1]]
