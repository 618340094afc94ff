"""An empty machine for loading configurations."""

import stat

import pytest

from supervisor.cli.load import Surroundings, load_config
from supervisor.config.errors import UsageError


class Machine:
    """A current directory, a data directory and an environment of the test's own; nothing of the real ones is read."""

    def __init__(self, path):
        self.cwd = path / "cwd"
        self.data = path / "data"
        self.home = path / "home"
        for directory in (self.cwd, self.data, self.home):
            directory.mkdir()
        self.environ = {"HOME": str(self.home)}
        self.forwards = False
        self.backend_flags = None
        self.asked = []

    def load(self, *argv, mode="native", data=True, **environ):
        """Loads a configuration; adds `mode` and a data directory unless told otherwise."""
        flags = [*argv]
        if data:
            flags.append(f"-dir={self.data}")
        if mode:
            flags.append(f"-mode={mode}")
        return load_config(flags, self.environ | environ, self.cwd, self._surroundings())

    def problems(self, *argv, **keywords):
        """The problems of a command line, as a list of sentences."""
        with pytest.raises(UsageError) as caught:
            self.load(*argv, **keywords)
        return list(caught.value.problems)

    def program(self, name="weed", body="exit 0"):
        """An executable file in a directory of its own."""
        path = self.cwd.parent / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def _surroundings(self):
        return Surroundings(
            detect_address=lambda: "192.0.2.7",
            table_forwards=lambda path: self.forwards,
            ask_backend_flags=self._ask if self.backend_flags is not None else None,
        )

    def _ask(self, program):
        self.asked.append(program)
        return self.backend_flags
