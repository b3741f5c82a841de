"""A group of commands that imports a command's module only when the command is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

Entry = tuple[str, str]  # a module below the group's package; the first line of its command's help


class LazyGroup(click.Group):
    """Commands in sections, imported on use: torch alone takes seconds.

    Args:
      package: the package in which the modules lie.
      entries: module and summary by command name; the module holds a click command called `command`.
      sections: heading of each folder of modules; commands of other folders are listed under "Commands".
    """

    def __init__(
        self,
        *args: Any,
        package: str,
        entries: Mapping[str, Entry],
        sections: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.package, self.entries, self.sections = package, entries, sections or {}

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context | None, name: str) -> click.Command | None:
        if name not in self.entries:
            return None
        module = importlib.import_module(f".{self.entries[name][0]}", self.package)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.entries))
        for name, (module, summary) in self.entries.items():
            folder = module.rpartition(".")[0]
            heading = self.sections.get(folder, "Commands")
            rows.setdefault(heading, []).append((name.ljust(width), summary))
        for heading, commands in rows.items():
            with formatter.section(heading):
                formatter.write_dl(commands)
