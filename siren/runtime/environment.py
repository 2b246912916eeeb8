"""The environment variables that Jittor reads: the user's and ours; the user's win."""

from __future__ import annotations

import json
import os
import re

from siren.runtime.problem import SettingProblem

# In this variable publish() stores, as JSON, {variable: [value before, value set]}, so that a
# second call and a child process can distinguish our settings from the user's.
RECORD = "SIREN_RUNTIME_SETTINGS"

# Jittor reads these with int(), or silently uses a wrong default.
_INTEGERS = {
    "log_v": "a level of detail, as 0 or 100",
    "log_silent": "0 or 1",
    "log_sync": "0 or 1",
    "conv_opt": "0 or 1",
    "device_id": "the number of a GPU, from 0",
}


def user_environment() -> dict[str, str]:
    """The environment as it would be without our settings."""
    user = dict(os.environ)
    user.pop(RECORD, None)
    for name, (before, value) in _record().items():
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
    for name in _record():
        os.environ.pop(name, None)
    os.environ.update(user)
    os.environ.update(settings)
    os.environ[RECORD] = json.dumps({name: [user.get(name), settings[name]] for name in settings})


def check_variables() -> None:
    """Raise RuntimeProblem if the user has set a variable that Jittor or OpenMP cannot read."""
    user = user_environment()
    for name, meaning in _INTEGERS.items():
        if name in user and not re.fullmatch(r"0|-?[1-9][0-9]{0,8}", user[name]):
            raise SettingProblem(
                f"The variable {name} is {user[name]!r}, but must be {meaning}; correct it or "
                "unset it."
            )
    threads = user.get("OMP_NUM_THREADS", "1")  # OpenMP takes a list, one number for each level
    if not re.fullmatch(r"\s*[1-9][0-9]{0,3}\s*(,\s*[1-9][0-9]{0,3}\s*)*", threads):
        raise SettingProblem(
            f"The variable OMP_NUM_THREADS is {threads!r}, but must be a number of threads from 1 "
            "to 9999; correct it or unset it."
        )


def _record() -> dict[str, list]:
    """What publish() has stored; empty if the variable holds anything else."""
    try:
        record = json.loads(os.environ.get(RECORD, "{}"))
        return {
            name: [before, value]
            for name, (before, value) in record.items()
            if isinstance(value, str) and (before is None or isinstance(before, str))
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
