"""What the firm writes about: each week opens a workstream of three projects, whose facts then change."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dice import Dice
from people import Person

_BIRDS = """
Heron Curlew Plover Dunlin Whimbrel Knot Turnstone Petrel Gannet Skua Tern Shag Eider Teal Wigeon Pintail Smew
Scoter Avocet Godwit Ruff Snipe Crake Coot Grebe Diver Shearwater Fulmar Kittiwake Puffin Razorbill Guillemot
Garganey Shoveler Pochard Merganser Goldeneye Redshank Greenshank Sandpiper Phalarope Lapwing Dotterel Stilt
Bittern Egret Spoonbill Ibis Osprey Harrier Kestrel Merlin Hobby Dipper Wagtail Pipit Wheatear Stonechat
Fieldfare Redwing
""".split()
_HOSTS = """
kelp dulse wrack laver carrageen samphire tangle oarweed
""".split()
_MONTHS = """
January February March April May June July August September October November December
""".split()
_ADJECTIVES = """
amber blunt brittle cobalt crooked damp dented double dusty faded flat frosty glossy greasy hollow humming
leaky loose mossy narrow noisy oval padded pale patched polished quiet rusty salty shallow silent slanted
spare speckled steep stiff striped sturdy tarnished tinted twisted uneven warped waxed worn woven
""".split()
_NOUNS = """
anchor antenna barrel battery beacon bearing bellows bolt bracket buoy cable capsule casing chain clamp cradle
crate dial drum fender filter flange float funnel gasket gauge grommet harness hatch hinge hull keel ladder
lantern lens logger magnet manifold mast meter modem mooring nozzle oar paddle pallet pennant piston pivot
plug pulley pump rail reel rivet rudder sail sensor shackle shaft sieve siren socket spindle spool spring
stencil strap switch tank thermostat tiller tripod valve vane washer wharf wheel winch wire yoke
""".split()
_EVENTS = (
    "the audit",
    "the storm",
    "the regatta",
    "the trade fair",
    "the fire drill",
    "the visit from the harbour office",
    "the spring tide",
    "the stocktaking",
    "the power cut",
    "the second trial",
    "the move to the new shed",
    "the delivery from the north",
    "the inspection",
    "the launch",
    "the training day",
    "the paint job",
    "the long weekend",
    "the customs check",
    "the night shift",
    "the crane test",
)
_STOCK = (
    "The {a} {n} came back from {e} without a scratch.",
    "We keep the {a} {n} next to the {m} until {e} is over.",
    "Nobody has seen the {a} {n} since {e}.",
    "The {n} and the {m} go into the {a} box.",
    "After {e} the {n} was {a} again.",
    "Please do not put the {a} {n} on the {m}.",
    "The {m} fits only if the {n} is {a}.",
    "I have ordered a second {n}, the {a} one, because of {e}.",
    "The customer wants the {n} to be {a} before {e}.",
    "There is a {a} {n} in the hall, and it belongs to the {m}.",
    "Once the {m} is {a}, the {n} can be taken out.",
    "Before {e} somebody must oil the {a} {n}.",
    "The drawing of the {n} shows a {a} {m}.",
    "Our {a} {n} was the talk of {e}.",
)
_STATED = {
    "version": ("{p} is at {v} now.", "The build of {p} that counts is {v}.", "We run {p} {v}."),
    "host": ("{p} lives on {v}.", "You find {p} on {v}.", "The machine for {p} is {v}."),
    "owner": ("{v} looks after {p}.", "Ask {v} about {p}.", "{p} belongs to {v}."),
    "due": ("{p} is due on {v}.", "The date for {p} is {v}.", "{p} has to be done by {v}."),
    "count": ("{p} takes {v} units.", "We need {v} units for {p}.", "The order for {p} is {v} units."),
}
_ASKED = {
    "version": ("Which version of {p} counts?", "What is the build of {p} now?"),
    "host": ("On which machine is {p}?", "Where do I find {p}?"),
    "owner": ("Who looks after {p}?", "Whom do I ask about {p}?"),
    "due": ("When is {p} due?", "What is the date for {p}?"),
    "count": ("How many units does {p} take?", "How many units do we need for {p}?"),
}
_SUBJECTS = {
    "version": ("{p}: which build", "{p} version"),
    "host": ("{p}: which machine", "where is {p}"),
    "owner": ("{p}: who does what", "whom to ask about {p}"),
    "due": ("{p}: the date", "{p} deadline"),
    "count": ("{p}: how many", "{p} order"),
}
KINDS = tuple(_STATED)
STOCK_SENTENCES = 24
PROJECTS_A_WEEK = 3
FACTS_A_PROJECT = 4


@dataclass(frozen=True)
class Project:
    """Something that people work on, and what is true of it."""

    name: str
    facts: dict[str, str]
    """Value by kind."""

    def stated(self, dice: Dice, kind: str) -> str:
        """A sentence that says a fact."""
        return dice.pick(_STATED[kind]).format(p=self.name, v=self.facts[kind])

    def asked(self, dice: Dice, kind: str) -> str:
        """A sentence that asks for it."""
        return dice.pick(_ASKED[kind]).format(p=self.name)

    def subject(self, dice: Dice, kind: str) -> str:
        """A subject under which it is asked for."""
        return dice.pick(_SUBJECTS[kind]).format(p=self.name)

    def changed(self, dice: Dice, kind: str, owners: list[Person]) -> Project:
        """The project with another value of one fact."""
        value = self.facts[kind]
        while value == self.facts[kind]:
            value = _value(dice, kind, owners)
        return replace(self, facts=self.facts | {kind: value})


@dataclass(frozen=True)
class Workstream:
    """What a week is about."""

    projects: tuple[Project, ...]
    sentences: tuple[str, ...]
    """What people keep saying about it."""


def workstreams(seed: int, number: int, owners: list[Person]) -> list[Workstream]:
    """One for each week. No two share a project's name."""
    dice = Dice("workstreams", seed)
    if number * PROJECTS_A_WEEK > len(_BIRDS):
        raise ValueError(f"names for {len(_BIRDS) // PROJECTS_A_WEEK} weeks, not {number}")
    names = dice.some(_BIRDS, number * PROJECTS_A_WEEK)
    found = []
    for week in range(number):
        own = names[week * PROJECTS_A_WEEK : (week + 1) * PROJECTS_A_WEEK]
        found.append(Workstream(tuple(_project(dice, name, owners) for name in own), _sentences(dice)))
    return found


def _project(dice: Dice, name: str, owners: list[Person]) -> Project:
    return Project(name, {kind: _value(dice, kind, owners) for kind in dice.some(KINDS, FACTS_A_PROJECT)})


def _value(dice: Dice, kind: str, owners: list[Person]) -> str:
    match kind:
        case "version":
            return f"{dice.between(1, 9)}.{dice.below(10)}.{dice.below(10)}"
        case "host":
            return f"{dice.pick(_HOSTS)}-{dice.between(1, 24):02d}"
        case "owner":
            return dice.pick(owners).first
        case "due":
            return f"{dice.between(1, 28)} {dice.pick(_MONTHS)}"
        case _:
            return str(dice.between(2, 98) * 5)


def _sentences(dice: Dice) -> tuple[str, ...]:
    nouns, adjectives, events = dice.some(_NOUNS, 16), dice.some(_ADJECTIVES, 10), dice.some(_EVENTS, 6)
    said: dict[str, None] = {}
    while len(said) < STOCK_SENTENCES:
        n, m = dice.some(nouns, 2)
        said[dice.pick(_STOCK).format(n=n, m=m, a=dice.pick(adjectives), e=dice.pick(events))] = None
    return tuple(said)
