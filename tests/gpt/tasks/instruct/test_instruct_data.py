"""Instructions: files and their faults, prompts, the book's split and batches, masking, the end of text, answers."""

import json

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.generation import generate
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct import Encoded, collate
from gpt.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, WordTokenizer, gpt2

ENTRY = {"instruction": "Spell it.", "input": "Ocassion", "output": "Occasion"}
PLAIN = {**ENTRY, "input": ""}
IGNORED = -100


@pytest.fixture(scope="module")
def entries(data_dir):
    return instruct.read_entries(data_dir / "instruction-data.json")


@pytest.fixture(scope="module")
def bpe(data_dir):
    return gpt2(data_dir)


# ----- prompts ----------------------------------------------------------------------------------------------------

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@pytest.mark.parametrize(
    ("style", "entry", "text"),
    [
        (
            "alpaca",
            ENTRY,
            f"{ALPACA}\n\n### Instruction:\nSpell it.\n\n### Input:\nOcassion\n\n### Response:\nOccasion",
        ),
        ("alpaca", PLAIN, f"{ALPACA}\n\n### Instruction:\nSpell it.\n\n### Response:\nOccasion"),
        ("phi3", ENTRY, "<|user|>\nSpell it.\nOcassion\n<|assistant|>:\nOccasion"),
        ("phi3", PLAIN, "<|user|>\nSpell it.\n<|assistant|>:\nOccasion"),
    ],
)
def test_the_books_texts(style, entry, text):
    tok = BPETokenizer.train(ALPACA, 270)
    prompt = text.removesuffix("Occasion")
    assert instruct.STYLES[style].prompt(entry) == prompt
    encoded = instruct.encode(entry, tok, style)
    assert tok.decode(encoded.ids) == text
    assert tok.decode(encoded.ids[: encoded.prompt_length]) == prompt


def test_a_token_across_the_place_where_the_answer_begins_is_the_answers():
    tok = BPETokenizer.train("\n \n \n \n \n \n", 258)  # "\n " or " \n" is one token
    encoded = instruct.encode({**PLAIN, "output": "  x"}, tok)
    prompt, whole = tok.decode(encoded.ids[: encoded.prompt_length]), tok.decode(encoded.ids)
    assert prompt == f"{ALPACA}\n\n### Instruction:\nSpell it.\n\n### Response:"  # its last new line is the answer's
    assert whole == f"{prompt}\n  x"


# ----- entries ----------------------------------------------------------------------------------------------------


def test_the_books_entries_and_split(entries):
    train, test, validation = instruct.split(entries)
    assert [len(part) for part in (train, test, validation)] == [935, 110, 55]
    assert [*train, *test, *validation] == entries
    assert entries[50] == {
        "instruction": "Identify the correct spelling of the following word.",
        "input": "Ocassion",
        "output": "The correct spelling is 'Occasion.'",
    }


def test_the_parts_are_lists_whatever_the_entries_are_in():
    entries = tuple({**ENTRY, "output": str(i)} for i in range(40))
    parts = instruct.split(entries)
    assert parts == ([*entries[:34]], [*entries[34:38]], [*entries[38:]])


def test_a_file_too_small_to_split_is_refused():
    with pytest.raises(ValueError, match="9 entries make 7, 0, 2 for training, testing and validation, and none may"):
        instruct.split([ENTRY] * 9)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_and_json_lines_are_the_same(tmp_path, indent):
    listed, lined = tmp_path / "a.json", tmp_path / "a.jsonl"
    listed.write_text("\ufeff \n" + json.dumps([ENTRY, {**PLAIN, "extra": 1}], indent=indent), encoding="utf-8")
    without_input = {name: PLAIN[name] for name in ("instruction", "output")}
    lined.write_text(f"{json.dumps(ENTRY)}\r\n\n{json.dumps(without_input)}\n", encoding="utf-8")
    assert instruct.read_entries(listed) == instruct.read_entries(lined) == [ENTRY, PLAIN]


def entry_without(name):
    return {key: value for key, value in ENTRY.items() if key != name}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[\n {"instruction": "a", "output": "b"},\n {"instruction" "a"}]', "is not JSON at line 3, column 17: "),
        (f'{json.dumps(ENTRY)}\n\n{{"instruction": }}', "is not JSON at line 3, column 17: "),
        ("[" * 100_000, "is not JSON at line 1, column 2: it nests too deeply"),
        ("", "is empty"),
        ("[]", "has no entries"),
        ("[3]", "line 1: an entry is an object with named fields, not 3"),
        (
            json.dumps([ENTRY, entry_without("output")]),
            "line 1: the entry has no field 'output'; its fields are instruction, inp",
        ),
        (json.dumps([entry_without("instruction")]), "line 1: the entry has no field 'instruction'"),
        (json.dumps([ENTRY, ENTRY, {**ENTRY, "instruction": " \n"}]), "line 1: instruction is empty"),
        (json.dumps({**ENTRY, "output": ""}), "line 1: output is empty"),
        (json.dumps({**ENTRY, "input": 3}), "line 1: input must be a string, not 3"),
        ('{"instruction": "\\ud800", "output": "b"}', "line 1: instruction: the text has a lone surrogate"),
        (b"\xff\xfe", "is UTF-16: convert it to UTF-8"),
    ],
)
def test_each_fault_is_one_sentence(tmp_path, content, says):
    path = tmp_path / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says) as caught:
        instruct.read_entries(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# ----- batches ----------------------------------------------------------------------------------------------------


def test_the_books_batch():
    inputs, targets = collate([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]])
    P, i = 50256, IGNORED
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, P, P, P], [7, 8, 9, P, P]]
    assert targets.tolist() == [[1, 2, 3, 4, P], [6, P, i, i, i], [8, 9, P, i, i]]


def test_a_batch_cut_and_with_other_marks():
    inputs, targets = collate([[0, 1, 2, 3, 4], [5, 6]], pad=9, ignore_index=-1, allowed_max_length=3)
    assert inputs.tolist() == [[0, 1, 2], [5, 6, 9]]
    assert targets.tolist() == [[1, 2, 3], [6, 9, -1]]


def test_a_masked_prompt_leaves_the_answer_and_its_end():
    batch = [Encoded(3, [0, 1, 2, 3, 4]), Encoded(1, [5, 6])]
    inputs, targets = collate(batch, pad=9, mask_instruction=True)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, 9, 9, 9]]
    assert targets.tolist() == [[IGNORED, IGNORED, 3, 4, 9], [6, 9, IGNORED, IGNORED, IGNORED]]
    assert collate(batch, pad=9)[1].tolist() == [[1, 2, 3, 4, 9], [6, 9, IGNORED, IGNORED, IGNORED]]
    with pytest.raises(TypeError, match="mask_instruction needs the length of the prompt"):
        collate([[1, 2]], mask_instruction=True)


def test_the_books_batch_widths(entries, bpe):
    encoded = instruct.encode_all(instruct.split(entries).test, bpe)
    batches = [collate(encoded[i : i + 8]) for i in range(0, 110, 8)]
    assert [x.shape for x, _ in batches][:2] == [(8, 64), (8, 83)]
    assert [x.shape[1] for x, _ in batches] == [64, 83, 62, 58, 66, 63, 69, 67, 72, 73, 68, 65, 85, 76]


def test_what_does_not_fit_or_is_not_known_is_named_by_its_number():
    tok = CharTokenizer.train(instruct.STYLES["phi3"].prompt(ENTRY) + ENTRY["output"])
    longest = len("<|user|>\nSpell it.\nOcassion\n<|assistant|>:\nOccasion")
    assert len(instruct.encode_all([ENTRY], tok, "phi3", longest)[0].ids) == longest
    with pytest.raises(
        ValueError,
        match=rf"1 of 2 entries are longer than .* {longest - 1} tokens, .* entry 2 \(Spell it.\) with {longest}",
    ):
        instruct.encode_all([PLAIN, ENTRY], tok, "phi3", longest - 1)
    with pytest.raises(ValueError, match=r"entry 2: character 'é' .* is not in the vocabulary"):
        instruct.encode_all([ENTRY, {**ENTRY, "output": "é"}], tok, "phi3")


# ----- the end of a text ------------------------------------------------------------------------------------------


def small(vocab_size, **changes) -> GPT:
    tl.manual_seed(0)
    return GPT(GPTConfig(vocab_size=vocab_size, context_length=64, n_layer=1, n_head=2, n_embd=8, **changes))


@pytest.mark.parametrize("tie_head", [True, False])
def test_characters_get_an_end_and_all_else_stays(tie_head):
    tok = CharTokenizer("abc")
    model = small(3, tie_head=tie_head)
    grown, wider = instruct.with_end_of_text(model, tok)
    assert wider.special_tokens == {END_OF_TEXT: 3}
    assert grown.config.vocab_size == 4
    ids = tl.tensor([[0, 1, 2]])
    np.testing.assert_allclose(grown(ids)[0].numpy()[..., :3], model(ids)[0].numpy(), rtol=1e-6)
    assert grown.token_embedding.weight.numpy()[3].any()
    assert instruct.with_end_of_text(grown, wider) == (grown, wider)


def test_a_tokenizer_that_cannot_end_is_refused():
    with pytest.raises(ValueError, match=r"WordTokenizer.* has no <\|endoftext\|> token"):
        instruct.with_end_of_text(small(2), WordTokenizer.train("a b"))


# ----- answers ----------------------------------------------------------------------------------------------------


def test_answers_have_the_order_of_the_entries_and_batches_that_of_lengths(monkeypatch):
    asked = []

    def echo(model, prompts, max_new_tokens, **options):
        asked.append(prompts)
        return [prompt[-2:] for prompt in prompts]

    monkeypatch.setattr("gpt.tasks.instruct.inference.generate", echo)
    texts = ["b" * 7, "a", "c" * 9, "d" * 3, "e" * 5, "f" * 2] * 2  # the last ones in a second group
    entries = [{"instruction": "", "input": text, "output": ""} for text in texts]
    alphabet = instruct.STYLES["alpaca"].prompt(entries[0]) + "".join(texts)
    tok = CharTokenizer(CharTokenizer.train(alphabet).characters, (END_OF_TEXT,))
    prompts = [tok.encode(instruct.STYLES["alpaca"].prompt(entry)) for entry in entries]
    found = list(instruct.generate_responses(None, tok, entries, max_new_tokens=9, batch_size=2))
    assert found == [tok.decode(prompt[-2:]).strip() for prompt in prompts]
    assert [len(batch) for batch in asked] == [2, 2, 2, 2, 2, 2]
    lengths = [len(prompt) for batch in asked for prompt in batch]
    assert lengths[:8] == sorted(map(len, prompts[:8]), reverse=True)
    assert lengths[8:] == sorted(map(len, prompts[8:]), reverse=True)


def test_answers_are_what_each_prompt_gets_alone_up_to_the_end(tmp_path):
    tok = CharTokenizer(
        CharTokenizer.train(instruct.STYLES["phi3"].prompt(ENTRY) + ENTRY["output"]).characters, (END_OF_TEXT,)
    )
    model = small(tok.vocab_size)
    found = list(instruct.generate_responses(model, tok, [ENTRY, PLAIN, ENTRY], "phi3", max_new_tokens=9, batch_size=2))
    for entry, answer in zip([ENTRY, PLAIN, ENTRY], found, strict=True):
        prompt = tok.encode(instruct.STYLES["phi3"].prompt(entry))
        (alone,) = generate(model, [prompt], 9, stop_token=tok.special_tokens[END_OF_TEXT])
        assert answer == tok.decode(alone).strip()
    instruct.save_responses(tmp_path / "responses.json", [ENTRY, PLAIN, ENTRY], found)
    rows = json.loads((tmp_path / "responses.json").read_text(encoding="utf-8"))
    assert rows == [{**e, "model_response": a} for e, a in zip([ENTRY, PLAIN, ENTRY], found, strict=True)]
