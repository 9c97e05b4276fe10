"""The people of the firm: names, and each one's habits in writing."""

from __future__ import annotations

from dataclasses import dataclass

from dice import Dice

DOMAIN = "lanternbay.example"
_FIRST = """
Ada Bela Cato Dora Edda Finn Greta Hugo Ines Jonas Kaja Leon Mira Nils Olga Piet Runa Sven Tilda Ugo Vera Wim
Xenia Yann Zora
""".split()
_LAST = """
Abbott Brandt Cole Dahl Ekman Falk Grieg Holm Iversen Jessen Krog Lund Moen Nygard Olsen Prins Quist Rask
Storm Thorsen Ulvang Vinter Wolff Yde Zander
""".split()
_ROLES = (
    "firmware",
    "accounts",
    "the workshop",
    "purchasing",
    "field service",
    "calibration",
    "shipping",
    "quality",
    "the front desk",
    "design",
)


@dataclass(frozen=True)
class Voice:
    """How somebody writes."""

    greetings: tuple[str, ...]
    closings: tuple[str, ...]
    phrases: tuple[str, ...]
    """Said before or behind a sentence; a leading comma stands behind one."""
    is_lower: bool = False
    """Never a capital letter."""
    signature: bool = False
    quotes: bool = True
    html: bool = False


_VOICES = (
    Voice(("Hi {to},", "Hello {to},"), ("Cheers,\n{me}",), ("As far as I can see", ", touch wood"), signature=True),
    Voice(("{to},",), ("{me}",), ("Short version:", ", that is all"), quotes=False),
    Voice(("Dear {to},",), ("With kind regards,\n{me}",), ("If I may add:", ", if you please"), signature=True),
    Voice(("hey {to}",), ("{me} x", "bye, {me}"), ("btw", ", lol"), is_lower=True),
    Voice(("Ahoy {to}!",), ("Fair winds,\n{me}",), ("Shiver me timbers:", ", aye", "Well now,")),
    Voice(("Good morning {to},", "Good day {to},"), ("Best wishes\n{me}",), ("To be precise:", ", to be exact")),
    Voice(("Moin {to},",), ("Gruß\n{me}",), ("Na ja,", ", oder?"), signature=True),
    Voice(("Hi all,", "Hi {to}, hi all,"), ("Thanks!\n{me}", "Thank you!\n{me}"), ("Great news!", ", really")),
    Voice(("Hello {to}",), ("-{me}",), ("FYI:", ", per my last mail"), quotes=False, html=True),
    Voice(("{to} -",), ("Over and out, {me}", "Out, {me}"), ("Copy that.", "Stand by:", ", over")),
)


@dataclass(frozen=True)
class Person:
    """Somebody who writes."""

    first: str
    last: str
    role: str
    voice: Voice

    @property
    def address(self) -> str:
        """Where mail reaches them."""
        return f"{self.first.lower()}@{DOMAIN}"

    @property
    def header(self) -> str:
        """As it stands in a From field."""
        return f"{self.first} {self.last} <{self.address}>"

    @property
    def signature(self) -> str:
        """What stands below some people's mails."""
        return f"-- \n{self.first} {self.last}\nLantern Bay Instruments, {self.role}\n" if self.voice.signature else ""

    def write(self, dice: Dice, to: str, sentences: list[str]) -> str:
        """A body in this person's voice: a greeting, what there is to say, a closing."""
        voice = self.voice
        said = list(sentences)
        if dice.chance(0.6):
            where = dice.below(len(said))
            said[where] = _with_phrase(said[where], dice.pick(voice.phrases))
        greeting = dice.pick(voice.greetings).format(to=to)
        closing = dice.pick(voice.closings).format(me=self.first)
        body = f"{greeting}\n\n{' '.join(said)}\n\n{closing}"
        return body.lower() if voice.is_lower else body


def _with_phrase(sentence: str, phrase: str) -> str:
    if phrase.startswith(","):
        return sentence[:-1] + phrase + ("" if phrase.endswith("?") else sentence[-1])
    return f"{phrase} {sentence}"


def people(seed: int) -> list[Person]:
    """Everybody in the firm: one for each voice."""
    dice = Dice("people", seed)
    first, last = dice.some(_FIRST, len(_VOICES)), dice.some(_LAST, len(_VOICES))
    return [
        Person(*names, role, voice)
        for *names, role, voice in zip(first, last, dice.some(_ROLES, len(_VOICES)), _VOICES, strict=True)
    ]
