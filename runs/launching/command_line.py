"""The command line that starts the same run as the launch form."""

import shlex

from runs.kinds import Config, Inputs, RunKind, options_of

PROGRAM = "python manage.py"


def command_line(
    kind: RunKind, config: Config, inputs: Inputs, *, preset: str = "", title: str = ""
) -> str:
    """Return the command as one line for a shell, or "" if the kind has no command.

    `config` is a complete config. Only settings that differ from the preset are part of the line.
    """
    words = kind.command(inputs, config)
    if not words:
        return ""
    words = [*words, *options_of(preset=preset)]
    for name, text in assignments(kind, config, preset).items():
        words += ["--set", f"{name}={text}"]
    return f"{PROGRAM} {shlex.join([*words, *options_of(title=title)])}"


def assignments(kind: RunKind, config: Config, preset: str = "") -> dict[str, str]:
    """Return the values for --set, as text, of the settings that differ from the preset."""
    separate = kind.decided | kind.arguments
    changes = kind.config_class.changes(config, preset)
    required = [option for option in kind.config_class.options() if option.required]
    values = [(option, config[option.name]) for option in required]
    values += [(change.option, change.after) for change in changes]
    return {
        option.name: option.as_text(value)
        for option, value in values
        if option.name not in separate
    }
