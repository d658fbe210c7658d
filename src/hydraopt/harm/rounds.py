"""Progress of a search by harm: rounds of coding passes and measurements, as one whole."""

from __future__ import annotations

from dataclasses import dataclass

from hydraopt.progress import Progress

__all__ = ["Rounds"]


@dataclass
class Rounds:
    """Rounds of a search, of which there are ``most`` or fewer.

    known: whether all ``most`` rounds take place. before: rounds that are done.
    """

    progress: Progress
    most: int
    known: bool
    before: int = 0

    def report(self, stage: str, done: int, total: int) -> None:
        """Report a stage of the present round as a part of the whole. A Progress.

        The count is of whole rounds, so that the time left is told from rounds with everything in
        them: nothing before the first is done, and never of a pass alone.
        """
        self._say(min(self.before + 1, self.most), f"{stage} {done} of {total}")

    def end_round(self) -> None:
        """Count the present round as done, and report it."""
        self.before += 1
        self._say(min(self.before, self.most), "done")

    def _say(self, here: int, part: str) -> None:
        rounds = f"{'' if self.known else 'at most '}{self.most}"
        stage = f"measuring harm, round {here} of {rounds}, {part}"
        self.progress(stage, min(self.before, self.most), self.most)
