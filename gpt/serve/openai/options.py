"""The fields that completions and chat completions have in common, checked one by one."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from ..requests import Fields
from .errors import OpenAIError, about

MOST_TOKENS = 4096  # new tokens of an answer
MOST_CHOICES = 16  # answers to one request: prompts times n
MOST_STOPS, LONGEST_STOP = 4, 1000  # stop strings, and the characters of each
MOST_ALTERNATIVES = 20  # log-probabilities at each token
MOST_BIASES = 1024  # entries of logit_bias

SHARED = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "logprobs",
    "frequency_penalty", "presence_penalty", "logit_bias",
}  # fmt: skip
IGNORED = {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}  # no effect on the text
UNSUPPORTED: dict[str, tuple[Any, ...]] = {  # and the values that mean: not used
    "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
    "functions": ([],), "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "audio": (),
    "modalities": (["text"],), "prediction": (), "web_search_options": (), "reasoning_effort": ("none",),
    "verbosity": (), "store": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How text is to be written; the fields have the names of the request."""

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    n: int = 1  # answers to each prompt
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None  # None: the default of the address
    alternatives: int | None = None  # log-probabilities at each token, beside that of the token; None: none at all
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stream: bool = False
    include_usage: bool = False


def known_fields(fields: Fields, more: Set[str]) -> Fields:
    """The fields that are given and not null; OpenAIError for one that is unknown or not supported."""
    given = Fields({name: value for name, value in fields.items() if value is not None})
    for name, value in given.items():
        if name in SHARED or name in more or name in IGNORED:
            continue
        if name not in UNSUPPORTED:
            raise OpenAIError(f"unrecognized field: {name:.80}", param=name[:80], code="unknown_parameter")
        if value not in UNSUPPORTED[name]:
            raise OpenAIError(f"{name} is not supported: omit it", param=name, code="unsupported_parameter")
    return given


def read_options(fields: Fields, *, max_tokens: str, alternatives: int | None) -> Options:
    """The Options of a request whose fields are known. `max_tokens` is the name of that field in this request."""

    def number(name: str, default: float, low: float, high: float = float("inf")) -> float:
        with about(name):
            value = fields.number(name, default, low)
            if value > high:
                raise ValueError(f"{name} must be at most {high:g}, got {value:g}")
        return value

    def integer(name: str, default: int | None, low: int, high: int) -> int | None:
        with about(name):
            return default if fields.get(name) is None else fields.integer(name, default, low, high)

    top_p = number("top_p", 1.0, 0.0, 1.0)
    if top_p == 0:
        raise OpenAIError("top_p must be above 0 and at most 1, got 0", param="top_p")
    with about("stream"):
        stream = fields.flag("stream", False)
    return Options(
        temperature=number("temperature", 1.0, 0.0),
        top_p=None if top_p == 1 else top_p,
        top_k=integer("top_k", None, 1, 1 << 31),
        n=integer("n", 1, 1, MOST_CHOICES) or 1,
        seed=integer("seed", None, 0, 2**63 - 1),
        stop=read_stops(fields.get("stop")),
        max_tokens=integer(max_tokens, None, 0, MOST_TOKENS),
        alternatives=alternatives,
        frequency_penalty=number("frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=number("presence_penalty", 0.0, -2.0, 2.0),
        logit_bias=read_bias(fields.get("logit_bias", {})),
        stream=stream,
        include_usage=read_stream_options(fields.get("stream_options"), stream),
    )


def read_stops(value: Any) -> tuple[str, ...]:
    """The stop strings: none, one, or a list of at most four."""
    stops = [] if value is None else [value] if isinstance(value, str) else value
    valid = isinstance(stops, list) and all(isinstance(stop, str) and stop for stop in stops)
    if not valid or len(stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stops):
        raise OpenAIError(
            f"stop must be a string or a list of at most {MOST_STOPS} strings, none of them empty or longer than "
            f"{LONGEST_STOP:,} characters, got {value!r:.80}",
            param="stop",
        )
    return tuple(stops)


def read_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """logit_bias, {"token id": -100 to 100}, as pairs."""
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise OpenAIError(
            f"logit_bias must be an object with at most {MOST_BIASES:,} token ids, got {value!r:.80}",
            param="logit_bias",
        )
    for id, bias in value.items():
        number = isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100
        if not number or not (id.isascii() and id.isdigit() and len(id) < 10):
            raise OpenAIError(
                f"logit_bias must map token ids to numbers from -100 to 100, got {id!r:.20}: {bias!r:.40}",
                param="logit_bias",
            )
    return tuple((int(id), float(bias)) for id, bias in value.items())


def read_stream_options(value: Any, stream: bool) -> bool:
    """Whether a stream ends with the usage."""
    if value is None:
        return False
    if not stream:
        raise OpenAIError("stream_options needs stream: true", param="stream_options")
    if not isinstance(value, dict) or value.keys() - {"include_usage", "include_obfuscation"}:
        raise OpenAIError(f"stream_options must be {{include_usage: true or false}}, got {value!r:.80}",
                          param="stream_options")  # fmt: skip
    with about("stream_options"):
        return Fields(value).flag("include_usage", False)
