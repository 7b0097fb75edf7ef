"""`look.deciding_words`: gradient x input against finite differences and a linear model, words, words left out."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from labelled import PAD, classifier

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.look.deciding import words_of
from gpt.look.loaded import LoadedModel
from gpt.tasks.classify import inference
from gpt.tasks.classify.batches import Padding
from gpt.tasks.classify.model import Classifier
from gpt.tokenizer import BPETokenizer, WordTokenizer
from tensorlite import nn

TEXT = "abc dé f"  # each character once, so that scaling the embedding of an id scales one position


def score_of(model: LoadedModel, ids, label: int) -> float:
    """The logit of a label minus the mean of the others, by the classifier itself."""
    padding = model.classifier.padding
    padded = ids + [padding.id] * (padding.length - len(ids)) * padding.matters
    with tl.no_grad():
        logits = np.array(model.classifier.model(tl.tensor([padded]), [len(ids)]).tolist()[0])
    return logits[label] - np.delete(logits, label).mean()


@pytest.mark.parametrize("position", ["last", "last-real", "first", "mean"])
@pytest.mark.parametrize("causal", [True, False])
def test_values_are_derivatives_with_respect_to_the_scale_of_an_embedding(tmp_path, position, causal):
    matters = position == "last" or not causal
    model = classifier(tmp_path, position, matters=matters, causal=causal)
    found = look.deciding_words(model, TEXT, "label <1>", left_out=0)
    ids, table = model.tokenizer.encode_ordinary(TEXT), model.model.token_embedding.weight
    assert found.score == pytest.approx(score_of(model, ids, 1), abs=1e-12)

    def derivative(id: int) -> float:
        before, scores = table.data[id].copy(), []
        for h in (1e-5, -1e-5):
            table.data[id] = before * (1 + h)
            table.changed()
            scores.append(score_of(model, ids, 1))
        table.data[id] = before
        table.changed()
        return (scores[0] - scores[1]) / 2e-5

    assert PAD not in ids
    assert len(set(ids) - {ids[3]}) == len(ids) - 2  # the space is there twice
    wanted = [derivative(id) for id in ids]
    space = [i for i, id in enumerate(ids) if id == ids[3]]
    assert found.values[space[0]] + found.values[space[1]] == pytest.approx(wanted[3], rel=1e-6, abs=1e-9)
    for i in set(range(len(ids))) - set(space):
        assert found.values[i] == pytest.approx(wanted[i], rel=1e-6, abs=1e-9)
    assert np.abs(found.values).max() > 1e-3
    assert found.padding_tokens == (12 - len(ids)) * matters
    assert len(found.values) == len(found.tokens) == len(ids)
    assert found.padding == pytest.approx(derivative(PAD) if matters else 0.0, rel=1e-6, abs=1e-9)


def test_for_a_linear_model_a_value_is_the_change_without_the_embedding(tmp_path):
    """Mean of the embeddings times a matrix: what a token adds to the score is exactly what its embedding adds."""
    model = classifier(tmp_path, "mean", labels=2)
    body = model.classifier.model.body
    body.blocks, body.final_norm = nn.ModuleList([]), nn.Dropout(0.0)
    found = look.deciding_words(model, "abc", left_out=0)
    ids = model.tokenizer.encode_ordinary("abc")
    assert found.label == found.labels[int(np.argmax(found.probabilities))]
    label = found.labels.index(found.label)
    for i, id in enumerate(ids):
        table, full = body.token_embedding.weight, score_of(model, ids, label)
        before = table.data[id].copy()
        table.data[id] = 0
        table.changed()
        assert found.values[i] == pytest.approx(full - score_of(model, ids, label), abs=1e-12)
        table.data[id] = before
        table.changed()


def test_the_strongest_words_are_left_out_one_at_a_time(tmp_path):
    model = classifier(tmp_path, length=16)
    found = look.deciding_words(model, "ab cd é fa gb", left_out=2)
    strong = sorted(found.words, key=lambda word: -abs(word.value))
    assert [word.without is not None for word in strong] == [True, True, False, False, False]
    (p,) = inference.predict(model.classifier, ["ab cd é fa gb"])
    assert dict(zip(found.labels, found.probabilities, strict=True)) == pytest.approx(p)
    for word in strong[:2]:
        rest = "".join(found.tokens[: word.start] + found.tokens[word.stop :])
        (without,) = inference.predict(model.classifier, [rest])
        assert word.without == pytest.approx(without[found.label])
    (only,) = look.deciding_words(model, "abc").words
    assert only.without is None


def test_the_most_probable_label_is_explained_and_others_on_request(tmp_path):
    model = classifier(tmp_path, labels=2)
    found = look.deciding_words(model, "abc")
    best = max(zip(found.probabilities, found.labels, strict=True))[1]
    assert found.label == best
    other = look.deciding_words(model, "abc", next(label for label in found.labels if label != best))
    assert other.values == pytest.approx([-value for value in found.values])  # of two labels
    with pytest.raises(ValueError, match="label must be one of label <0>, label <1>, got 'x'"):
        look.deciding_words(model, "abc", "x")
    with pytest.raises(ValueError, match="the text '' has no tokens"):
        look.deciding_words(model, "")


def test_a_long_text_is_cut_as_in_training(tmp_path):
    model = classifier(tmp_path, length=4)
    found = look.deciding_words(model, "abcdabc")
    assert (found.tokens, found.cut) == (["a", "b", "c", "d"], 3)
    assert found.values == look.deciding_words(model, "abcd").values


def test_a_model_without_labels_is_an_error(tmp_path):
    model = classifier(tmp_path)
    plain = LoadedModel(tmp_path, None, "pretrain", model.model, model.tokenizer, {})
    with pytest.raises(ValueError, match="does not label texts: gpt finetune classify makes a model that does"):
        look.deciding_words(plain, "abc")


def test_tokens_become_words():
    def words(*texts):
        found = words_of(texts, [2.0**i for i in range(len(texts))])
        assert sum(word.value for word in found) == 2.0 ** len(texts) - 1
        assert [word.start for word in found][1:] == [word.stop for word in found][:-1]
        return [word.text for word in found]

    assert words("He", "llo", " wor", "ld", "!") == ["Hello", " world!"]
    assert words("a", " ", " ", "b", "c") == ["a", "  bc"]
    assert words("a\n", "b") == ["a\n", "b"]
    assert words(" ", "a") == [" a"]
    assert words("", "é", " x") == ["é", " x"]
    assert words("a", "", "日", " b") == ["a日", " b"]
    assert words("   ") == ["   "]


@pytest.mark.parametrize("kind", [BPETokenizer, WordTokenizer])
def test_words_of_other_tokenizers(tmp_path, kind):
    text = "I have to pay, now"
    tokenizer = kind.train(text, **({"vocab_size": 262} if kind is BPETokenizer else {"unknown": True}))
    shape = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=32, n_layer=1, n_head=2, n_embd=8)
    trained = inference.TrainedClassifier(
        Classifier(shape, 2, "mean").eval(), tokenizer, ["a", "b"], Padding(0, 32, False)
    )
    found = look.deciding_words(
        LoadedModel(tmp_path, None, "classify", trained.model.body, tokenizer, {}, trained), text
    )
    assert [word.text.strip() for word in found.words] == ["I", "have", "to", "pay,", "now"]
    assert sum(found.values) == pytest.approx(sum(word.value for word in found.words), abs=1e-6)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.names = set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)


def test_it_shows_itself_in_a_notebook_and_is_json(tmp_path):
    found = look.deciding_words(classifier(tmp_path), "ab <xyz c")
    shown, tags = found._repr_html_(), Tags()
    tags.feed(shown)
    assert tags.names == {"svg", "rect", "text", "title", "p", "div", "span", "wbr"}
    assert "label &lt;0&gt;" in shown
    assert "·&lt;xyz" in shown
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
