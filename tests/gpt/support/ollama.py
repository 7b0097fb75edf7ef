"""What the tests of judges share: an entry, and answers of a server like Ollama's."""

import json

from loopback import send

ENTRY = {
    "instruction": "Rewrite the sentence using a simile.",
    "input": "The car is very fast.",
    "output": "The car is as fast as lightning.",
    "model_response": "The car is as fast as a bullet.",
}


def says(*parts: str, done: bool = True):
    """Ollama's stream: an object a line, each with a piece of the answer; the last one says that it is."""
    lines = [{"model": "llama3", "message": {"role": "assistant", "content": part}, "done": False} for part in parts]
    if done:
        lines.append({"model": "llama3", "message": {"role": "assistant", "content": ""}, "done": True})
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return lambda handler: send(handler, 200, body)


def raw(body: bytes, **headers: str):
    return lambda handler: send(handler, 200, body, **headers)


WHOLE = json.dumps({"message": {"role": "assistant", "content": "85"}, "done": True}).encode()


def save(path, *entries):
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path
