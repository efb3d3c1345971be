"""What is wrong with a folder of data: the problems found, told all at once, and the way to skip them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_PROBLEMS_SHOWN = 50
_MAX_SKIPS_SHOWN = 200
# What stands in a YAML list without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class Problem:
    """One fault of one model: its kind (for counting), the file or folder, and the reason in words.

    `model` is `synset/model` (or CLASS/FILE), or the category alone where all of it is concerned.
    """

    model: str
    kind: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DataProblems(ValueError):
    """Everything that is missing or broken in a data set.

    The message shows the first problems, the counts by kind and a line for `data.skip_models`; `problems` has all
    of them, and `skip_line` is the whole line.
    """

    def __init__(self, problems: Iterable[Problem], skipped: Iterable[str] = (), noun: str = "model") -> None:
        """Keep the problems of models (`noun`); `skipped` are those that `data.skip_models` names already."""
        self.problems = tuple(problems)
        self._noun = noun
        self.models = tuple(sorted({problem.model for problem in self.problems if "/" in problem.model}))
        self._skips = sorted({*self.models, *skipped})
        self.skip_line = _skip_line(self._skips)
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type["DataProblems"], tuple[tuple[Problem, ...], tuple[str, ...], str]]:
        # An exception is otherwise rebuilt from its message alone when another process is told of it.
        return DataProblems, (self.problems, tuple(self._skips), self._noun)

    def _message(self) -> str:
        kinds = Counter(problem.kind for problem in self.problems)
        counts = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
        lines = [f"the data have {len(self.problems)} problem(s) in {len(self.models)} {self._noun}(s): {counts}"]
        lines += [f"  {problem}" for problem in self.problems[:_MAX_PROBLEMS_SHOWN]]
        if len(self.problems) > _MAX_PROBLEMS_SHOWN:
            lines.append(f"  ... and {len(self.problems) - _MAX_PROBLEMS_SHOWN} more")
        if any(problem.model not in self.models for problem in self.problems):
            lines.append("Add the missing folders, or name the categories that are there in data.categories.")
        if len(self._skips) > _MAX_SKIPS_SHOWN:
            lines.append(
                f"That is too much to skip by name ({len(self._skips)} {self._noun}s): complete the data, or choose "
                "data.categories and data.split by what is there."
            )
        elif self.models:
            lines += [f"Mend these files, or leave the {self._noun}s out with this line under data:"]
            lines += [f"  {self.skip_line}"]
        return "\n".join(lines)


def _skip_line(models: Iterable[str]) -> str:
    quoted = [name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in models]
    return f"skip_models: [{', '.join(quoted)}]"
