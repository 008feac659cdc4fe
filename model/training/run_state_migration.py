"""Convert the state of a run of an earlier version to the current names of options."""

from __future__ import annotations

from typing import Any

#: Current names of options by earlier ones.
RENAMED = {
    "shares": "modality_dropout",
    "slow": "lr_multiplier",
    "begin": "init_from",
    "warmup": "warmup_epochs",
    "ramp": "curriculum",
    "smoothing": "label_smoothing",
    "no_class": "outlier_share",
}
#: Options that scmrl 0.1 did not have, as its runs were trained.
ADDED = {
    "attention": "spatial-temporal",
    "alignment": "True",
    "fusion": "add",
    "encoding": "direct",
    "select_by": "accuracy",
    "settle_norms": "0",
    "precision": "bfloat16",
    "auto_batch": "False",
    "easy_start": "False",
    "new_towers": "none",
    "outlier_share": "0.0",
    "splitting": "deep",
    "short_sequences": "True",
    "learning_rate_batch": "0",
    "learning_rate_floor": "0.0",
    "max_gradient_norm": "5.0",
}
#: Factor of `--slow STREAM` on the learning rate of that stream and of the classifier.
SLOW = 0.1


def convert(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a run's state file with current names; unchanged if it has them."""
    settings = content["settings"]
    converted = ADDED | {RENAMED.get(name, name): text for name, text in settings.items()}
    if "shares" not in settings:  # a run of a version after 0.1
        return {**content, "settings": converted}
    converted["modality_dropout"] = modality_dropout(settings["shares"])
    if settings.get("slow", "none") != "none":
        converted["lr_multiplier"] = lr_multiplier(settings["slow"].split(","))
    converted["data"] = settings["data"].replace("pictures and words", "contents")
    converted["task"] = "avdigits"  # the only task of 0.1
    groups = [
        {("lr_multiplier" if name == "pace" else name): value for name, value in group.items()}
        for group in content["optimizer"]["param_groups"]
    ]
    optimizer = {**content["optimizer"], "param_groups": groups}
    return {**content, "settings": converted, "optimizer": optimizer}


def modality_dropout(shares: str) -> str:
    """Return the `--modality-dropout` for the value of `--shares`: "both" is now "all"."""
    entries = shares.split(",")
    return ",".join("all=" + x[5:] if x.startswith("both=") else x for x in entries)


def lr_multiplier(slow: list[str]) -> str:
    """Return the `--lr-multiplier` for the values of `--slow STREAM`."""
    return ",".join(f"{name}={SLOW}" for name in [*slow, "head"])
