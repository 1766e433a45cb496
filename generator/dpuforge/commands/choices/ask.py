"""The interview: an answer comes from its option or a person, is judged at once, and asked again where it is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from dpuforge.commands.choices.answers import Answers, find_problems
from dpuforge.commands.screen import print_message
from dpuforge.errors import UsageError, UserError

Change = Callable[[Answers, str], Answers]


def can_ask() -> bool:
    """Say whether a person sits at a terminal that questions and answers go through."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@dataclass(frozen=True)
class Question:
    """One question: its option, words, default ("" where there is none), and what an answer changes.

    keys are those of the spec that the answer decides: what the loader says of them is what is wrong with it.
    show prints the choices; with True all of them.
    """

    option: str
    words: str
    default: str
    change: Change
    keys: tuple[str, ...] = ()
    show: Callable[[bool], None] = lambda every: None


@dataclass
class Interview:
    """The answers so far, and what was wrong where nobody can be asked again."""

    path: Path
    answers: Answers
    asking: bool
    faults: list[UsageError] = field(default_factory=list)

    def settle(self, question: Question, given: str | None) -> None:
        """Take one answer: the option's, or a person's; without a person the default."""
        if given is None and not self.asking and not question.default:
            self.faults.append(UsageError(f"--{question.option} is missing", "no terminal to ask on: give the option"))
            return
        if given is None and self.asking:
            question.show(False)
        answer = given
        while answer is None or not self._accept(question, answer):
            if not self.asking and answer is not None:
                return
            answer = self._ask(question) if self.asking else question.default

    def _ask(self, question: Question) -> str | None:
        text: str = typer.prompt(question.words, default=question.default or None)
        if text.strip() == "?":
            question.show(True)
            return None
        return text.strip()

    def _accept(self, question: Question, answer: str) -> bool:
        try:
            changed = question.change(self.answers, answer)
            self._judge(changed, question.keys)
        except UserError as error:
            if self.asking:
                print_message(f"  {error.message}" + (f"\n  help: {error.remedy}" if error.remedy else ""))
            else:
                self.faults.append(UsageError(f"--{question.option}: {error.message}", error.remedy))
            return False
        self.answers = changed
        return True

    def _judge(self, answers: Answers, keys: Sequence[str]) -> None:
        """Raise UsageError with the first mistake that the loader finds at the keys."""
        for problem in find_problems(self.path, answers):
            if problem.severity == "error" and problem.field.startswith(tuple(keys)):
                raise UsageError(problem.message, problem.help)

    def refuse(self) -> None:
        """Raise everything that was wrong at once."""
        if self.faults:
            raise UsageError("\nerror: ".join(str(fault) for fault in self.faults))

    def confirm(self, words: str) -> bool:
        """Ask for a yes or a no; without a person it is yes: the option was given on purpose."""
        return typer.confirm(words, default=False) if self.asking else True


def pick(answer: str, names: Sequence[str]) -> str:
    """Return the choice that a number of the list, or a name in any case, stands for; other text as it is."""
    if answer.isascii() and answer.isdigit() and 0 < int(answer) <= len(names):
        return names[int(answer) - 1]
    return next((name for name in names if name.lower() == answer.lower()), answer)
