"""`czsl-sac completion`: a script by which a shell completes commands and options."""

from dataclasses import dataclass
from typing import Literal

import tyro

from czsl_sac.cli.options import parse_options

# Options come from the help of what stands on the line, since method and run decide them. What
# does not start with a hyphen is left to the shell, which completes files.
_SCRIPT = """_czsl_sac() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words=""
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        words="{commands}"
    elif [[ $word == -* ]]; then
        words=$(czsl-sac "${{COMP_WORDS[@]:1:COMP_CWORD-1}}" --help 2>/dev/null |
            grep -oE -e '--[a-z][a-z0-9-]*' | sort -u)
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _czsl_sac czsl-sac
"""

_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True)
class CompletionOptions:
    """Print a script by which a shell completes commands and options.

    For bash: eval "$(czsl-sac completion bash)" in ~/.bashrc; for zsh likewise in ~/.zshrc.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Shell that reads the script."""


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(CompletionOptions, "completion", arguments)
    from czsl_sac.cli import _COMMANDS

    script = _SCRIPT.format(commands=" ".join(_COMMANDS))
    print((_ZSH if options.shell == "zsh" else "") + script, end="")
    return 0
