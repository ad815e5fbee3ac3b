"""Which model each stage starts from and makes: as places of a drawing, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, GAP, ROW = 124, 46, 28, 84  # of a box, between boxes, from lane to lane; pixels
_REWARD = "the reward model of an earlier stage"


def graph_of(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"boxes": [{"x", "y", "name", "state", "under"}], "edges": [[x1, y1, x2, y2]], "width", "height", "box"}.

    Policies stand in the upper lane; what is made beside them (a reward model, a classifier) in the lower one.
    """
    boxes: list[dict[str, Any]] = [{"x": 2, "y": 2, "name": "", "state": "", "under": ""}]
    edges: list[list[int]] = []
    policy, reward = boxes[0], None
    for place, stage in enumerate(stages, start=1):
        beside = any(role != "policy" for role in stage["models"] or _promised(stage))
        box = {
            "x": 2 + place * (WIDTH + GAP),
            "y": 2 + beside * ROW,
            "name": stage["name"],
            "state": stage["state"],
            "under": stage["type"],
        }
        boxes.append(box)
        if stage["state"] == "waiting":  # nobody knows yet what it will start from
            continue
        edges.append(_edge(policy, box))
        if reward is not None and any(setting["value"] == _REWARD for setting in stage["settings"]):
            edges.append(_edge(reward, box))
        if not beside:
            policy = box
        elif stage["type"] == "RewardModel":
            reward = box
    lanes = 2 if any(box["y"] > ROW for box in boxes) else 1
    return {
        "boxes": boxes,
        "box": (WIDTH, HEIGHT),
        "edges": edges,
        "width": boxes[-1]["x"] + WIDTH + 2,
        "height": HEIGHT + 4 + (lanes - 1) * ROW,
    }


def _promised(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a stage that has not made its model yet."""
    return ("other",) if stage["type"] in ("RewardModel", "Classifier", "TokenClassifier") else ("policy",)


def _edge(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[int]:
    """From the right of a box to the left of another, or to its upper or lower side where the lane changes."""
    x1, y1 = one["x"] + WIDTH, one["y"] + HEIGHT // 2
    return [x1, y1, other["x"], other["y"] + HEIGHT // 2]


def lineage(report: Mapping[str, Any], stage: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the model of a finished stage is made of, in order: [{"of": stage, or "" of the base, "print"}]."""
    owners = {one["folder"]: one["name"] for one in report["stages"] if one["folder"]}

    def owner(folder: str) -> str:
        return next(
            (name for path, name in owners.items() if folder.startswith(f"run:{path}/")), "another run"
        )

    out = []
    for model in stage["models"].values():
        base = model["base"]
        out.append(
            {"of": owner(base) if base.startswith("run:") else "", "print": model["base_fingerprint"][:8]}
        )
        out += [{"of": owner(one["folder"]), "print": one["digest"][:8]} for one in model["adapters"]]
    return out
