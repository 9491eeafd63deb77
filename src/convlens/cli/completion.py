"""``convlens completion bash|zsh``: a script that completes commands, words, groups and keys.

The script calls ``convlens __complete WORD…``, which prints one candidate per line.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator

from convlens.cli.words import Keys, Words, extract_words
from convlens.core.errors import UserError, nearest

BASH = r"""# switch on with: source <(convlens completion bash)
_convlens() {
    local line=${COMP_LINE:0:COMP_POINT} current candidate
    local -a typed
    read -ra typed <<< "$line"
    [[ $line == *[[:space:]] ]] && typed+=("")
    current=${typed[${#typed[@]}-1]}
    COMPREPLY=()
    while IFS= read -r candidate; do
        # bash completes what follows "=" as a word by itself
        if [[ $COMP_WORDBREAKS == *=* && $current == *=* ]]; then candidate=${candidate#*=}; fi
        COMPREPLY+=("$candidate")
    done < <("${typed[0]/#\~/$HOME}" __complete "${typed[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}
complete -o default -F _convlens convlens
"""
ZSH = r"""#compdef convlens
# switch on with: source <(convlens completion zsh)
_convlens() {
    local -a candidates
    candidates=(${(f)"$(${~words[1]} __complete "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"})
    if (( ! ${#candidates} )); then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)candidates:#*[=.]}
    compadd -- ${candidates:#*[=.]}
    return 0
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit && compinit; fi
compdef _convlens convlens
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
COMPLETE = "__complete"  # the hidden command that the scripts call


def print_script(words: list[str]) -> int:
    """Print the script of a shell.

    Raises:
        UserError: no shell is named, or there is no script for it.
    """
    if len(words) != 1:
        raise UserError("completion needs a shell: `convlens completion bash` or zsh")
    if words[0] not in SCRIPTS:
        raise UserError(f"{words[0]}: completion knows bash and zsh; {nearest(words[0], SCRIPTS)}")
    print(SCRIPTS[words[0]], end="")
    return 0


def print_candidates(words: list[str], commands: Iterable[str]) -> int:
    """Print the completions of the last word, one per line."""
    candidates = list(find_candidates(words, commands))
    if candidates:
        print(*candidates, sep="\n")
    return 0


def find_candidates(words: list[str], commands: Iterable[str]) -> Iterator[str]:
    """Yield the completions of the last word, which may be empty.

    Args:
        words: the command and the words typed after it so far.
        commands: all commands.
    """
    *before, current = words or [""]
    commands = list(commands)
    if not before or before == ["help"]:
        known = commands if before else [*commands, "help", "completion"]
        yield from _complete_word(current, known)
    elif before == ["completion"]:
        yield from _complete_word(current, SCRIPTS)
    elif before[0] in commands:
        yield from _complete_word(current, _accepted_words(before[0], before[1:], current))


def _complete_word(current: str, known: Iterable[str]) -> list[str]:
    """Return the known words that start with the current one, up to their next dot or ``=``."""
    names = [word for word in known if word.startswith(current)]
    if "=" in current:
        return list(dict.fromkeys(names))
    parts = []
    for name in names:
        key, equals, _ = name.partition("=")
        dot = key.find(".", len(current))
        parts.append(f"{key[: dot + 1]}" if dot >= 0 else f"{key}{equals}")
    return list(dict.fromkeys(parts))


def _accepted_words(command: str, before: list[str], current: str) -> Iterator[str]:
    """Yield the words that a command accepts, with their values if these are few."""
    module = importlib.import_module(f"convlens.cli.{command.replace('-', '_')}")
    table: Words = module.WORDS
    keys: Keys | None = getattr(module, "KEYS", None)
    if current.startswith("-"):
        yield from ("--help", "--version", *(["--cfg"] if keys and keys.is_composed else []))
        return
    for name, word in table.items():
        for each in (name, *word.synonyms):
            yield from (f"{each}={value}" for value in word.values or ("",))
    if keys:
        yield from _config_words(keys, table, before)


def _config_words(keys: Keys, table: Words, before: list[str]) -> Iterator[str]:
    from convlens.config.compose import compose
    from convlens.config.describe import describe_groups
    from convlens.config.folder import list_groups, take_folder

    try:
        folder, _ = take_folder(before)
        config = compose(extract_words(before, table)[1] if keys.is_composed else [])
    except UserError:  # an earlier word is unfinished or wrong
        folder, config = None, compose([])
    choices = list_groups(folder)
    for group in describe_groups(config, choices):
        accepted = [key for key in group.keys if keys.accepts(key.name)]
        if keys.accepts_group(group.name):
            names = ("experiment", "exp") if group.name == "experiment" else (group.name,)
            yield from (f"{name}={choice}" for name in names for choice in group.choices)
        for key in accepted:
            values = ("true", "false") if key.kind == "true or false" else ("",)
            yield from (f"{key.name}={value}" for value in values)
