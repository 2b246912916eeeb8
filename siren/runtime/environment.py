"""The environment variables that Jittor reads: the user's and ours; the user's win."""

from __future__ import annotations

import json
import os

# In this variable publish() stores, as JSON, {variable: [value before, value set]}, so that a
# second call and a child process can distinguish our settings from the user's.
RECORD = "SIREN_RUNTIME_SETTINGS"


def user_environment() -> dict[str, str]:
    """The environment as it would be without our settings."""
    user = dict(os.environ)
    user.pop(RECORD, None)
    for name, (before, value) in _published().items():
        if user.get(name) == value:
            del user[name]
            if before is not None:
                user[name] = before
    return user


def setting(name: str) -> str:
    """The value of a variable, the user's or ours; empty if there is none."""
    return os.environ.get(name, "")


def publish(settings: dict[str, str]) -> None:
    """Set these variables instead of our earlier ones, and record what they replace."""
    user = user_environment()
    for name in _published():
        os.environ.pop(name, None)
    os.environ.update(user)
    os.environ.update(settings)
    os.environ[RECORD] = json.dumps({name: [user.get(name), settings[name]] for name in settings})


def _published() -> dict[str, list]:
    """What publish() has stored."""
    return json.loads(os.environ.get(RECORD, "{}"))
