"""Instructions to a reader ("Use your hand to hold the pot") as the wearer would tell them ("I use my hand …")."""

from __future__ import annotations

import re

_VERBS = (
    "add adjust aspirate assemble attach beat begin blanch boil break bring change chop clean close collect continue "
    "cook cover crack crush cut dig discard divide draw extract fill flip fold fry gather go grab grasp heat hold "
    "ignite increase inject insert install keep knead leave lift light lower marinate measure mix moisten move open "
    "pass peel pick pinch place pour preheat prepare press pull push put raise reach reduce reheat remove repeat rinse "
    "roll rotate rub scatter scoop scrape screw separate serve set shake slice soak sprinkle squeeze stack start stew "
    "stir stir-fry sterilize stop support swirl switch take tap tear throw tilt toss transfer turn twist uncover use "
    "wait wash weigh wipe"
)
"""Verbs with which instructions begin in kitchens and laboratories."""
_ACTION = rf"(?:(?:{_VERBS.replace(' ', '|')})\b(?!-))"
_MANNER = r"(?:(?:repeatedly|continuously|gently|quickly|slowly|carefully|evenly|immediately|repetitively) )?"
_BEGINS = re.compile(rf"(?P<verb>{_MANNER}{_ACTION})", re.IGNORECASE)
_LEADS_IN = re.compile(
    r"(?P<lead>(?:then|next|now|first|finally|lastly|afterwards?),? "
    r"|(?:with|using|in|on|after|before|once|when|while|if|holding)\b[^,]*, )"
    rf"(?P<verb>{_MANNER}{_ACTION})",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PRONOUNS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\byou(?: are|['’]re)\b", "I am"),
        (r"\bare you\b", "am I"),
        (r"\byourself\b", "myself"),
        (r"\byours\b", "mine"),
        (r"\byour\b", "my"),
        (r"\b(of|to|for|with|from|at|by|near|behind|towards?|beside) you\b", r"\1 me"),
        (r"\byou\b(?=$|[.,;!?])", "me"),
        (r"\byou\b", "I"),
    )
]


def first_person(text: str) -> str:
    """Returns a caption told by the wearer: pronouns changed, and "I" put before a sentence that begins with a verb.

    Sentences of another form ("The right hand presses the button.") keep it. Not stated in the paper: it is what leads
    from the captions of EgoExoLearn to the example of Exo2Ego Figure 3.
    """
    return " ".join(_sentence(sentence) for sentence in _SENTENCE_END.split(text))


def _sentence(text: str) -> str:
    for pattern, replacement in _PRONOUNS:
        text = pattern.sub(replacement, text)
    begins = _BEGINS.match(text)
    if begins:
        return f"I {text[0].lower()}{text[1:]}"
    leads_in = _LEADS_IN.match(text)
    if leads_in:
        return f"{leads_in['lead']}I {text[leads_in.end('lead') :]}"
    return text[:1].upper() + text[1:]
