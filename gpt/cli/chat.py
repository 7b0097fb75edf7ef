"""`gpt chat`: ask a model that was taught to follow instructions."""

import contextlib
import io
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tyro.conf import Positional

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_choice, check_device, check_integer
from ..console import show
from ..generate import check_sampling
from ..tasks.instruct import STYLES, Conversation, InstructConfig
from ..tokenizer.base import check_text
from ..training import checkpoint
from .generate import stop_token

HELP = "/input TEXT goes along with the next question, /reset forgets what was said, /quit or Ctrl-D leaves"


@dataclass(frozen=True)
class Chat:
    """Talk to a model that was taught to follow instructions.

    On a terminal, lines that are pasted together are one question; of other input each line is a question.
    """

    run: Positional[Path]  # directory of the run
    once: str | None = None  # answer this and leave
    input: str = ""  # what the question of --once is about, where it comes as a text of its own
    max_new_tokens: int = 256  # longest answer
    temperature: float = 0.0  # 0: always the most probable token; 1: as the model says; above: bolder
    top_k: int | None = None  # draw only from the k most probable tokens
    top_p: float | None = None  # draw only from the most probable tokens that have this much probability together
    seed: int = 1337  # the same seed, the same answers
    stop: str | None = None  # end an answer before this token; default: <|endoftext|>
    history: int | None = None  # earlier turns that the model sees; default: as many as it was taught with
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        check_integer("max_new_tokens", self.max_new_tokens, low=1)
        if self.history is not None:
            check_integer("history", self.history, low=0)
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
        """The run's model, ready to be asked in the style that it was taught in."""
        folder = checkpoint.files_of(self.run)
        description = checkpoint.read_config(folder / "config.json")
        if description.get("task", "pretrain") == "pretrain":
            raise ValueError(
                f"{self.run} was not taught to answer: gpt finetune instruct {self.run} --data FILE does that, and "
                "gpt generate lets it write as it is"
            )
        checkpoint.check_task(self.run, description, "instruct")
        model, tokenizer = checkpoint.load_model(self.run, backend.use_device(self.device), folder)
        check_sampling(model.config.vocab_size, self.temperature, self.top_k, self.top_p)
        check_choice("style", description.get("style"), tuple(STYLES))
        training: Any = description.get("training")
        stop, taught = stop_token(self.stop, tokenizer), InstructConfig.from_dict(training).turns
        assert stop is not None  # fine-tuning sees to it
        return Conversation(
            model, tokenizer, STYLES[description["style"]], stop,
            history=taught - 1 if self.history is None else self.history, max_new_tokens=self.max_new_tokens,
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed,
        )  # fmt: skip

    def greet(self, talk: Conversation) -> None:
        size, context = talk.model.num_parameters(), talk.model.config.context_length
        sees = "each question by itself" if talk.history == 0 else f"up to {talk.history} earlier turns"
        why = ", as it was taught (--history N shows it N earlier turns)" if self.history is None else ""
        console = Console(highlight=False)
        console.print(f"{self.run}: {size:,} parameters, a context of {context:,} tokens", style="bold", markup=False)
        console.print(f"It sees {sees}{why}. {HELP}; Ctrl-C stops an answer.", style="dim", markup=False)


def converse(talk: Conversation, prompt: str) -> int:
    """Answer line by line, to the end of the input; a `prompt` where a person is typing.

    Returns how many lines were not UTF-8: these are noted and have no answer.
    """
    if not prompt and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    wrong = 0
    if prompt and os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # arrows and earlier lines, for input()

            readline.parse_and_bind("set enable-bracketed-paste on")  # what is pasted is one text, with its line ends
    about = ""
    while True:
        try:
            line = (typed(prompt) if prompt else input("")).strip()
        except UnicodeDecodeError as error:
            note(f"the line is not UTF-8 (byte {error.object[error.start]:#04x}): convert it to UTF-8")
            continue
        except EOFError:
            show("\n" if prompt else "")
            return wrong
        except KeyboardInterrupt:
            if not prompt:
                raise
            show("\n")
            note("Ctrl-D or /quit leaves")
            continue
        try:
            check_text(line)
        except ValueError as error:
            note(str(error))
            wrong += 1
            continue
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return wrong
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
                answer(talk, line, about)
                about = ""
            except KeyboardInterrupt:
                if not prompt:
                    raise
                show("\n")
            except ValueError as error:
                if not prompt:
                    raise
                note(str(error))


def typed(prompt: str) -> str:
    """A line that is typed, with all further lines that came along with it, as they do when they are pasted."""
    lines = [input(prompt)]
    with contextlib.suppress(EOFError):
        while more_is_there():
            lines.append(input(""))
    return "\n".join(lines)


def more_is_there() -> bool:
    """Whether input is waiting; False on Windows, where a terminal cannot be asked."""
    try:
        return bool(select.select([sys.stdin], [], [], 0.05)[0])
    except (OSError, ValueError):
        return False


def answer(talk: Conversation, instruction: str, about: str = "") -> None:
    """Ask, and show the answer as it comes; what could not be seen or said is noted."""
    pieces = talk.ask({"instruction": instruction, "input": about})
    if talk.forgotten:
        turns = "turn is" if talk.forgotten == 1 else f"{talk.forgotten} turns are"
        note(f"the context is full: the oldest {turns} forgotten")
    try:
        for piece in pieces:
            show(piece)
    finally:
        pieces.close()  # type: ignore[attr-defined]  # so that what was said by a Ctrl-C is remembered
    show("\n")
    if talk.cut:
        note("the answer ends here because the context does")


def note(text: str) -> None:
    """A remark of the program's own, apart from what the model says."""
    Console(stderr=True).print(f"({text})", style="dim", markup=False, highlight=False, soft_wrap=True)
