"""What the tasks' tests share: a warm process that starts command lines in a moment."""

from tests.reliability.runs import warm  # noqa: F401
