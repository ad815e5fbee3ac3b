"""`posttrain doctor`: what this machine has, what will be slow, what is missing."""

from __future__ import annotations

from dataclasses import asdict

import typer

from posttrain.commands.output import AsJson, print_json


def doctor(json: AsJson = False) -> None:
    """Print versions, hardware, what will be slow here, and what is not installed.

    Exit code 0: posttrain can work here. 1: a package that it needs is missing or has another version.
    """
    from posttrain.diagnosis import diagnose

    found = diagnose()
    if json:
        print_json([asdict(one) for one in found])
    else:
        for topic in dict.fromkeys(one.topic for one in found):
            print(f"{topic}:")
            for one in found:
                if one.topic == topic:
                    print(f"  {one.name:24}{one.value}{'   <- needs a change' if one.broken else ''}")
        for topic in ("slow", "missing"):
            if all(one.topic != topic for one in found):
                print(f"{topic}: nothing")
    raise typer.Exit(1 if any(one.broken for one in found) else 0)
