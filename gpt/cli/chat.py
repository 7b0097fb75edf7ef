"""`gpt chat`: a conversation with a model that was fine-tuned on instructions."""

import contextlib
import io
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

from tensorlite import backend
from tensorlite.devices import machine

from ..config import LARGEST, check_choice, check_device, check_integer
from ..console import Output, in_shell, show
from ..fast.weights_dtype import Dtype, set_weights_dtype
from ..generation import check_sampling
from ..model import parameter_table
from ..stopping import check_stops
from ..tasks.instruct import STYLES, Conversation, InstructConfig
from ..tokenizer import END_OF_TEXT
from ..tokenizer.base import check_text
from ..training import checkpoint

HELP = "/input TEXT adds a text to the next question, /reset clears the conversation, /quit or Ctrl-D exits"


@dataclass(frozen=True)
class Chat:
    """Chat with a model that was fine-tuned to follow instructions.

    On a terminal, lines that are pasted together are one question; otherwise each line of input is a question.
    """

    usual: ClassVar = "--once"

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run
    once: str | None = None  # answer this question and exit
    input: str = ""  # a text for the question of --once, where the question is about one
    max_new_tokens: int = 256  # longest answer, in tokens
    temperature: float = 0.0  # 0: greedy; 1: the model's distribution; higher: more random
    top_k: int | None = None  # sample only from the k most probable tokens
    top_p: float | None = None  # sample only from the most probable tokens whose probabilities add up to this
    seed: int = 1337  # the same seed gives the same answers
    # end an answer before this string; may be given several times; <|endoftext|> ends an answer in any case
    stop: UseAppendAction[tuple[str, ...]] = ()
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest
    history: int | None = None  # earlier turns that the model sees; default: as many as in training
    # of the weights: bfloat16 halves the bytes to read for each token, int8, on a CPU, quarters them
    dtype: Dtype = "float32"
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)
        check_stops(self.stop)
        check_integer("max_new_tokens", self.max_new_tokens, low=1)
        check_sampling(LARGEST, self.temperature, self.top_k, self.top_p)  # that of the run is checked when it is read
        if self.history is not None:
            check_integer("history", self.history, low=0)

    def __call__(self) -> int:
        for text in (self.once or "", self.input):
            check_text(text)
        machine.set_threads(machine.default_threads())
        talk = self.conversation()
        if self.once is not None:
            answer(talk, self.once, self.input)
        elif sys.stdin.isatty() and sys.stdout.isatty():
            self.greet(talk)
            converse(talk, "\n> ")
        else:
            return 1 if converse(talk, "") else 0
        return 0

    def conversation(self) -> Conversation:
        """A conversation with the run's model, in the prompt format of its training."""
        folder = checkpoint.folder_at(self.run, self.step)
        description = checkpoint.read_config(folder / "config.json")
        if description.get("task", "pretrain") == "pretrain":
            raise ValueError(
                f"{self.run} was not fine-tuned to answer: run gpt finetune instruct {in_shell(self.run)} --data FILE "
                "first; gpt generate continues a text with it"
            )
        checkpoint.check_task(self.run, description, "instruct")
        model, tokenizer = checkpoint.load_model(self.run, backend.use_device(self.device), folder)
        set_weights_dtype(model, self.dtype)
        check_sampling(model.config.vocab_size, self.temperature, self.top_k, self.top_p)
        check_choice("style", description.get("style"), tuple(STYLES))
        training: Any = description.get("training")
        turns = InstructConfig.from_dict(training).turns
        end = tokenizer.special_tokens[END_OF_TEXT]  # fine-tuning ensures it
        return Conversation(
            model, tokenizer, STYLES[description["style"]], end, stops=self.stop,
            history=turns - 1 if self.history is None else self.history, max_new_tokens=self.max_new_tokens,
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed,
        )  # fmt: skip

    def greet(self, talk: Conversation) -> None:
        """Print the model's size, how many turns it sees, and the commands."""
        config = talk.model.config
        size, context = parameter_table(config)[-1].parameters, config.context_length
        sees = "each question separately" if talk.history == 0 else f"up to {talk.history} earlier turns"
        why = ", as in training (--history N for N earlier turns)" if self.history is None else ""
        console = Output(highlight=False)
        console.print(f"{self.run}: {size:,} parameters, a context of {context:,} tokens", style="bold", markup=False)
        console.print(f"It sees {sees}{why}. {HELP}; Ctrl-C stops an answer.", style="dim")


def converse(talk: Conversation, prompt: str) -> int:
    """Answer line by line to the end of the input, with a `prompt` where a person is typing.

    Returns the number of lines that have no answer, not UTF-8 or longer than the context: each is reported.
    """
    if prompt:
        enable_line_editing()
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    unanswered, about = 0, ""
    while True:
        try:
            line = read_line(prompt)
        except NotText as error:
            note(str(error))
            unanswered += 1
            continue
        except EOFError:
            show("\n" if prompt else "")
            return unanswered
        except KeyboardInterrupt:
            if not prompt:
                raise
            show("\n")
            note("Ctrl-D or /quit leaves")
            continue
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return unanswered
        if command == "/reset":
            talk.reset()
            about = ""
        elif command == "/input":
            about = rest.strip()
        elif command == "/help":
            note(HELP)
        elif command.startswith("/"):
            note(f"there is no {command}: {HELP}")
        elif line:
            try:
                if answered(talk, line, about, typing=bool(prompt)):
                    about = ""
            except ValueError as error:
                note(str(error))
                unanswered += 1


def answered(talk: Conversation, line: str, about: str, typing: bool) -> bool:
    """Answer a line. Where a person is typing, Ctrl-C ends only this answer, and the result is False."""
    try:
        answer(talk, line, about)
    except KeyboardInterrupt:
        if not typing:
            raise
        show("\n")
        return False
    return True


class NotText(Exception):
    """A line of input is not UTF-8."""


def read_line(prompt: str) -> str:
    """The next line without outer space, or pasted lines; EOFError at the end of the input."""
    try:
        line = (typed(prompt) if prompt else input("")).strip()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise NotText(f"the line is not UTF-8 (byte {byte:#04x}): convert it to UTF-8") from None
    try:
        return check_text(line)
    except ValueError as error:
        raise NotText(str(error)) from None


def enable_line_editing() -> None:
    """Editing and history in input(), where readline exists and the terminal supports it."""
    if os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):  # not on Windows
            import readline

            readline.parse_and_bind("set enable-bracketed-paste on")  # pasted text is one input, with its line breaks


def typed(prompt: str) -> str:
    """A typed line, with all further lines that arrived together with it, as pasted ones do."""
    lines = [input(prompt)]
    with contextlib.suppress(EOFError):
        while input_is_waiting():
            lines.append(input(""))
    return "\n".join(lines)


def input_is_waiting() -> bool:
    """Whether there is more input; always False on Windows, where select() does not work on a terminal."""
    try:
        return bool(select.select([sys.stdin], [], [], 0.05)[0])
    except (OSError, ValueError):
        return False


def answer(talk: Conversation, instruction: str, about: str = "") -> None:
    """Ask, and print the answer as it is generated; say where turns were dropped or the answer was cut."""
    pieces = talk.ask({"instruction": instruction, "input": about})
    if talk.dropped:
        turns = "turn is" if talk.dropped == 1 else f"{talk.dropped} turns are"
        note(f"the context is full: the oldest {turns} forgotten")
    try:
        for piece in pieces:
            show(piece)
    finally:
        pieces.close()  # an answer that Ctrl-C interrupts is a turn too
    show("\n")
    if talk.cut:
        note("the answer ends here because the context is full")


def note(text: str) -> None:
    """Print a note on standard error."""
    Output(stderr=True).print(f"({text})", style="dim", markup=False, highlight=False, soft_wrap=True)
