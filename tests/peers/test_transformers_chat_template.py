"""The chat template of an exported run: transformers' apply_chat_template gives the ids of our own prompt."""

import json

import pytest

import tensorlite as tl
from gpt import pretrained
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.pretrained.chat_template import chat_template
from gpt.serve.openai.chat import turns_of
from gpt.tasks.instruct import STYLES, Conversation
from gpt.tokenizer import END_OF_TEXT, BPETokenizer
from gpt.training import checkpoint
from tensorlite import io

transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "Below is an instruction that describes a task. ### Response: Instruction: Say yes or no!\n" * 3
CONVERSATIONS = {
    "a question": [("user", "Say yes.")],
    "a second question": [("user", "Say yes."), ("assistant", "yes"), ("user", "And now?\n No?")],
    "a system message": [("system", "Be brief."), ("user", "Say"), ("assistant", "yes"), ("user", "Say no.")],
    "a system message at the end": [("user", "Say"), ("system", "Be brief.")],
    "two questions in a row": [("developer", "Hm."), ("user", "Say"), ("user", "yes")],
    "marks of Jinja, quotes, other letters": [("user", '{{ 1 + 1 }} {% if x %} "it\'s" \\n é 🙂 <|endoftext|>')],
}


@pytest.fixture(scope="module", params=list(STYLES))
def exported(request, tmp_path_factory):
    """A run of that prompt format, and transformers' tokenizer of its export."""
    folder = tmp_path_factory.mktemp(request.param)
    run = folder / "run"
    run.mkdir()
    tokenizer = BPETokenizer.train(TEXT, 300, special_tokens=[END_OF_TEXT])
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=1024, n_layer=1, n_head=1, n_embd=8)
    tl.manual_seed(0)
    description = {"format": "gpt.run", "version": 1, "task": "instruct", "style": request.param,
                   "model": config.to_dict()}  # fmt: skip
    checkpoint.write_json(run / "config.json", description)
    tokenizer.save(run / "tokenizer.json")
    model = GPT(config)
    io.save(run / "model.safetensors", model.state_dict())
    pretrained.export_run(run, folder / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    return model, tokenizer, STYLES[request.param], theirs, folder / "hf"


def as_messages(conversation):
    return [{"role": role, "content": text} for role, text in conversation]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_ids_are_those_of_our_prompt(exported, name):
    model, tokenizer, style, theirs, _ = exported
    messages = as_messages(CONVERSATIONS[name])
    talk = Conversation(model, tokenizer, style, tokenizer.special_tokens[END_OF_TEXT], history=None)
    *earlier, (question, _) = turns_of(messages)
    for asked, answer in earlier:
        talk.replay({"instruction": asked, "input": ""}, tokenizer.encode_ordinary(answer))
    ours, _ = talk.prompt({"instruction": question, "input": ""})
    found = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    if END_OF_TEXT in question:  # there the text of a special token is that token always (vocabulary.tokenizer_files)
        text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == style.prompt({"instruction": question, "input": ""})
    else:
        assert found == ours


def test_a_whole_conversation_is_the_text_of_training(exported):
    _, _, style, theirs, _ = exported
    messages = as_messages([("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"),
                            ("assistant", " d")])  # fmt: skip
    first = style.prompt({"instruction": "a", "input": ""}) + "b" + END_OF_TEXT
    second = style.prompt({"instruction": "Be brief.\n\nc", "input": ""}) + " d" + END_OF_TEXT
    assert theirs.apply_chat_template(messages, tokenize=False) == first + second
    asked = theirs.apply_chat_template(messages[1:2], tokenize=False)
    assert asked + style.response_header == style.prompt({"instruction": "a", "input": ""})


def test_what_is_no_conversation_is_refused(exported):
    _, _, _, theirs, _ = exported
    for messages, says in (([("assistant", "a")], "must follow a question"), ([("tool", "a")], "one of system")):
        with pytest.raises(Exception, match=says):
            theirs.apply_chat_template(as_messages(messages), tokenize=False)


def test_only_runs_that_answer_have_one(exported, tmp_path):
    _, _, _, _, folder = exported
    assert "chat_template" in json.loads((folder / "tokenizer_config.json").read_text())
    run = tmp_path / "run"
    run.mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (run / name).write_bytes((folder.parent / "run" / name).read_bytes())
    description = json.loads((folder.parent / "run" / "config.json").read_text()) | {"task": "pretrain"}
    checkpoint.write_json(run / "config.json", description)
    pretrained.export_run(run, tmp_path / "hf")
    assert "chat_template" not in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    with pytest.raises(ValueError, match="there is no prompt format 'chatml': choose one of alpaca, phi3"):
        chat_template("chatml")
