"""What is said in a week: threads of mails as people would write them, before they become RFC 822."""

from __future__ import annotations

from dataclasses import dataclass, field

from dice import Dice
from people import Person
from projects import Project, Workstream

_CHAT = (
    (
        "lunch",
        ("Shall we have lunch at the pier?", "The soup is fish again."),
        ("Count me in.", "Not today."),
    ),
    ("coffee", ("The coffee machine is out of order.", "Who has the key to the kitchen?"), ("Try the other plug.",)),
    (
        "parking",
        ("There is a van in front of the gate.", "The gate stays shut."),
        ("It is mine, I move it.", "Not mine."),
    ),
    ("cake", ("There is cake in the kitchen.", "It is for all of us."), ("Happy birthday!", "Save me a piece.")),
    (
        "away",
        ("I am away until Monday.", "If it burns, please call the front desk."),
        ("Have a good trip!", "Noted."),
    ),
)
_THANKS = ("Thanks, that helps.", "Good, I will tell the others.", "Noted.", "That is news to me.", "All clear then.")
_OPENERS = ("I need this for the report.", "The customer has asked.", "I could not find it in the list.")
_NEWS = ("There is a change:", "Please take note:", "As of today:")


@dataclass
class Post:
    """One mail of a thread: who wrote what, and to which other one."""

    author: Person
    text: str
    parent: int | None = None
    """Index of the mail that it answers."""


@dataclass
class Thread:
    """Mails under one subject."""

    subject: str
    posts: list[Post] = field(default_factory=list)


class Week:
    """Makes the threads of one week."""

    def __init__(self, dice: Dice, people: list[Person], stream: Workstream, earlier: list[Project]) -> None:
        self._dice, self._people, self._stream = dice, people, stream
        self._earlier = earlier

    def threads(self, number: int, *, is_quiet: bool = False) -> list[Thread]:
        """That many; in a quiet week nobody says anything of work."""
        return [self._chat() if is_quiet or self._dice.chance(0.06) else self._of_work() for _ in range(number)]

    def _of_work(self) -> Thread:
        dice = self._dice
        if self._earlier and dice.chance(0.08):
            return self._news(dice.pick(self._earlier))
        project = dice.pick(self._stream.projects)
        return self._question(project) if dice.chance(0.6) else self._report(project)

    def _question(self, project: Project) -> Thread:
        """Somebody asks for a fact, somebody knows it; there may be talk behind that."""
        dice = self._dice
        kind = dice.pick(sorted(project.facts))
        asker, knower, *others = dice.some(self._people, 5)
        thread = Thread(project.subject(dice, kind))
        self._add(thread, asker, [dice.pick(_OPENERS), project.asked(dice, kind), self._stock()])
        self._add(thread, knower, [project.stated(dice, kind), self._stock()])
        if dice.chance(0.4):
            self._add(thread, asker, [dice.pick(_THANKS), self._stock()])
        if dice.chance(0.3):
            self._add(thread, others[0], [self._fact(project), self._stock()])
        return thread

    def _report(self, project: Project) -> Thread:
        """Somebody tells how a project stands, and others join in."""
        dice = self._dice
        writer, *others = dice.some(self._people, 4)
        thread = Thread(f"{project.name}: how it stands")
        self._add(thread, writer, [self._fact(project), self._stock(), self._fact(project)])
        for other in others[: dice.below(4)]:
            self._add(thread, other, [self._stock(), self._fact(project)])
        return thread

    def _news(self, project: Project) -> Thread:
        """A fact of an older project, as it is now."""
        dice = self._dice
        kind = dice.pick(sorted(project.facts))
        writer, other = dice.some(self._people, 2)
        thread = Thread(f"{project.name}: changed")
        self._add(thread, writer, [dice.pick(_NEWS), project.stated(dice, kind)])
        self._add(thread, other, [dice.pick(_THANKS)])
        return thread

    def _chat(self) -> Thread:
        dice = self._dice
        subject, openers, answers = dice.pick(_CHAT)
        writer, *others = dice.some(self._people, 3)
        thread = Thread(subject)
        self._add(thread, writer, dice.some(openers, dice.between(1, 2)))
        for other in others[: dice.below(3)]:
            self._add(thread, other, [dice.pick(answers)])
        return thread

    def _add(self, thread: Thread, author: Person, sentences: list[str]) -> None:
        parent = len(thread.posts) - 1
        if parent > 0 and self._dice.chance(0.25):
            parent = self._dice.below(parent)
        to = thread.posts[parent].author.first if thread.posts else self._dice.pick(self._people).first
        thread.posts.append(Post(author, author.write(self._dice, to, sentences), parent if parent >= 0 else None))

    def _stock(self) -> str:
        return self._dice.pick(self._stream.sentences)

    def _fact(self, project: Project) -> str:
        return project.stated(self._dice, self._dice.pick(sorted(project.facts)))
