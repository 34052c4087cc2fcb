"""The one error of the readers: a file, what is wrong with it, what to do."""

from __future__ import annotations

from pathlib import Path


class ReadError(ValueError):
    """A file cannot be read. `path`: the file; `sentence`: what is wrong and what to do, the file's name included."""

    def __init__(self, path: str | Path, problem: str) -> None:
        """problem: the rest of the sentence after the file's name, such as "is empty; copy it again"."""
        self.path = Path(path)
        text = " ".join(problem.split())  # messages of libraries come with line breaks
        self.sentence = text if self.path.name in text else f"{self.path.name}: {text}"
        super().__init__(self.sentence)

    def __reduce__(self) -> tuple[type[ReadError], tuple[Path, str]]:
        return (ReadError, (self.path, self.sentence))


class ReadWarning(UserWarning):
    """Some files of a folder could not be read and were left out."""
