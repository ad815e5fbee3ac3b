"""German sentences of the shop in English."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, evenly

# (a German noun as the subject, as the object, in English); a held-out sentence has words that other sentences taught.
NOUNS = [
    ("die Kette", "die Kette", "chain"),
    ("die Bremse", "die Bremse", "brake"),
    ("die Klingel", "die Klingel", "bell"),
    ("die Lampe", "die Lampe", "lamp"),
    ("die Pumpe", "die Pumpe", "pump"),
    ("die Tasche", "die Tasche", "bag"),
    ("der Sattel", "den Sattel", "saddle"),
    ("der Reifen", "den Reifen", "tyre"),
    ("der Lenker", "den Lenker", "handlebar"),
    ("der Helm", "den Helm", "helmet"),
    ("der Korb", "den Korb", "basket"),
    ("der Schlüssel", "den Schlüssel", "key"),
    ("der Anhänger", "den Anhänger", "trailer"),
    ("das Fahrrad", "das Fahrrad", "bicycle"),
    ("das Schloss", "das Schloss", "lock"),
    ("das Pedal", "das Pedal", "pedal"),
    ("das Werkzeug", "das Werkzeug", "tool"),
    ("das Vorderrad", "das Vorderrad", "front wheel"),
]
DAYS = [
    ("Montag", "Monday"),
    ("Dienstag", "Tuesday"),
    ("Mittwoch", "Wednesday"),
    ("Donnerstag", "Thursday"),
    ("Freitag", "Friday"),
    ("Samstag", "Saturday"),
    ("Sonntag", "Sunday"),
]
NAMES = ["Maud", "Ines", "Joss", "Pip", "Tobin", "Edda"]
TRANSLATIONS: Mapping[str, Sequence[tuple[str, str]]] = {
    "translation": [
        ("{Subject} ist kaputt.", "The {noun} is broken."),
        ("{Subject} ist schon fertig.", "The {noun} is already finished."),
        ("{Subject} ist sehr teuer.", "The {noun} is very expensive."),
        ("{Subject} kommt am {tag}.", "The {noun} comes on {day}."),
        ("Ich brauche {object} am {tag}.", "I need the {noun} on {day}."),
        ("Ich suche {object}.", "I am looking for the {noun}."),
        ("Haben Sie {object} gefunden?", "Have you found the {noun}?"),
        ("Wir haben {object} repariert.", "We have repaired the {noun}."),
        ("Wir haben am {tag} geschlossen.", "We are closed on {day}."),
        ("Können Sie {object} reparieren?", "Can you repair the {noun}?"),
        ("{name} hat {object} bezahlt.", "{name} has paid for the {noun}."),
        ("{name} kommt am {tag} in die Werkstatt.", "{name} comes to the workshop on {day}."),
        ("{name} möchte {object} verkaufen.", "{name} would like to sell the {noun}."),
        ("Bitte bringen Sie {object} am {tag}.", "Please bring the {noun} on {day}."),
        ("Bitte fragen Sie {name}.", "Please ask {name}."),
        ("Wo ist {subject}?", "Where is the {noun}?"),
        ("Wann ist {subject} fertig?", "When is the {noun} finished?"),
        ("Wie teuer ist {subject}?", "How expensive is the {noun}?"),
        ("Der Kunde hat {object} verloren.", "The customer has lost the {noun}."),
        ("Der Kunde wartet seit {tag}.", "The customer has been waiting since {day}."),
        ("Am {tag} sind wir nicht da.", "On {day} we are not there."),
        ("{name} hat {object} nicht gesehen.", "{name} has not seen the {noun}."),
        ("{name} braucht {object}.", "{name} needs the {noun}."),
        ("Ich kann {object} nicht bezahlen.", "I cannot pay for the {noun}."),
        ("Ich komme am {tag} und bringe {object}.", "I come on {day} and bring the {noun}."),
    ],
    "translation_heldout": [
        ("Am {tag} ist {subject} fertig.", "On {day} the {noun} is finished."),
        ("Wir haben {object} nicht gefunden.", "We have not found the {noun}."),
        ("Ich möchte {object} bezahlen.", "I would like to pay for the {noun}."),
        ("Bitte reparieren Sie {object}.", "Please repair the {noun}."),
        ("{name} hat am {tag} {object} verloren.", "{name} lost the {noun} on {day}."),
        ("Wo haben Sie {object} gesehen?", "Where have you seen the {noun}?"),
        ("{Subject} ist nicht teuer.", "The {noun} is not expensive."),
        ("Der Kunde kommt am {tag} und braucht {object}.", "The customer comes on {day} and needs the {noun}."),
    ],
}  # fmt: skip


def translation(name: str, count: int) -> list[Row]:
    """Sentences in both languages, no two alike."""
    draw, rows = random.Random(name), dict[str, str]()
    for german, english in evenly(TRANSLATIONS[name], 4 * count, draw):
        (subject, thing, noun), (tag, day) = draw.choice(NOUNS), draw.choice(DAYS)
        words = {"subject": subject, "object": thing, "noun": noun, "tag": tag, "day": day}
        words["Subject"] = subject[0].upper() + subject[1:]
        if len(rows) < count:
            someone = draw.choice(NAMES)
            rows[german.format(name=someone, **words)] = english.format(name=someone, **words)
    return [{"translation": {"German": german, "English": english}} for german, english in rows.items()]
