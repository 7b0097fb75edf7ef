"""Devices without a GPU: a run on the strict stand-in (tests/support/strict.py) is the CPU's; messages without one.

The strict device counts each look at a value: `strict.waits`.
"""

import json
import re
import sys
import types

import numpy as np
import pytest
from runs import tiny, train

import tensorlite as tl
from gpt.attention import CausalAttention, MultiHeadAttention
from gpt.cli import doctor
from gpt.cli import main as cli
from gpt.config import GPTConfig
from gpt.fast import machine as fast_machine
from gpt.generation import generate
from gpt.model import GPT, parameter_table
from gpt.tasks import classify, instruct, pretrain
from gpt.tasks.classify import ClassifyConfig, data
from gpt.tasks.evaluate import total_loss
from gpt.tasks.instruct.judge import log_likelihood
from gpt.tasks.pretrain import Pretraining, TrainConfig, check_memory
from gpt.training import checkpoint, plots, session
from gpt.training.step import accumulate
from tensorlite import backend, optim
from tensorlite.data import TokenFile
from tensorlite.devices import gpu, memory
from tensorlite.kernels.cuda import attention as scores
from tensorlite.testing.strict import strict

CONSTANT = {"lr": 0.02, "min_lr": 0.02, "warmup": 0, "dropout": 0.0}


@pytest.fixture(autouse=True, scope="module")
def device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backend.DEVICES, "strict", lambda: strict)
        yield


def metrics(run) -> list[dict]:
    return list(plots.read_metrics(run / "metrics.jsonl"))


def same_weights(a, b, atol=1e-5) -> None:
    a, b = (tl.io.load(run / "model.safetensors") for run in (a, b))
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype == tl.float32
        np.testing.assert_allclose(x.numpy(), b[name].numpy(), rtol=1e-4, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run on both devices: cpu/ and strict/, and what the latter said."""
    folder = tmp_path_factory.mktemp("devices")
    said = [train(tiny(folder, out=folder / name, device=name, steps=8, **CONSTANT)) for name in ("cpu", "strict")]
    return folder, said[1]


# ----- training ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_another_device_is_the_same_run(runs):
    folder, said = runs
    assert "device     strict" in said
    near, far = (metrics(folder / name) for name in ("cpu", "strict"))
    assert [line.keys() for line in near] == [line.keys() for line in far]
    for a, b in zip(near, far, strict=True):
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-4)
    same_weights(folder / "cpu", folder / "strict")
    description = json.loads((folder / "strict" / "config.json").read_text())
    assert description["made_with"]["device"] == "strict"
    assert "device" not in description["training"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("cpu", "strict"), ("strict", "cpu")])
def test_a_run_moves_between_devices(runs, tmp_path, first, then):
    """Six steps here and two there are the eight steps of one device: the checkpoint has all, the batches go on."""
    train(tiny(tmp_path, device=first, steps=6, **CONSTANT))
    run = tmp_path / "run"
    resumed = session.settings(run, TrainConfig)
    assert resumed.device == "auto"  # a run is not fixed to one, nor remembers it
    said = train(TrainConfig(**{**vars(resumed), "device": then, "steps": 8}))
    assert f"warning: device was {first} and is {then}: the last bits may differ from an unbroken run's" in said
    same_weights(run, runs[0] / "cpu")
    near, far = metrics(runs[0] / "cpu")[1:9], [line for line in metrics(run)[1:] if "loss" in line]
    assert [line["loss"] for line in far] == pytest.approx([line["loss"] for line in near], rel=1e-4)


def test_a_step_does_not_wait_for_its_device(tmp_path):
    """Drawing, counting, loss, gradient and clipping: nobody looks at a value."""
    run = tmp_path / "run"
    run.mkdir()
    s = session.begin(Pretraining, tiny(tmp_path, device="strict", batch_size=2), run, lambda line: None)
    assert {p.device for p in s.model.parameters()} == {"strict"}
    before = strict.waits
    batches = [s.task.draw() for _ in range(3)]
    loss = accumulate(s.task, s.model, batches, [s.task.targets(batch) for batch in batches])
    norm = optim.global_norm(s.model.parameters())
    scale = optim.clip_scale(norm, 1.0)
    assert strict.waits == before
    assert {x.device for x in (loss, norm, scale)} == {"strict"}
    assert 0 < loss.item() < 10


def test_evaluation_waits_once_a_batch(runs):
    run = runs[0] / "cpu"
    model, _ = checkpoint.load_model(run, "strict")
    tokens = TokenFile(run / "validation.tokens")
    before = strict.waits
    far = pretrain.evaluate(model, tokens, 2, 3)
    assert strict.waits == before + 3
    assert far == pytest.approx(pretrain.evaluate(checkpoint.load_model(run)[0], tokens, 2, 3), rel=1e-5)


def test_training_that_does_not_fit_is_refused_before_it_begins(monkeypatch):
    """Of a GPU what is free counts; recomputed blocks and bfloat16 need less."""
    monkeypatch.setattr(gpu, "memory", lambda device: (4 << 30, 80 << 30))
    big = {"preset": "gpt2", "batch_size": 4, "dropout": 0.0}
    shape = TrainConfig(**big).model(50257)
    check_memory(shape, TrainConfig(**big, device="cpu"))
    with pytest.raises(ValueError, match=r"takes at least 4\.\d GiB of memory and strict has 4\.0 free: a smaller bat"):
        check_memory(shape, TrainConfig(**big, device="strict"))
    check_memory(shape, TrainConfig(**big, device="strict", dtype="bfloat16"))
    check_memory(shape, TrainConfig(**big, device="strict", activation_checkpointing=True))


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layer": 200, "n_embd": 4096, "vocab_size": 10, "context_length": 1},  # most parameters are in the blocks
        {"n_layer": 1, "n_embd": 4096, "vocab_size": 10**8, "context_length": 1},  # in the embedding of tokens
        {"n_layer": 1, "n_embd": 4096, "vocab_size": 10, "context_length": 10**6},  # of positions
    ],
)
def test_the_memory_of_training_is_at_least_16_bytes_a_parameter(shape, monkeypatch):
    """Weight, gradient and two averages in float32; the activations of a batch of one add at most an eighth."""
    monkeypatch.setattr(gpu, "memory", lambda device: (1 << 30, 80 << 30))
    model = GPTConfig(n_head=1, tie_head=True, **shape)
    parameters = parameter_table(model)[-1].parameters
    config = TrainConfig(batch_size=1, device="strict", dtype="bfloat16", activation_checkpointing=True)
    with pytest.raises(ValueError, match="takes at least") as error:
        check_memory(model, config)
    said = float(re.findall(r"at least ([\d,.]+) GiB", str(error.value))[0].replace(",", ""))
    assert said == pytest.approx(16 * parameters / 2**30, rel=0.15)


# ----- writing and measuring --------------------------------------------------------------------------------------

SHAPE = GPTConfig(vocab_size=23, context_length=12, n_layer=2, n_head=2, n_embd=16, qkv_bias=True, init="torch")
PROMPTS = [[3], [5, 1, 4, 1, 5, 9, 2], [22, 0, 7], [8, 8, 8, 8]]


def two_models(config=SHAPE):
    models = []
    for name in ("cpu", "strict"):
        tl.manual_seed(1)
        models.append(GPT(config).to(name).eval())
    return models


@pytest.mark.slow
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "seed": 11}])
def test_the_same_text_and_one_look_a_token(options, use_cache):
    near, far = two_models()
    for n in (5, 20):  # within the context, and beyond it
        before = strict.waits
        found = generate(far, PROMPTS, n, use_cache=use_cache, **options)
        assert strict.waits == before + n
        assert found == generate(near, PROMPTS, n, use_cache=use_cache, **options)


def test_a_cache_is_what_its_first_keys_are():
    """So it needs no word on device and dtype: bfloat16 activations of float32 weights have a bfloat16 cache."""
    _, far = two_models()
    cache = far.new_cache(1)
    assert cache[0].keys is None
    with tl.no_grad():
        far.hidden_states(tl.tensor([[1, 2]], device="strict"), cache)
    assert (cache[0].keys.device, cache[0].values.device) == ("strict", "strict")


def test_the_projections_still_lie_together_after_a_move():
    attention = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True)
    weights = [part.weight.tolist() for part in (attention.W_query, attention.W_key, attention.W_value)]
    for target in ("strict", "cpu", tl.float64):
        attention.to(target)
        assert [p.weight.tolist() for p in (attention.W_query, attention.W_key, attention.W_value)] == weights
    parts = [p.weight.data for p in (attention.W_query, attention.W_key, attention.W_value)]
    assert memory.adjacent_view(parts).tolist() == [row for part in weights for row in part]


def test_the_ladder_of_attention_computes_where_its_input_is():
    layer = CausalAttention(4, 4, 6, 0.0)
    x = tl.randn(2, 5, 4)
    near = layer(x)
    far = layer.to("strict")(x.to("strict"))
    np.testing.assert_allclose(far.numpy(), near.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_measured_is_measured_where_the_model_is(runs):
    run = runs[0] / "cpu"
    (near, tokenizer), (far, _) = (checkpoint.load_model(run, name) for name in ("cpu", "strict"))
    ids = tokenizer.encode("9 bottles stand on the wall; take one down")
    losses = [total_loss(model, ids, stride=3, batch_size=2) for model in (near, far)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# ----- fine-tuning ------------------------------------------------------------------------------------------------

WORDS = {"drink": ("milk", "tea", "juice", "water"), "fruit": ("pear", "plum", "fig", "lime")}
LABELLED = [data.Entry(kind, f"{n} times {words[n % 4]}") for n in range(15) for kind, words in WORDS.items()]
ASKED = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("yes", "no")] * 15


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context_length": 64, "tokenizer": "bpe", "vocab_size": 270}
    text = "\n".join(e.text for e in LABELLED) + "\n".join(e["instruction"] + e["output"] for e in ASKED)
    (folder / "text.txt").write_text(text * 2, encoding="utf-8")
    train(tiny(folder, text=(folder / "text.txt",), out=folder / "base", steps=2, **{**CONSTANT, **shape}))
    data.write(folder / "labelled.jsonl", LABELLED)
    (folder / "asked.json").write_text(json.dumps(ASKED), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("position", ["last", "mean"])
def test_classification_is_the_same_there(base, tmp_path, position):
    for name in ("cpu", "strict"):
        config = ClassifyConfig(
            base=base / "base", data=base / "labelled.jsonl", out=tmp_path / name, device=name, position=position,
            batch_size=4, epochs=1, lr=0.01, layers="all", dropout=0.0,
        )  # fmt: skip
        train(config, classify.Classification)
    # Where a gradient is but a rounding error, AdamW moves by some part of lr, 0.01, either way.
    same_weights(tmp_path / "cpu", tmp_path / "strict", atol=1e-4)
    for a, b in zip(metrics(tmp_path / "cpu"), metrics(tmp_path / "strict"), strict=True):
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-4)
    near, far = (classify.load(tmp_path / "strict", name) for name in ("cpu", "strict"))
    assert next(far.model.parameters()).device == "strict"
    for a, b in zip(*(classify.predict(each, ["3 times tea", "fig"]) for each in (near, far)), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_instruction_is_the_same_there(base, tmp_path, lora):
    for name in ("cpu", "strict"):
        config = instruct.InstructConfig(
            base=base / "base", data=base / "asked.json", out=tmp_path / name, device=name, style="phi3", steps=6,
            lr=0.01, dropout=0.0, max_new_tokens=4, lora=lora, rank=2 if lora else 16, eval_every=3,
        )  # fmt: skip
        train(config, instruct.Instructions)
    same_weights(tmp_path / "cpu", tmp_path / "strict")
    near, far = ((tmp_path / name / "responses.json").read_text() for name in ("cpu", "strict"))
    assert near == far
    (near, tokenizer), (far, _) = (checkpoint.load_model(tmp_path / "strict", name) for name in ("cpu", "strict"))
    found = [log_likelihood(model, tokenizer, ASKED[0], "phi3") for model in (near, far)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


# ----- choosing ---------------------------------------------------------------------------------------------------


class Fake(types.ModuleType):
    """CuPy as far as choosing goes; `entered` lists the GPUs that were made current."""

    __version__ = "14.2.0"

    def __init__(self, gpus: int = 2, problem: str = ""):
        super().__init__("cupy")
        self.gpus, self.problem, self.entered, self.current = gpus, problem, [], 0
        fake = self

        class Device:
            compute_capability = "90"
            mem_info = (1, 2)

            def __init__(self, index=None):
                self.id = fake.current if index is None else index

            def use(self):
                fake.entered.append(self.id)
                fake.current = self.id

            def __enter__(self):
                self.before = fake.current
                self.use()

            def __exit__(self, *_):
                fake.current = self.before

        runtime = types.SimpleNamespace(
            getDeviceCount=self.count,
            memGetInfo=lambda: (3 << 30, 80 << 30),
            runtimeGetVersion=lambda: 13000,
            driverGetVersion=lambda: 12080,
            getDeviceProperties=lambda index: {"name": f"NVIDIA H{index}00".encode()},
        )
        self.cuda = types.SimpleNamespace(Device=Device, runtime=runtime)

    def is_available(self) -> bool:
        return self.gpus > 0

    def count(self) -> int:
        if self.problem:
            raise RuntimeError(self.problem)
        return self.gpus

    def zeros(self, shape, dtype) -> np.ndarray:
        return np.full(shape, self.current, dtype)

    def get_default_memory_pool(self):
        return types.SimpleNamespace(free_bytes=lambda: 1 << 30)


@pytest.fixture
def cupy(monkeypatch):
    """Put a CuPy there: a Fake, or None for none."""
    monkeypatch.setattr(backend, "driver_found", lambda: True)

    def put(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    return put


NO_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize(
    ("module", "device", "error", "says"),
    [
        (None, "cuda", RuntimeError, r"needs CuPy, which is not installed: pip install 'tensorlite\[cuda\]'\Z"),
        (
            Fake(0, NO_DRIVER),
            "cuda",
            RuntimeError,
            rf"finds no NVIDIA GPU \({NO_DRIVER}\): check the driver",
        ),
        (Fake(0), "cuda:0", RuntimeError, r"finds no NVIDIA GPU \(0 of them\)"),
        (Fake(1), "cuda:1", ValueError, r"there is no device 'cuda:1': CuPy finds 1 GPU, cuda:0\Z"),
        (Fake(2), "cuda:7", ValueError, r"there is no device 'cuda:7': CuPy finds 2 GPUs, cuda:0 to cuda:1\Z"),
        (Fake(2), "cuda:x", ValueError, r"unknown device 'cuda:x': choose one of cpu, cuda"),
        (Fake(2), "cpu:0", ValueError, r"unknown device 'cpu:0'"),
    ],
)
def test_a_device_that_is_not_there(cupy, module, device, error, says):
    cupy(module)
    x = tl.ones(1)
    for ask in (backend.use_device, x.to, lambda device: tl.zeros(2, device=device)):
        with pytest.raises(error, match=says):
            ask(device)


def test_a_cupy_that_cannot_be_imported(cupy, monkeypatch):
    def fail(name):
        raise ImportError("libcudart.so.13: cannot open\nand ten lines more")

    monkeypatch.setattr(backend.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match=r"needs CuPy, which cannot be imported: libcudart\.so\.13: cannot open\Z"):
        backend.use_device("cuda")


def test_auto_takes_the_gpu_that_answers(cupy, monkeypatch):
    cupy(Fake())
    assert backend.use_device("auto") == "cuda:0"
    cupy(None)
    assert backend.use_device("auto") == "cpu"
    assert "not installed" in backend.no_gpu()
    assert "cpu: device 'cuda' needs CuPy" in fast_machine.about_device("cpu")
    monkeypatch.setattr(backend, "driver_found", lambda: False)
    cupy(Fake())  # is not even asked
    assert (backend.use_device("auto"), fast_machine.about_device("cpu")) == ("cpu", "cpu")
    assert backend.no_gpu() == "there is no NVIDIA driver on this machine"


def test_the_second_gpu(cupy):
    fake = cupy(Fake())
    assert tl.zeros(2, device="cuda:1").tolist() == [1, 1]  # made while it was current
    assert fake.current == 0
    with tl.default_device("cuda:1"):
        assert fake.current == 1
        assert tl.zeros(2).tolist() == [1, 1]
    assert fake.current == 0
    assert backend.use_device("cuda:1") == backend.use_device("cuda") == "cuda:1"
    assert gpu.memory("cuda") == (4 << 30, 80 << 30)  # with what CuPy keeps
    assert fast_machine.about_device("cuda:1") == "cuda:1, NVIDIA H100, 4.0 of 80.0 GiB free"


def test_an_array_moves_from_gpu_to_gpu(cupy):
    fake = cupy(Fake())

    class Array:
        library = fake

        def __init__(self):
            self.device = fake.cuda.Device()

        def copy(self):
            return Array()

    x = Array()
    assert backend.to_device(x, "cuda:0") is backend.to_device(x, "cuda") is x
    assert backend.to_device(x, "cuda:1").device.id == 1


# ----- what is said -----------------------------------------------------------------------------------------------


class OutOfMemoryError(MemoryError):
    """Says what CuPy's says."""


def test_the_table_of_a_run_says_what_is_taken_of_a_gpu_s_memory(monkeypatch):
    monkeypatch.setattr(gpu, "memory", lambda device: (2 << 30, 3 << 30))
    assert fast_machine.table_rows("cuda:0") == {"GPU memory taken": "1,024 MiB"}
    assert fast_machine.table_rows("cpu") == {}


def test_out_of_gpu_memory_is_a_sentence(cupy):
    cupy(Fake())
    error = OutOfMemoryError(f"Out of memory allocating {3 << 30:,} bytes (allocated so far: {1 << 30:,} bytes).")
    assert cli.sentence(error) == (
        "the GPU is out of memory: 3.00 GiB were requested, 4.00 of its 80.00 GiB are free: a smaller --batch-size or "
        "--context-length, or --activation-checkpointing in training, needs less"
    )
    assert cli.sentence(RuntimeError("cudaErrorMemoryAllocation: out of memory")).startswith(
        "the GPU is out of memory: more was requested, 4.00 of"
    )
    assert cli.sentence(MemoryError()).startswith("out of memory: an array does not fit")
    cupy(None)
    assert cli.sentence(error).startswith("the GPU is out of memory: 3.00 GiB were requested: a smaller")


COMMANDS = [
    ["train"], ["finetune", "classify", "{run}", "--data", "x"], ["finetune", "instruct", "{run}", "--data", "x"],
    ["generate", "{run}"], ["classify", "{run}", "x"], ["chat", "{run}", "--once", "x"],
    ["evaluate", "{run}", "--text", "{run}/log.txt"], ["judge", "{run}", "--data", "{asked}"],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: " ".join(args[:2]))
def test_every_command_says_that_there_is_no_gpu(call, cupy, runs, args, tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    cupy(None)
    args = [arg.format(run=runs[0] / "cpu", asked=base / "asked.json") for arg in args]
    if args[0] == "chat":  # looks first at what the run was taught
        args[1] = _taught(base, tmp_path)
    status, _, errors = call(*args, "--device", "cuda")
    assert (status, errors) == (
        1, "gpt: device 'cuda' needs CuPy, which is not installed: pip install 'tensorlite[cuda]'\n"
    )  # fmt: skip
    status, output, errors = call(*args, "--device", "tpu")
    assert status == 2
    assert "device must be auto, cpu, cuda or cuda:<index>, got 'tpu'" in " ".join((output + errors).split())


def _taught(base, folder):
    config = instruct.InstructConfig(
        base=base / "base", data=base / "asked.json", out=folder / "taught", style="phi3", steps=1, responses=0
    )
    train(config, instruct.Instructions)
    return folder / "taught"


def test_generate_and_evaluate_on_a_named_device(call, runs):
    near, far = (
        call("generate", runs[0] / "cpu", "--prompt", "59", "--max-new-tokens", 9, "--device", name)
        for name in ("cpu", "strict")
    )
    assert near == far
    assert near[0] == 0


def test_the_doctor_describes_the_gpu(cupy, monkeypatch):
    cupy(Fake())
    monkeypatch.setattr(scores, "about", lambda: {"products": "cublasLt 13.1.0", "attention": "cuDNN"})
    monkeypatch.setattr(doctor.nccl, "available", lambda: True)
    assert doctor.graphics() == [
        ("GPU", "NVIDIA H000, compute capability 9.0", ""),
        ("GPU memory", "4 GiB free of 80 GiB", ""),
        ("CUDA", "driver 12.8, runtime 13.0; CuPy 14.2.0", ""),
        ("GPU products", "cublasLt 13.1.0", ""),
        ("GPU attention", "cuDNN", ""),
        ("GPUs together", "several processes exchange by NCCL, each with a GPU", ""),
    ]
    cupy(None)
    ((name, finding, advice),) = doctor.graphics()
    assert (name, finding) == ("GPU", "none usable")
    assert "pip install 'tensorlite[cuda]'" in advice
    monkeypatch.setattr(backend, "driver_found", lambda: False)
    advice = "this machine has no NVIDIA driver: everything is computed on the CPU"
    assert doctor.graphics() == [("GPU", "none", advice)]
